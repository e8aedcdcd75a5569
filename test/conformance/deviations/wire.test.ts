import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { conform } from '../../../src/conformance/index.js';
import { VfioUserClient, VfioUserServer } from '../../../src/vfio-user/index.js';
import * as bitmaps from './bitmaps.js';
import * as clearing from './clearing.js';
import * as connections from './connections.js';
import * as conversions from './conversions.js';
import { byDevice, byLog } from './deviation.js';
import * as marks from './marks.js';
import * as migrations from './migrations.js';
import { PlainDevice, stimulusOf } from './plain-device.js';

/*
 * Deviations behind a real socket: served by the server, asked for by the client, neither of which may hide or mend them. Those that change requests
 * or answers themselves are not among them: the server reads requests by itself.
 */

const overTheWire = [
  byLog('logs everything, whatever the ranges', 'start/logs-only-the-ranges', marks.IgnoresRanges),
  byLog('logs nothing for everything', 'start/no-ranges-is-everything', marks.LogsNothingForEverything),
  byLog('takes a second START', 'start/second-fails', clearing.TakesSecondStart),
  byLog('reports from where a range begins, and nowhere else', 'report/any-alignment', bitmaps.WantsRangeStart),
  byLog('clears everything with every report', 'report/clears-only-the-interval', clearing.ClearsEverything),
  byLog('follows the published formula', 'bitmap/bit-of-page', bitmaps.FollowsErratum),
  byLog('sets bits beyond the interval', 'bitmap/zeros-beyond', bitmaps.FillsLastWord),
  byLog('tells page 513 as bit 0', 'conversion/coarser-report', conversions.CountsCoarseBitsInBytes),
  byDevice('does not take its own state', 'migration/state-loads-back', migrations.RefusesOwnState),
  byDevice('does not run after a reset', 'migration/reset-runs', migrations.ResetKeepsState),
  byDevice('stops logging when its client leaves', 'disconnect/keeps-its-log', connections.StopsOnDisconnect),
  byDevice('empties the log when its client leaves', 'disconnect/keeps-its-log', connections.ClearsLogOnDisconnect),
  byDevice('runs when its client leaves', 'disconnect/keeps-its-migration-state', connections.RunsOnDisconnect),
];

let folder: string;

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'dmalog-deviations-'));
});

afterAll(() => rmSync(folder, { recursive: true }));

/** What does not pass of some checks, over a socket. */
async function troublesOf(device: PlainDevice, only?: string[]): Promise<string[]> {
  await using server = await VfioUserServer.listen(device, { path: join(folder, 'socket') });
  const { results } = await conform(() => VfioUserClient.connect(server.path), { stimulus: stimulusOf(device), only });
  return results.filter(({ verdict }) => verdict === 'failed' || verdict === 'error').map(({ check }) => check.name);
}

test('a device that keeps the contract passes every check over a socket', async () => {
  expect(await troublesOf(new PlainDevice())).toEqual([]);
});

test.each(overTheWire.map(known => [`${known.deviation} (${known.finds})`, known] as const))(
  'over a socket, too, the check that is there for it finds a device that %s',
  async (_title, { finds, make }) => {
    expect(await troublesOf(make(), [finds])).toEqual([finds]);
  },
);
