import {
  decodeDeviceState,
  type ErrnoName,
  encodeDeviceState,
  FEATURE_GET,
  FEATURE_SET,
  Feature,
  MIGRATION_P2P,
  MIGRATION_PRE_COPY,
  MIGRATION_STOP_COPY,
  MigrationState,
  migrationStateName,
  VfioError,
  viewOf,
} from '../../uapi/index.js';
import { Command } from '../../vfio-user/index.js';
import type { Bench } from '../bench.js';
import type { Check } from '../check.js';
import { Deviation } from '../deviation.js';
import { PAGE, write } from './writing.js';

/* The migration states, the data that goes with them, and the log beside both. */

const { ERROR, STOP, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P } = MigrationState;

/** Bytes asked for at a time. */
const PIECE = 1 << 20;
/** Most bytes of migration data before it counts as endless, where the device does not estimate its size. */
const MOST_DATA = 2 ** 32;
/** How far an estimate may be off: so many times, and so many bytes. */
const ESTIMATE = { factor: 4n, bytes: 64n * 2n ** 20n };

const flags: Check = {
  name: 'migration/flags',
  group: 'migration',
  demand: 'A device that can migrate says STOP_COPY, alone or with P2P and PRE_COPY, and begins in RUNNING.',
  source: 'linux/vfio.h, VFIO_DEVICE_FEATURE_MIGRATION; docs/kernel.md rows D01, D04',
  needs: ['migration'],
  async run(bench) {
    const { migrationFlags } = bench;
    const known = MIGRATION_STOP_COPY | MIGRATION_P2P | MIGRATION_PRE_COPY;
    if ((migrationFlags & ~known) !== 0) throw new Deviation(`unknown flags in 0x${migrationFlags.toString(16)}`);
    if ((migrationFlags & MIGRATION_STOP_COPY) === 0) throw new Deviation('STOP_COPY is missing');
    await requireState(bench, RUNNING, 'in the beginning');
    return `states: ${statesOf(bench).map(migrationStateName).join(', ')}`;
  },
};

const arcs: Check = {
  name: 'migration/arcs',
  group: 'migration',
  demand:
    'From every state that the device has, every other can be reached by one SET, but for PRE_COPY out of STOP_COPY.',
  source:
    'contract "Also part of the picture"; linux/vfio.h, enum vfio_device_mig_state; docs/kernel.md rows D11 to D37',
  needs: ['migration'],
  async run(bench) {
    let ways = 0;
    for (const from of statesOf(bench)) {
      for (const to of statesOf(bench)) {
        // What leaves RESUMING needs data, and is tried with data; what leaves STOP_COPY backwards is another check's.
        if (from === RESUMING || isWayBack(from, to)) continue;
        await bring(bench, from);
        await demand(bench, to, `from ${migrationStateName(from)}`);
        ways++;
      }
    }
    return `${ways} ways from one state to another`;
  },
};

const noWayBack: Check = {
  name: 'migration/no-way-back-to-pre-copy',
  group: 'migration',
  demand: 'STOP_COPY to PRE_COPY or PRE_COPY_P2P is refused, and the device stays in STOP_COPY.',
  source: 'contract "Also part of the picture"; linux/vfio.h, enum vfio_device_mig_state',
  // Linux, 6.12 measured, looks for the next state for ever, in the kernel: whatever hangs there cannot be ended.
  needs: ['migration', 'pre-copy', 'user space'],
  async run(bench) {
    const targets = statesOf(bench).filter(state => isWayBack(STOP_COPY, state));
    return refuseAll(bench, STOP_COPY, targets);
  },
};

const unknownStates: Check = {
  name: 'migration/unknown-states',
  group: 'migration',
  demand: 'A state that does not exist, or that the device does not have, is EINVAL, and changes nothing.',
  source: 'docs/kernel.md rows D08, D09; linux/vfio.h',
  needs: ['migration'],
  async run(bench) {
    const missing = Object.values(MigrationState).filter(state => state !== ERROR && !statesOf(bench).includes(state));
    return refuseAll(bench, RUNNING, [8, 100, 0xffff_ffff, ...missing]);
  },
};

