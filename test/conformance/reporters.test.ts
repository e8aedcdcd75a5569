import { DOMParser } from '@xmldom/xmldom';
import fc from 'fast-check';
import { Parser } from 'tap-parser';
import { describe, expect, it } from 'vitest';
import {
  type Check,
  type CheckResult,
  type ConformanceReport,
  checkGroups,
  junitXml,
  reportJson,
  tapFooter,
  tapHeader,
  tapLine,
  type Verdict,
} from '../../src/conformance/index.js';

const VERDICTS: readonly Verdict[] = ['passed', 'failed', 'not run', 'error'];

/**
 * One line of any text, as the runner leaves it, among it what means something to TAP, YAML and XML. No brace at its end: with that the parser
 * begins a subtest, by a dialect of its own.
 */
const line = fc
  .string({
    unit: fc.oneof(
      fc.constantFrom('#', '\\', '"', "'", '<', '>', '&', ']]>', ' # SKIP ', ':', '- ', '%', '📄', 'é'),
      fc.string({ unit: 'grapheme-ascii', minLength: 1, maxLength: 1 }),
    ),
    minLength: 1,
    maxLength: 40,
  })
  .map(text => text.replace(/\s+/g, ' ').trim())
  .filter(text => text !== '' && !text.endsWith('{'));

/** Names of checks are of this form: checks.test.ts. */
const slug = fc.stringMatching(/^[a-z0-9]+(-[a-z0-9]+)*$/);

const results: fc.Arbitrary<CheckResult[]> = fc.array(
  fc.record({
    check: fc
      .record({ group: fc.constantFrom(...checkGroups), rule: slug, demand: line, source: line })
      .map(({ group, rule, demand, source }): Check => {
        return { group, name: `${group}/${rule}`, demand, source, run: async () => '' };
      }),
    verdict: fc.constantFrom(...VERDICTS),
    seen: line,
    durationMs: fc.integer({ min: 0, max: 100_000 }),
  }),
  { minLength: 1, maxLength: 8 },
);

function reportOf(list: readonly CheckResult[], more: Partial<ConformanceReport> = {}): ConformanceReport {
  const counts = { passed: 0, failed: 0, 'not run': 0, error: 0 };
  for (const { verdict } of list) counts[verdict]++;
  const fixed = { target: 'vfio-user:/run/"a&b".sock', profile: 'linux', stimulus: 'dma-engine', seed: 1 } as const;
  return { ...fixed, results: list, counts, interrupted: false, leftBehind: undefined, ...more };
}

describe('TAP', () => {
  it('is read by another parser as what was found, with demand, source and what was seen', () => {
    fc.assert(
      fc.property(results, list => {
        const text = tapHeader(list.length) + list.map((result, index) => tapLine(result, index + 1)).join('');
        const events = Parser.parse(text + tapFooter(reportOf(list)));
        expect(events.find(([event]) => event === 'version')).toEqual(['version', 14]);
        const asserts = events.filter(([event]) => event === 'assert').map(([, value]) => value);
        expect(asserts).toHaveLength(list.length);
        for (const [index, { check, verdict, seen }] of list.entries()) {
          const read = asserts[index];
          expect(read.ok).toBe(verdict === 'passed' || verdict === 'not run');
          expect(read.name).toBe(check.name);
          if (verdict === 'not run') expect(read.skip).toBe(seen);
          else expect(read.diag.seen).toBe(seen);
          if (verdict === 'failed') expect(read.diag).toMatchObject({ demand: check.demand, source: check.source });
        }
        expect(events.find(([event]) => event === 'complete')?.[1].plan).toMatchObject({ start: 1, end: list.length });
      }),
    );
  });

  it('bails out of a run that was ended early, or left its device behind', () => {
    expect(tapFooter(reportOf([], { interrupted: true }))).toBe('Bail out! interrupted\n');
    expect(tapFooter(reportOf([], { leftBehind: 'it is gone' }))).toBe('Bail out! it is gone\n');
    expect(tapFooter(reportOf([]))).toBe('');
  });
});

describe('JUnit XML', () => {
  it('is read by another parser as what was found, in a suite for each group', () => {
    fc.assert(
      fc.property(results, list => {
        const document = new DOMParser({ onError: stop }).parseFromString(junitXml(reportOf(list)), 'text/xml');
        const suites = Array.from(document.getElementsByTagName('testsuite'));
        const groups = new Set(list.map(({ check }) => check.group));
        expect(suites.map(suite => suite.getAttribute('name'))).toEqual(checkGroups.filter(group => groups.has(group)));
        const inOrder = checkGroups.flatMap(group => list.filter(({ check }) => check.group === group));
        const cases = Array.from(document.getElementsByTagName('testcase'));
        expect(cases.map(element => element.getAttribute('name'))).toEqual(inOrder.map(({ check }) => check.name));
        for (const [index, { verdict, seen, check }] of inOrder.entries()) {
          const child = (name: string) => Array.from(cases[index]!.getElementsByTagName(name));
          expect(child('failure')).toHaveLength(verdict === 'failed' ? 1 : 0);
          expect(child('error')).toHaveLength(verdict === 'error' ? 1 : 0);
          expect(child('skipped')).toHaveLength(verdict === 'not run' ? 1 : 0);
          for (const element of [...child('failure'), ...child('error'), ...child('skipped')]) {
            expect(element.getAttribute('message')).toBe(seen);
          }
          for (const element of child('failure')) expect(element.textContent).toContain(check.demand);
        }
        const root = document.documentElement!;
        expect(root.getAttribute('tests')).toBe(`${list.length}`);
        expect(root.getAttribute('failures')).toBe(`${list.filter(({ verdict }) => verdict === 'failed').length}`);
      }),
    );
  });

  it('gives times in seconds', () => {
    const check: Check = { group: 'stop', name: 'stop/x', demand: 'd', source: 's', run: async () => '' };
    const xml = junitXml(reportOf([{ check, verdict: 'passed', seen: 'y', durationMs: 1500 }]));
    expect(xml).toContain('<testcase classname="conform.stop" name="stop/x" time="1.500">');
  });
});

function stop(level: string, message: string): void {
  throw new Error(`${level}: ${message}`);
}

describe('JSON', () => {
  it('has every check with its demand, source, verdict and what was seen', () => {
    const check: Check = { group: 'stop', name: 'stop/x', demand: 'Demands.', source: 'rule 7', run: async () => '' };
    const report = reportOf([{ check, verdict: 'failed', seen: 'y', durationMs: 1.4 }], { stimulus: undefined });
    expect(JSON.parse(JSON.stringify(reportJson(report)))).toEqual({
      target: 'vfio-user:/run/"a&b".sock',
      profile: 'linux',
      stimulus: null,
      seed: 1,
      counts: { passed: 0, failed: 1, 'not run': 0, error: 0 },
      interrupted: false,
      leftBehind: null,
      checks: [
        {
          name: 'stop/x',
          group: 'stop',
          verdict: 'failed',
          seen: 'y',
          demand: 'Demands.',
          source: 'rule 7',
          durationMs: 1,
        },
      ],
    });
  });
});
