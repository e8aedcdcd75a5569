// One end of a migration that has nothing but memory, in a process of its own: `receive BYTES` or `send PATH`. The parent speaks to it by IPC.
import { OwnMemory } from '../dist/cli/demo/own-memory.js';
import { GuestMemory } from '../dist/memory/index.js';
import { MachineMemory, MigrationReceiver, migrate } from '../dist/migration/index.js';

const [role, what, connections] = process.argv.slice(2);
const memory = role === 'send' ? GuestMemory.open(what) : GuestMemory.create(Number(what), 'bulk');
const machine = new MachineMemory([{ iova: 0n, length: memory.size, memory }]);
const options = { memory: machine, devices: [], connections: Number(connections) };

const ownMemory = new OwnMemory();

async function receive() {
  const receiver = await MigrationReceiver.listen(options);
  process.send(receiver.address);
  await receiver.finished();
}

async function send() {
  process.send('ready');
  const to = await new Promise(resolve => process.once('message', resolve));
  const report = await migrate({ ...options, to, trackers: [] });
  if (report.outcome !== 'moved') throw report.error;
  return report.passes[0];
}

const pass = await (role === 'send' ? send() : receive());
process.send({ bytes: pass?.bytesSent, milliseconds: pass?.durationMs, ownMemory: ownMemory.most });
process.disconnect();
memory.close();