const errorState: Check = {
  name: 'migration/error-cannot-be-asked-for',
  group: 'migration',
  demand: 'ERROR is no state that a client can ask for: EINVAL, and nothing changes.',
  source: 'contract "Also part of the picture"; docs/kernel.md row D10',
  needs: ['migration'],
  run: bench => refuseAll(bench, RUNNING, [ERROR]),
};

const dataFd: Check = {
  name: 'migration/no-stray-data-fd',
  group: 'migration',
  demand: 'Where no data travels through a file, MIG_DEVICE_STATE says that there is none: data_fd is -1.',
  source: 'vfio-user 0.9.x MIG_DEVICE_STATE; docs/kernel.md rows D04, D12',
  needs: ['migration'],
  async run(bench) {
    requireNoFd(await exchangeState(bench, FEATURE_GET, RUNNING), 'GET in RUNNING');
    // By ioctl a SET makes files, and they are the handle's to keep: there, asking is all that can be done.
    if (bench.profile.pointers) return 'data_fd is -1 in RUNNING';
    for (const state of [STOP, STOP_COPY, STOP, RUNNING]) {
      requireNoFd(await exchangeState(bench, FEATURE_SET, state), `SET ${migrationStateName(state)}`);
    }
    return 'data_fd is always -1';
  },
};

const dataEnds: Check = {
  name: 'migration/data-ends',
  group: 'migration',
  demand: 'In STOP_COPY the data comes to an end, and stays there.',
  source: 'linux/vfio.h, STOP_COPY; vfio-user 0.9.x MIG_DATA_READ',
  needs: ['migration'],
  async run(bench) {
    await bring(bench, STOP_COPY);
    const bytes = sizeOf(await readAll(bench));
    if ((await read(bench)).length > 0) throw new Deviation('there is more data behind the end of the data');
    if (bytes === 0) throw new Deviation('there is no data at all');
    return `${bytes} bytes`;
  },
};

const comesBack: Check = {
  name: 'migration/state-loads-back',
  group: 'migration',
  demand: 'What the device gave in STOP_COPY it takes in RESUMING, and runs from there.',
  source: 'linux/vfio.h, RESUMING',
  needs: ['migration'],
  async run(bench) {
    await bring(bench, STOP_COPY);
    const pieces = await readAll(bench);
    await demand(bench, RESUMING, 'from STOP_COPY');
    await load(bench, pieces);
    await demand(bench, STOP, 'from RESUMING, with all data written');
    await demand(bench, RUNNING, 'from STOP');
    return `${sizeOf(pieces)} bytes out and in`;
  },
};

const preCopyData: Check = {
  name: 'migration/pre-copy-data-loads-back',
  group: 'migration',
  demand: 'What comes in PRE_COPY and then in STOP_COPY is one stream, and the device takes it in RESUMING.',
  source: 'linux/vfio.h, PRE_COPY; docs/kernel.md rows D22, D23',
  needs: ['migration', 'pre-copy'],
  async run(bench) {
    await bring(bench, PRE_COPY);
    const early = [await read(bench)];
    await demand(bench, STOP_COPY, 'from PRE_COPY');
    const pieces = [...early, ...(await readAll(bench))];
    await demand(bench, RESUMING, 'from STOP_COPY');
    await load(bench, pieces);
    await demand(bench, RUNNING, 'from RESUMING, with all data written');
    return `${sizeOf(early)} bytes while it ran, ${sizeOf(pieces) - sizeOf(early)} when it had stopped`;
  },
};

/** Bytes asked for at a time where replies are looked at: few, so that there are several. */
const SMALL_PIECE = 4096;
/** Most replies that are looked at. */
const REPLIES = 64;

