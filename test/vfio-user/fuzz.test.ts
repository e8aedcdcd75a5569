import { expect, test } from 'vitest';
import { fuzz } from '../../fuzz/run.js';
import { expectNoFdLeak } from '../native/helpers.js';

expectNoFdLeak();

const TIMEOUT_MS = 600_000;
/** What the engine itself may need more, bytes: a kibibyte kept for each message would be twice as much. */
const MOST_GROWN = 8 * 2 ** 20;

test(
  '15,000 messages of hostile clients end no server, leave nothing behind and cost no dirty page',
  async () => {
    const { messages, grown } = await fuzz({ target: 'server', messages: 15_000, seed: 1 });
    expect(messages).toBeGreaterThanOrEqual(15_000);
    expect(grown).toBeLessThan(MOST_GROWN);
  },
  TIMEOUT_MS,
);

test(
  '5,000 messages of hostile servers end no client, leave nothing behind and change no memory that is not mapped',
  async () => {
    const { messages, grown } = await fuzz({ target: 'client', messages: 5_000, seed: 1 });
    expect(messages).toBeGreaterThanOrEqual(5_000);
    expect(grown).toBeLessThan(MOST_GROWN);
  },
  TIMEOUT_MS,
);

test(
  'what is found comes with the seed and the path that play it again',
  async () => {
    const { DmaLog } = await import('../../src/log/index.js');
    const record = DmaLog.prototype.record;
    // A log that loses each write of more than a page.
    DmaLog.prototype.record = function (iova, length) {
      if (length <= 4096) record.call(this, iova, length);
    };
    try {
      const failure = await fuzz({ target: 'server', messages: 15_000, seed: 1 }).catch(
        (error: Error) => error.message,
      );
      expect(failure).toMatch(/seed: \d+, path: "[\d:]+"/);
      const [, seed, path] = /seed: (\d+), path: "([\d:]+)"/.exec(String(failure))!;
      const again = fuzz({ target: 'server', messages: 1, seed: Number(seed), path: path! });
      await expect(again).rejects.toMatchObject({
        cause: { message: expect.stringMatching(/not in the report|is lost/) },
      });
    } finally {
      DmaLog.prototype.record = record;
    }
  },
  TIMEOUT_MS,
);
