// A guest's CPU: writes words of random pages, a word of its own in each, and marks the writes if it was given where.
import { workerData } from 'node:worker_threads';
import { SharedRecorder } from '../../../dist/log/index.js';
import { viewShared } from '../../../dist/native/index.js';

const PAGE = 4096;
const { memory, marks, pages, number, iova, signals } = workerData;
const view = viewShared(memory, 0, pages * PAGE);
const words = new Uint32Array(view.buffer, view.byteOffset, view.length / 4);
const recorder = marks && SharedRecorder.attach(marks);

let seed = 12345 + number;
function random(below) {
  seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
  return Math.floor((seed / 2 ** 32) * below);
}

Atomics.add(signals, 0, 1);
Atomics.wait(signals, 1, 0);
for (let turn = 1; Atomics.load(signals, 1) === 1; turn++) {
  // Half of the writes go to a few pages, which are being scanned and copied while they are written.
  const page = random(2) === 0 ? random(16) : random(pages);
  words[(page * PAGE) / 4 + number] = turn;
  recorder?.record(iova + page * PAGE + number * 4, 4);
}
