import { type SharedLog, SharedRecorder } from '../../src/log/index.js';
import { workInCrew } from './crew-member.js';

/* A device's thread: writes pages of a memory, one number each, and records every write. */

export interface Writer {
  readonly shared: SharedLog;
  /** One number for each page. */
  readonly memory: Uint32Array;
  readonly number: number;
  readonly writers: number;
  readonly job: 'each page once' | 'hot pages' | 'runs' | 'lists';
}

const PAGE = 4096;

workInCrew<Writer>(({ shared, memory, number, writers, job }) => {
  const recorder = SharedRecorder.attach(shared);
  const write = (page: number, value: number) => {
    memory[page] = value;
    recorder.record(page * PAGE, PAGE);
  };
  let seed = 12345 + number;
  const random = (below: number) => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return Math.floor((seed / 2 ** 32) * below);
  };

  return {
    // Neighbours of one word are written by different threads at about the same time.
    'each page once': () => {
      for (let page = number; page < memory.length; page += writers) write(page, page + 1);
    },
    'hot pages': () => {
      for (let turn = 0; turn < 400_000; turn++) write(random(2000) * 37, turn * writers + number + 1);
    },
    runs: () => {
      for (let turn = 0; turn < 20_000; turn++) {
        const first = random(memory.length - 300);
        const length = random(300) + 1;
        memory.fill(turn * writers + number + 1, first, first + length);
        recorder.record(first * PAGE, length * PAGE);
      }
    },
    lists: () => {
      const list = new Float64Array(100);
      for (let turn = 0; turn < 4000; turn++) {
        for (let index = 0; index < list.length; index++) {
          list[index] = random(memory.length);
          memory[list[index]] = turn * writers + number + 1;
        }
        recorder.recordPages(list);
      }
    },
  }[job];
});
