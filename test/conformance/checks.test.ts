import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { checkGroups, checks } from '../../src/conformance/index.js';

const read = (path: string) => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');

describe('the checks', () => {
  it('have names of their own, of the form group/rule', () => {
    const names = checks.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    for (const { name, group } of checks) {
      expect(name).toMatch(/^[a-z]+\/[a-z0-9]+(-[a-z0-9]+)*$/);
      expect(name.startsWith(`${group}/`)).toBe(true);
    }
  });

  it('come group by group, in the order of the groups, and no group is empty', () => {
    const order = checks.map(({ group }) => checkGroups.indexOf(group));
    expect(order).toEqual(order.toSorted((a, b) => a - b));
    expect(new Set(order).size).toBe(checkGroups.length);
  });

  it('each demand one sentence, and name its source', () => {
    for (const { name, demand, source } of checks) {
      expect(demand, name).toMatch(/^[A-Z].*\.$/);
      expect(source, name).toMatch(/contract|kernel\.md|linux\/vfio\.h|vfio-user|rfc\.txt/);
    }
  });

  it('name only rows of docs/kernel.md that are there', () => {
    const rows = new Set([...read('docs/kernel.md').matchAll(/^\| ([A-E]\d\d) \|/gm)].map(match => match[1]));
    for (const { name, source } of checks) {
      for (const [row] of source.matchAll(/\b[A-E]\d\d\b/g)) expect(rows, `${name}: ${row}`).toContain(row);
    }
  });

  it('name every rule of the contract that a device has to keep', () => {
    const sources = checks.map(({ source }) => source).join('\n');
    const named = new Set([...sources.matchAll(/rules? (\d[\d, to and]*)/g)].flatMap(match => numbersOf(match[1]!)));
    // 8 and 9 are the host's: to treat a failure as a lost log, and to restart logging when memory changes.
    expect([1, 2, 3, 4, 5, 6, 7, 10, 11, 12].filter(rule => !named.has(rule))).toEqual([]);
  });
});

/** `'1 to 3'` is 1, 2 and 3; `'3 and 5'` is 3 and 5. */
function numbersOf(text: string): number[] {
  const [first, last] = text.split(' to ').map(Number);
  if (last === undefined) return [...text.matchAll(/\d+/g)].map(([number]) => Number(number));
  return Array.from({ length: last - first! + 1 }, (_, index) => first! + index);
}
