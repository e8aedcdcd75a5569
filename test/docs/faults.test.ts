import { readFileSync } from 'node:fs';
import { expect, it } from 'vitest';
import { matrixTable } from '../migration/matrix/table.js';

it('docs/faults.md has the matrix as it is played', () => {
  expect(readFileSync(new URL('../../docs/faults.md', import.meta.url), 'utf8')).toContain(matrixTable());
});
