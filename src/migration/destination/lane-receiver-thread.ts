/** The program of a receiving thread. @module */

import { parentPort, workerData } from 'node:worker_threads';
import type { StopOrder } from '../lane/lane-thread.js';
import type { LaneReceiverStart, ReceiverOrder } from './lane-orders.js';
import { LaneReceiver } from './lane-receiver.js';

const port = parentPort!;
const receiver = new LaneReceiver(workerData as LaneReceiverStart, word => port.postMessage(word));
port.on('message', (order: ReceiverOrder | StopOrder) => {
  if (order.order === 'stop') process.exit();
  else receiver.take(order);
});
