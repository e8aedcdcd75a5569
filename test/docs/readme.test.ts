import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';

const read = (path: string) => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');

it('the README boots a guest by the lines that the system test runs', () => {
  const machines = read('test/machines/README.md');
  const [serve, boot, use] = [...machines.matchAll(/^```sh\n[\s\S]*?^```$/gm)].map(match => match[0]);
  const readme = read('README.md');
  for (const lines of [serve, boot, use]) expect(readme).toContain(lines);
});
