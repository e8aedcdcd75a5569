/** The program of a sending thread. @module */

import { parentPort, workerData } from 'node:worker_threads';
import type { StopOrder } from '../lane/lane-thread.js';
import type { LaneSenderStart, SenderOrder } from './lane-orders.js';
import { LaneSender } from './lane-sender.js';

const port = parentPort!;
const sender = new LaneSender(workerData as LaneSenderStart, word => port.postMessage(word));
port.on('message', (order: SenderOrder | StopOrder) => {
  if (order.order === 'stop') process.exit();
  else sender.take(order);
});
