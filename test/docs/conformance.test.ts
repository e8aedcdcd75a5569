import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { checks, checksMarkdown } from '../../src/conformance/index.js';

const text = readFileSync(new URL('../../docs/conformance.md', import.meta.url), 'utf8');

it('docs/conformance.md has the checks as they are: npm run docs:conformance writes them', () => {
  const table = /<!-- checks begin -->\n\n([\s\S]*)\n<!-- checks end -->/.exec(text)?.[1];
  expect(table).toBe(checksMarkdown(checks));
});

it('docs/conformance.md speaks of no check that is not there', () => {
  const groups = new Set(checks.map(({ group }) => group));
  const names = new Set(checks.map(({ name }) => name));
  const named = [...text.matchAll(/`([a-z]+)\/[a-z0-9-]+`/g)].filter(([, group]) => groups.has(group as never));
  expect(named.length).toBeGreaterThan(checks.length);
  for (const [quoted] of named) expect(names).toContain(quoted.slice(1, -1));
});