const dataReply: Check = {
  name: 'migration/data-reply',
  group: 'migration',
  demand:
    "MIG_DATA_READ's reply says how much of it is data, no more than was asked for, and has zeros behind it, if anything.",
  source:
    'vfio-user 0.9.x MIG_DATA_READ; docs/vfio-user.md: libvfio-user pads to what was asked for, and its client wants that',
  needs: ['migration', 'vfio-user wire'],
  profiles: ['vfio-user'],
  async run(bench) {
    await bring(bench, STOP_COPY);
    let bytes = 0;
    let padding = 0;
    for (let reply = 0; reply < REPLIES; reply++) {
      const { data, behind } = await readReply(bench);
      padding += behind.length;
      if (behind.some(byte => byte !== 0))
        throw new Deviation(`${behind.length} bytes behind the data, not all of them 0`);
      if (data.length === 0) break;
      bytes += data.length;
    }
    return `${bytes} bytes of data and ${padding} of padding in pieces of ${SMALL_PIECE}`;
  },
};

/** A reply of MIG_DATA_READ in its parts. */
async function readReply(bench: Bench): Promise<{ data: Uint8Array; behind: Uint8Array }> {
  const asked = new Uint8Array(8);
  viewOf(asked).setUint32(0, 8 + SMALL_PIECE, true);
  viewOf(asked).setUint32(4, SMALL_PIECE, true);
  const { errno, payload } = await bench.within('MIG_DATA_READ', bench.wire!.exchange(Command.MIG_DATA_READ, asked));
  if (errno !== undefined) throw new Deviation(`MIG_DATA_READ in STOP_COPY failed with ${errno}`);
  if (payload.length < 8) throw new Deviation(`the reply has ${payload.length} bytes, and no size`);
  const size = viewOf(payload).getUint32(4, true);
  const most = Math.min(SMALL_PIECE, payload.length - 8);
  if (size > most)
    throw new Deviation(`size is ${size} in a reply of ${payload.length} bytes to ${SMALL_PIECE} asked for`);
  if (payload.length > 8 + SMALL_PIECE)
    throw new Deviation(`${payload.length - 8} bytes where ${SMALL_PIECE} were asked for`);
  return { data: payload.subarray(8, 8 + size), behind: payload.subarray(8 + size) };
}

const dataOnlyWhileSaving: Check = {
  name: 'migration/no-data-while-running',
  group: 'migration',
  demand: 'MIG_DATA_READ fails in RUNNING and STOP, MIG_DATA_WRITE everywhere but in RESUMING.',
  source: 'vfio-user 0.9.x MIG_DATA_READ, MIG_DATA_WRITE',
  needs: ['migration'],
  profiles: ['vfio-user'],
  async run(bench) {
    for (const state of [RUNNING, STOP, STOP_COPY]) {
      await bring(bench, state);
      const name = migrationStateName(state);
      if (state !== STOP_COPY && (await errnoOf(bench, `MIG_DATA_READ in ${name}`, () => read(bench))) === undefined) {
        throw new Deviation(`MIG_DATA_READ succeeded in ${name}`);
      }
      const write = () => bench.device.writeMigrationData(new Uint8Array(8));
      if ((await errnoOf(bench, `MIG_DATA_WRITE in ${name}`, write)) === undefined) {
        throw new Deviation(`MIG_DATA_WRITE succeeded in ${name}`);
      }
    }
    return 'refused in RUNNING and STOP; writing in STOP_COPY, too';
  },
};

const resetRuns: Check = {
  name: 'migration/reset-runs',
  group: 'migration',
  demand: 'A reset leads to RUNNING from every state.',
  source: 'contract "Also part of the picture"; docs/kernel.md row D42',
  needs: ['migration', 'reset'],
  async run(bench) {
    for (const state of statesOf(bench)) {
      await bring(bench, state);
      await bench.reset();
      await requireState(bench, RUNNING, `after a reset in ${migrationStateName(state)}`);
    }
    return `from ${statesOf(bench).length} states`;
  },
};

