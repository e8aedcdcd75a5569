import XmlBuilder from 'fast-xml-builder';
import { type CheckGroup, type CheckResult, checkGroups } from '../check.js';
import type { ConformanceReport } from '../runner.js';

/**
 * A report as JUnit XML, which build servers show: a test suite for each group, a test case for each check. Times are in seconds.
 */
export function junitXml(report: ConformanceReport): string {
  const suites = checkGroups.filter(group => report.results.some(({ check }) => check.group === group));
  const builder = new XmlBuilder({ ignoreAttributes: false, attributeNamePrefix: '@', format: true });
  const document = {
    '?xml': { '@version': '1.0', '@encoding': 'UTF-8' },
    testsuites: {
      '@name': `dmalog conform ${report.target}`,
      ...totals(report.results),
      testsuite: suites.map(group => suiteOf(group, report)),
    },
  };
  return builder.build(document);
}

function suiteOf(group: CheckGroup, { target, profile, stimulus, seed, results }: ConformanceReport): object {
  const own = results.filter(({ check }) => check.group === group);
  const properties = Object.entries({ target, profile, stimulus: stimulus ?? 'none', seed });
  return {
    '@name': group,
    ...totals(own),
    properties: { property: properties.map(([name, value]) => ({ '@name': name, '@value': `${value}` })) },
    testcase: own.map(caseOf),
  };
}

function totals(results: readonly CheckResult[]): Record<string, string> {
  const count = (verdict: CheckResult['verdict']) => `${results.filter(result => result.verdict === verdict).length}`;
  const durationMs = results.reduce((sum, result) => sum + result.durationMs, 0);
  return {
    '@tests': `${results.length}`,
    '@failures': count('failed'),
    '@errors': count('error'),
    '@skipped': count('not run'),
    '@time': seconds(durationMs),
  };
}

function caseOf({ check, verdict, seen, durationMs }: CheckResult): object {
  const testcase = { '@classname': `conform.${check.group}`, '@name': check.name, '@time': seconds(durationMs) };
  const problem = { '@message': seen, '#text': `${check.demand}\nSource: ${check.source}\nSeen: ${seen}` };
  switch (verdict) {
    case 'passed':
      return { ...testcase, 'system-out': seen };
    case 'failed':
      return { ...testcase, failure: { '@type': 'deviation', ...problem } };
    case 'error':
      return { ...testcase, error: { '@type': 'error', ...problem } };
    case 'not run':
      return { ...testcase, skipped: { '@message': seen } };
  }
}

function seconds(durationMs: number): string {
  return (durationMs / 1000).toFixed(3);
}
