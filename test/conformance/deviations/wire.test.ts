import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createConnection, createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { conform } from '../../../src/conformance/index.js';
import { Command, VfioUserClient, VfioUserServer } from '../../../src/vfio-user/index.js';
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

/*
 * What a server of this project cannot be made to send: its replies are changed on the way. The way loses descriptors, so that no memory is
 * reached through it, and none is needed.
 */

type Reply = { command: number; isError: boolean; message: Buffer };

/** The reply, with other bytes behind what there is. */
function withBehind(message: Buffer, behind: Uint8Array): Buffer {
  const longer = Buffer.concat([message, behind]);
  longer.writeUInt32LE(longer.length, 4);
  return longer;
}

const onTheWay: [deviation: string, finds: string, change: (reply: Reply) => Buffer][] = [
  [
    'sends a payload with its refusals (libvfio-user)',
    'request/bare-refusals',
    ({ command, isError, message }) =>
      command === Command.DEVICE_FEATURE && isError ? withBehind(message, new Uint8Array(8)) : message,
  ],
  [
    'pads its data with what lies in its memory',
    'migration/data-reply',
    ({ command, isError, message }) => {
      if (command === Command.MIG_DATA_READ && !isError) message.fill(0xa5, 24 + message.readUInt32LE(20));
      return message;
    },
  ],
  [
    'sends more data than was asked for',
    'migration/data-reply',
    ({ command, isError, message }) =>
      command === Command.MIG_DATA_READ && !isError ? withBehind(message, new Uint8Array(512)) : message,
  ],
  [
    'says that there is more data than it sends',
    'migration/data-reply',
    ({ command, isError, message }) => {
      if (command === Command.MIG_DATA_READ && !isError) message.writeUInt32LE(message.length, 20);
      return message;
    },
  ],
];

/** Passes everything on, the server's replies as `change` gives them. */
async function changedOnTheWay(target: string, change: (reply: Reply) => Buffer): Promise<Server> {
  const server = createServer(client => {
    const device = createConnection(target);
    client.pipe(device);
    let kept = Buffer.alloc(0);
    device.on('data', chunk => {
      kept = Buffer.concat([kept, chunk]);
      while (kept.length >= 16 && kept.length >= kept.readUInt32LE(4)) {
        const message = Buffer.from(kept.subarray(0, kept.readUInt32LE(4)));
        kept = kept.subarray(message.length);
        const isReply = (message.readUInt32LE(8) & 0xf) === 1;
        const isError = (message.readUInt32LE(8) & 0x20) !== 0;
        client.write(isReply ? change({ command: message.readUInt16LE(2), isError, message }) : message);
      }
    });
    for (const [one, other] of [
      [client, device],
      [device, client],
    ] as const) {
      one.on('error', () => {});
      one.on('close', () => other.destroy());
    }
  });
  server.listen(join(folder, 'changed'));
  await once(server, 'listening');
  return server;
}

test.each(onTheWay)('the check that is there for it finds a device that %s (%s)', async (_title, finds, change) => {
  const device = new PlainDevice();
  await using server = await VfioUserServer.listen(device, { path: join(folder, 'socket') });
  const way = await changedOnTheWay(server.path, change);
  try {
    const open = () => VfioUserClient.connect(join(folder, 'changed'), { twinSocket: false });
    const { results } = await conform(open, { stimulus: stimulusOf(device), only: ['request', 'migration'] });
    const group = finds.slice(0, finds.indexOf('/'));
    const failed = results.filter(({ verdict }) => verdict === 'failed' || verdict === 'error');
    expect(failed.map(({ check }) => check.name)).toContain(finds);
    expect(failed.filter(({ check }) => check.group !== group)).toEqual([]);
  } finally {
    way.close();
  }
});

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
