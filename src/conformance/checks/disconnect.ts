import { MigrationState, migrationStateName, VfioError } from '../../uapi/index.js';
import type { Bench } from '../bench.js';
import type { Check } from '../check.js';
import { Deviation } from '../deviation.js';
import { PAGE, write } from './writing.js';

/* A client that leaves without a word, and comes back: or the next one. */

/** How often, where once could be luck. */
const TIMES = 5;
/** Reports that are left unanswered. */
const UNANSWERED = 8;

const comesBack: Check = {
  name: 'disconnect/comes-back',
  group: 'disconnect',
  demand: 'A device whose client left while it was logging serves the next one, which can start anew.',
  source: 'vfio-user 0.9.x, disconnection; docs/vfio-user.md "Rules that keep data safe"',
  async run(bench) {
    for (let round = 0; round < TIMES; round++) {
      await bench.start();
      await comeBack(bench);
      await startAnew(bench);
      await bench.stop();
    }
    return `${TIMES} times`;
  },
};

const inTheMiddle: Check = {
  name: 'disconnect/in-the-middle',
  group: 'disconnect',
  demand: 'A client that leaves while its requests are under way harms nobody but itself.',
  source: 'docs/vfio-user.md "Rules that keep data safe"',
  async run(bench) {
    for (let round = 0; round < TIMES; round++) {
      await bench.start();
      const reports = Array.from({ length: UNANSWERED }, () => bench.report(bench.wholeWindow()));
      // Whatever becomes of them: the one who asked is gone.
      const ended = Promise.allSettled(reports);
      await bench.leave();
      await ended;
      await comeBack(bench);
      await startAnew(bench);
      await bench.stop();
    }
    return `${UNANSWERED} reports left unanswered, ${TIMES} times`;
  },
};

const keptOrRefused: Check = {
  name: 'disconnect/log-kept-or-refused',
  group: 'disconnect',
  demand:
    'Who comes back finds what was written before, or a report that fails; never one that says that nothing was written.',
  source: 'contract rule 8',
  needs: ['logging', 'dma'],
  async run(bench) {
    await bench.start();
    await write(bench, bench.window.iova, 3 * Number(PAGE));
    const { expected } = bench;
    await comeBack(bench);
    const { errno, bitmap } = await bench.tryReport(bench.wholeWindow());
    if (errno !== undefined) return `the report fails with ${errno}`;
    return `the log is kept: ${expected!.report(bench.wholeWindow(), bitmap)}`;
  },
};

const keepsLog: Check = {
  name: 'disconnect/keeps-its-log',
  group: 'disconnect',
  demand: 'A client that comes back finds the device logging, and in the log what was written before it left.',
  source: 'docs/vfio-user.md "Rules that keep data safe": the device keeps its state',
  needs: ['logging', 'dma'],
  profiles: ['vfio-user'],
  async run(bench) {
    await bench.start();
    await write(bench, bench.window.iova + 7n * PAGE, 2 * Number(PAGE));
    await comeBack(bench);
    await bench.checkReport();
    await write(bench, bench.window.iova + 11n * PAGE);
    const seen = await bench.checkReport();
    await bench.stop();
    return `logging goes on: ${seen}`;
  },
};

const keepsMigrationState: Check = {
  name: 'disconnect/keeps-its-migration-state',
  group: 'disconnect',
  demand: 'A client that comes back finds the device in the migration state in which it left it.',
  source: 'docs/vfio-user.md "Rules that keep data safe": the device keeps its state',
  needs: ['migration', 'pre-copy'],
  profiles: ['vfio-user'],
  async run(bench) {
    const { features } = bench.device;
    await bench.within('SET PRE_COPY', features.setMigrationState(MigrationState.PRE_COPY));
    await comeBack(bench);
    const state = await bench.within('GET MIG_DEVICE_STATE', bench.device.features.migrationState());
    if (state !== MigrationState.PRE_COPY) {
      throw new Deviation(`the device was left in PRE_COPY and is found in ${migrationStateName(state)}`);
    }
    return 'left and found in PRE_COPY';
  },
};

/** Leaves without a word and comes back. @throws Deviation when the device does not serve any more */
async function comeBack(bench: Bench): Promise<void> {
  try {
    await bench.reopen();
  } catch (error) {
    if (error instanceof VfioError) throw new Deviation(`the device cannot be opened again: ${error.message}`);
    throw error;
  }
}

/** The log may have stayed, to be stopped, or be gone: then the way must be free. */
async function startAnew(bench: Bench): Promise<void> {
  const report = await bench.tryReport(bench.wholeWindow());
  if (report.errno === undefined) await bench.stop();
  await bench.start();
  await bench.report(bench.wholeWindow());
}

/** Checks of leaving and coming back. */
export const disconnectChecks: readonly Check[] = [
  comesBack,
  inTheMiddle,
  keptOrRefused,
  keepsLog,
  keepsMigrationState,
];
