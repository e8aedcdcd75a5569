import type { Check } from '../check.js';
import { Deviation } from '../deviation.js';
import { answerText, expectFailure, expectNotStarted, expectStarted, expectSuccess } from './demands.js';
import { write } from './writing.js';

/** How often START and STOP follow each other where that must change nothing. */
const ROUNDS = 50;

const ends: Check = {
  name: 'stop/ends-logging',
  group: 'stop',
  demand: 'After STOP there is no log: REPORT fails, and START works again.',
  source: 'contract rules 6 and 7; docs/kernel.md rows B04, C52',
  async run(bench) {
    await bench.start();
    await bench.stop();
    expectFailure('REPORT after STOP', await bench.tryReport(bench.wholeWindow()));
    await expectNotStarted(bench, 'STOP');
    return 'REPORT fails, START works';
  },
};

const notStarted: Check = {
  name: 'stop/not-started',
  group: 'stop',
  demand: 'STOP without START fails.',
  source: 'contract rule 6; Linux leaves it to the driver, so its profile does not demand it',
  profiles: ['rfc', 'vfio-user'],
  async run(bench) {
    expectFailure('STOP without START', await bench.tryStop());
    await bench.start();
    await bench.stop();
    expectFailure('a second STOP', await bench.tryStop());
    return 'refused before a START, and after a STOP';
  },
};

const notStartedIsHarmless: Check = {
  name: 'stop/not-started-is-harmless',
  group: 'stop',
  demand: 'STOP without START, whatever its answer, changes nothing: START works after it.',
  source: 'contract rule 6; docs/kernel.md row B05: the driver may answer 0 or an errno',
  async run(bench) {
    const first = await bench.tryStop();
    await bench.start();
    await expectStarted(bench, 'a STOP before START');
    await bench.stop();
    const second = await bench.tryStop();
    await expectNotStarted(bench, 'two STOPs');
    return `${answerText(first)} before a START, ${answerText(second)} after a STOP`;
  },
};

const forgets: Check = {
  name: 'stop/forgets-the-log',
  group: 'stop',
  demand: 'A START that follows a STOP begins clean, with ranges and pages of its own.',
  source: 'contract rule 7',
  needs: ['logging', 'dma'],
  async run(bench) {
    const { iova, length } = bench.window;
    const second = { iova: iova + length / 2n, length: length / 2n };
    await bench.start();
    await write(bench, iova, 8 * 4096);
    await write(bench, second.iova + 16n * 4096n, 8 * 4096);
    await bench.stop();
    await bench.start({ pageSize: 65536n, ranges: [second] });
    await bench.checkReport();
    await write(bench, iova + 64n * 4096n);
    await write(bench, second.iova);
    return bench.checkReport();
  },
};

const whileStopped: Check = {
  name: 'stop/logs-nothing-meanwhile',
  group: 'stop',
  demand: 'What is written between STOP and START is not in the next log.',
  source: 'contract rule 7; docs/kernel.md rows E01, E03',
  needs: ['logging', 'dma'],
  async run(bench) {
    await bench.start();
    await bench.stop();
    await write(bench, bench.window.iova, 8 * 4096);
    await bench.start();
    return bench.checkReport();
  },
};

const again: Check = {
  name: 'stop/again-and-again',
  group: 'stop',
  demand: `START and STOP may follow each other any number of times, with the same answers.`,
  source: 'contract rule 7',
  async run(bench) {
    const first = await bench.start();
    await bench.stop();
    for (let round = 2; round <= ROUNDS; round++) {
      const outcome = await bench.tryStart();
      expectSuccess(`START number ${round}`, outcome);
      if (outcome.pageSize !== first) {
        throw new Deviation(`START number ${round} chose pages of ${outcome.pageSize} bytes, the first ${first}`);
      }
      expectSuccess(`STOP number ${round}`, await bench.tryStop());
    }
    return `${ROUNDS} times, each with pages of ${first} bytes`;
  },
};

/** STOP, and what is left after it: nothing. */
export const stopChecks: readonly Check[] = [ends, notStarted, notStartedIsHarmless, forgets, whileStopped, again];
