import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { createMtty, KERNEL, VDLOG } from './devices.js';
import type { Cases } from './table/cases.js';
import { dmaCases } from './table/dma-cases.js';
import { type Column, expected, isBrief, readTable } from './table/expected.js';
import { migrationCases } from './table/migration-cases.js';
import { RawDevice } from './table/raw-device.js';
import { reportCases } from './table/report-cases.js';
import { requestCases } from './table/request-cases.js';
import { startCases } from './table/start-cases.js';

/*
 * Every row of the table in docs/kernel.md, asked of the kernel by bare calls with the pointers that the row speaks of.
 */

const rows = readTable();

const columns: Column[] =
  KERNEL === '6.1'
    ? [{ kernel: KERNEL, device: 'vdlog', by: 'group' }]
    : (['vdlog', 'mtty'] as const).flatMap(device =>
        (['group', 'cdev'] as const).map(by => ({ kernel: KERNEL, device, by })),
      );

function casesFor(device: RawDevice): Cases {
  return {
    ...requestCases(device),
    ...startCases(device),
    ...reportCases(device),
    ...migrationCases(device),
    ...dmaCases(device),
  };
}

for (const column of columns) {
  describe(`the table of docs/kernel.md, ${column.device} by ${column.by}`, () => {
    const mtty = column.device === 'mtty' ? createMtty() : undefined;
    let device: RawDevice;
    let cases: Cases;
    before(() => {
      const folder = mtty?.folder ?? VDLOG[0];
      device = column.by === 'group' ? RawDevice.byGroup(folder) : RawDevice.byCdev(folder);
      cases = casesFor(device);
    });
    after(() => {
      device.close();
      mtty?.remove();
    });

    for (const row of rows) {
      const wanted = expected(row, column);
      if (wanted === undefined) continue;
      it(`${row.id} ${row.what}: ${wanted}`, () => {
        const outcome = cases[row.id]!();
        assert.equal(isBrief(row, column) ? outcome.replace(/ \(.*/, '') : outcome, wanted);
      });
    }

    it('has a row for every case, and a case for every row', () => {
      assert.deepEqual(Object.keys(cases).sort(), rows.map(row => row.id).sort());
    });
  });
}
