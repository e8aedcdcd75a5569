// Feeds server and client what no well-behaved peer sends, and looks whether anything is lost, left open or kept.
//
//   npm run fuzz [-- --target server] [-- --messages 1000000] [-- --seed 1] [-- --path 17:3:0]
import { parseArgs } from 'node:util';
import { fuzz, TARGETS, type Target } from './run.js';

/** Growth beyond it is no longer what the engine needs for itself, bytes. */
const MOST_GROWN = 32 * 2 ** 20;

const { values } = parseArgs({
  options: {
    target: { type: 'string' },
    messages: { type: 'string', default: '100000' },
    seed: { type: 'string', default: String(Date.now() % 1_000_000_007) },
    path: { type: 'string' },
  },
});
const targets: readonly Target[] = values.target === undefined ? TARGETS : [values.target as Target];
for (const target of targets) {
  console.log(`${target}: seed ${values.seed}`);
  const { messages, grown } = await fuzz({
    target,
    messages: Number(values.messages),
    seed: Number(values.seed),
    ...(values.path && { path: values.path }),
    progress: line => console.log(line),
  });
  console.log(
    `${target}: ${messages} messages, memory grew by ${(grown / 2 ** 20).toFixed(1)} MiB since the first batch`,
  );
  if (grown > MOST_GROWN) throw new Error(`${target}: something is kept for ever`);
}