const reportInEveryState: Check = {
  name: 'migration/report-in-every-state',
  group: 'migration',
  demand:
    'Logging does not care for the migration state: what was written is reported in each, STOP and STOP_COPY above all.',
  source: 'contract "Purpose"; docs/kernel.md row D45',
  needs: ['logging', 'dma', 'migration'],
  async run(bench) {
    await bench.start({ pageSize: PAGE });
    const states = statesOf(bench).filter(state => state !== RESUMING);
    for (const [index] of states.entries()) await write(bench, pageOf(bench, index).iova);
    for (const [index, state] of states.entries()) {
      await demand(bench, RUNNING, 'to begin with');
      await demand(bench, state, 'while logging');
      await describe(`in ${migrationStateName(state)}`, () => bench.checkReport(pageOf(bench, index)));
    }
    await demand(bench, RUNNING, 'at the end');
    await bench.checkReport();
    return states.map(migrationStateName).join(', ');
  },
};

const startInEveryState: Check = {
  name: 'migration/start-in-every-state',
  group: 'migration',
  demand: 'Logging can be started and stopped in every migration state.',
  source: 'contract "Purpose"',
  needs: ['logging', 'migration'],
  async run(bench) {
    const states = statesOf(bench).filter(state => state !== RESUMING);
    for (const state of states) {
      await bring(bench, state);
      await describe(`in ${migrationStateName(state)}`, async () => {
        await bench.start();
        await bench.checkReport();
        await bench.stop();
      });
    }
    return states.map(migrationStateName).join(', ');
  },
};

const logAfterReset: Check = {
  name: 'migration/log-after-reset',
  group: 'migration',
  demand:
    'After a reset the log has what was written before it, or its report fails; it never says that nothing was written.',
  source: 'contract rule 8; docs/kernel.md rows D48, D49',
  needs: ['logging', 'dma', 'reset'],
  async run(bench) {
    await bench.start();
    await write(bench, bench.window.iova, 5 * Number(PAGE));
    await bench.reset();
    const { errno, bitmap } = await bench.tryReport(bench.wholeWindow());
    if (errno !== undefined) return `the report fails with ${errno}`;
    const seen = bench.expected!.report(bench.wholeWindow(), bitmap);
    return `the log is kept: ${seen}`;
  },
};

/** The states that the device says it has, without ERROR. */
function statesOf({ migrationFlags }: Bench): MigrationState[] {
  const states: MigrationState[] = [RUNNING, STOP, STOP_COPY, RESUMING];
  if (migrationFlags & MIGRATION_P2P) states.push(RUNNING_P2P);
  if (migrationFlags & MIGRATION_PRE_COPY) states.push(PRE_COPY);
  if (migrationFlags & MIGRATION_P2P && migrationFlags & MIGRATION_PRE_COPY) states.push(PRE_COPY_P2P);
  return states;
}

function isWayBack(from: number, to: number): boolean {
  return from === STOP_COPY && (to === PRE_COPY || to === PRE_COPY_P2P);
}

/** Brings the device to a state by way of RUNNING; out of RESUMING, where there may be no data, by a reset. */
async function bring(bench: Bench, state: MigrationState): Promise<void> {
  if ((await stateOf(bench)) === RESUMING) await bench.reset();
  await demand(bench, RUNNING, 'to begin with');
  await demand(bench, state, 'from RUNNING');
}

/** SET that must succeed, and be true. */
async function demand(bench: Bench, state: MigrationState, where: string): Promise<void> {
  const name = migrationStateName(state);
  const errno = await trySet(bench, state);
  if (errno !== undefined) throw new Deviation(`SET ${name} ${where} failed with ${errno}`);
  await requireState(bench, state, `after SET ${name} ${where}`);
}

/** SETs that must fail with EINVAL, and leave the device where it is. */
async function refuseAll(bench: Bench, from: MigrationState, states: readonly number[]): Promise<string> {
  await bring(bench, from);
  for (const state of states) {
    const name = migrationStateName(state);
    const errno = await trySet(bench, state as MigrationState);
    if (errno === undefined) throw new Deviation(`SET ${name} succeeded in ${migrationStateName(from)}`);
    if (errno !== 'EINVAL') throw new Deviation(`SET ${name} failed with ${errno}, not EINVAL`);
    await requireState(bench, from, `after SET ${name} had failed`);
  }
  return `EINVAL for ${states.map(migrationStateName).join(', ')}`;
}

