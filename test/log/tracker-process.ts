import { DmaLog } from '../../src/log/index.js';
import { Mapping } from '../../src/native/index.js';
import { trackAndReport } from './tracker-work.js';

/* A tracker in a process: a log of its own, reported into the memory file that is descriptor 3.
 * Behind the bitmap is a counter of the processes that are ready: all begin together. */

const [bytes, number, trackers] = process.argv.slice(2).map(Number);
const { buffer, byteOffset } = Mapping.map(3, 0, bytes + 4096, { read: true, write: true }).view(0, bytes + 4096);
const ready = new Int32Array(buffer, byteOffset + bytes, 1);
Atomics.add(ready, 0, 1);
while (Atomics.load(ready, 0) < trackers) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1);
trackAndReport(new DmaLog(), new Uint32Array(buffer, byteOffset, bytes / 4), number, trackers);