function trySet(bench: Bench, state: MigrationState): Promise<ErrnoName | undefined> {
  const set = () => bench.device.features.setMigrationState(state);
  return errnoOf(bench, `SET ${migrationStateName(state)}`, set);
}

/** What a call fails with; `undefined`: it succeeds. */
async function errnoOf(bench: Bench, what: string, call: () => Promise<unknown>): Promise<ErrnoName | undefined> {
  try {
    await bench.within(what, call());
    return undefined;
  } catch (error) {
    if (error instanceof VfioError) return error.errno;
    throw error;
  }
}

function stateOf(bench: Bench): Promise<number> {
  return bench.within('GET MIG_DEVICE_STATE', bench.device.features.migrationState());
}

async function requireState(bench: Bench, state: MigrationState, when: string): Promise<void> {
  const now = await stateOf(bench);
  if (now === state) return;
  throw new Deviation(`the device is in ${migrationStateName(now)} ${when}, not in ${migrationStateName(state)}`);
}

/** GET or SET as bytes, for the data_fd in the answer. */
async function exchangeState(bench: Bench, direction: number, state: MigrationState): Promise<number> {
  const what = `${direction === FEATURE_GET ? 'GET' : 'SET'} MIG_DEVICE_STATE`;
  const data = encodeDeviceState({ state, dataFd: -1 });
  const outcome = await bench.request({ index: Feature.MIG_DEVICE_STATE, flags: direction, data });
  if (outcome.errno !== undefined) throw new Deviation(`${what} failed with ${outcome.errno}`);
  if (outcome.data.length < data.length) throw new Deviation(`${what} brought ${outcome.data.length} bytes, not 8`);
  return decodeDeviceState(outcome.data).dataFd;
}

function requireNoFd(fd: number, what: string): void {
  if (fd !== -1) throw new Deviation(`${what} answers data_fd ${fd}, where there is no file`);
}

function read(bench: Bench): Promise<Uint8Array> {
  return bench.within('reading migration data', bench.device.readMigrationData(PIECE));
}

async function readAll(bench: Bench): Promise<Uint8Array[]> {
  const pieces: Uint8Array[] = [];
  const most = await mostData(bench);
  for (let bytes = 0; bytes < most; ) {
    const piece = await read(bench);
    if (piece.length === 0) return pieces;
    // The bytes may be the handle's own, for as long as the call.
    pieces.push(piece.slice());
    bytes += piece.length;
  }
  throw new Deviation(`the data has no end: more than ${most} bytes`);
}

async function mostData(bench: Bench): Promise<number> {
  try {
    const estimate = await bench.within('GET MIG_DATA_SIZE', bench.device.features.migrationDataSize());
    return Number(estimate * ESTIMATE.factor + ESTIMATE.bytes);
  } catch (error) {
    if (error instanceof VfioError) return MOST_DATA;
    throw error;
  }
}

async function load(bench: Bench, pieces: readonly Uint8Array[]): Promise<void> {
  for (const piece of pieces) {
    if (piece.length > 0) await bench.within('writing migration data', bench.device.writeMigrationData(piece));
  }
}

function sizeOf(pieces: readonly Uint8Array[]): number {
  return pieces.reduce((sum, piece) => sum + piece.length, 0);
}

function pageOf(bench: Bench, page: number): { iova: bigint; length: bigint; pageSize: bigint } {
  return { iova: bench.window.iova + BigInt(page) * PAGE, length: PAGE, pageSize: PAGE };
}

/** Says where a deviation was seen. */
async function describe<T>(where: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof Deviation) throw new Deviation(`${where}: ${error.message}`);
    throw error;
  }
}

/** Checks of migration, and of the log beside it. */
export const migrationChecks: readonly Check[] = [
  flags,
  arcs,
  noWayBack,
  unknownStates,
  errorState,
  dataFd,
  dataEnds,
  comesBack,
  preCopyData,
  dataReply,
  dataOnlyWhileSaving,
  resetRuns,
  reportInEveryState,
  startInEveryState,
  logAfterReset,
];
