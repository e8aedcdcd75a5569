import { randomBytes } from 'node:crypto';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { HeldDisk } from './held-disk.js';
import { FREE_AREA, NvmeHost, requireSuccess, turn } from './nvme-host.js';

/** A command that is mostly right, and wrong anywhere. */
const command = fc.record({
  opcode: fc.oneof(fc.constantFrom(0, 1, 2, 4, 5, 6, 8, 9, 0xa, 0xc), fc.nat(255)),
  namespaceId: fc.constantFrom(0, 1, 1, 1, 2, 0xffff_fffe, 0xffff_ffff),
  prp1: fc.oneof(
    fc.nat(0x10_0000).map(at => FREE_AREA + 4 * at),
    fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  ),
  prp2: fc.oneof(
    fc.nat(0x100).map(at => FREE_AREA + 4096 * at),
    fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  ),
  dwords: fc.array(
    fc.oneof(
      fc.nat(16),
      fc.nat(5).map(id => (15 << 16) | id),
      fc.nat(2 ** 31 - 1),
    ),
    { maxLength: 6 },
  ),
});

const register = fc.record({
  offset: fc.oneof(
    fc.constantFrom(0xc, 0x10, 0x14, 0x14, 0x24, 0x28, 0x30),
    fc.nat(16).map(at => 0x1000 + 4 * at),
    fc.nat(16000),
  ),
  value: fc.oneof(fc.constantFrom(0, 1, 0x0046_0001, 0x0046_0000, 0x0046_4001), fc.nat(40), fc.nat(2 ** 31 - 1)),
});

const step = fc.oneof(
  { weight: 8, arbitrary: command.map(what => ({ what, queue: 0 })) },
  { weight: 8, arbitrary: command.map(what => ({ what, queue: 1 })) },
  { weight: 2, arbitrary: register },
  { weight: 3, arbitrary: fc.constantFrom('turn', 'hold', 'answer', 'fail', 'mend', 'reset', 'enable', 'consume') },
);

test.each([false, true])('a guest that writes rubbish ends nothing (memory that answers late: %s)', async late => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 80 }), async steps => {
      const disk = new HeldDisk(2 ** 20);
      const host = new NvmeHost({ disk, late, queues: 3 });
      host.memory.write(FREE_AREA, randomBytes(65536));
      await host.start(1);
      host.consumes = false;
      const resets: Promise<void>[] = [];
      const acts = {
        turn,
        hold: () => {
          disk.held = true;
        },
        answer: () => disk.release(),
        fail: () => {
          disk.failure = { error: new Error('odd'), how: 'reject' };
        },
        mend: () => {
          disk.failure = undefined;
        },
        reset: () => {
          resets.push(host.controller.reset());
        },
        enable: () => {
          host.setBusMaster(true);
          host.write32(0x14, 0x0046_0001);
        },
        consume: () => host.write32(0x1004, 0),
      };
      for (const what of steps) {
        if (typeof what === 'string') await acts[what]();
        else if ('what' in what) {
          host.put(what.queue, what.what);
          host.ring(what.queue);
        } else if (what.offset % 4 === 0) host.write32(what.offset, what.value);
      }
      for (let count = 0; count < 3; count++) await turn();
      disk.failure = undefined;
      disk.release();
      await Promise.all(resets);
      await host.controller.reset();
      expect(host.controller.inFlight).toBe(0);
      host.consumes = true;
      host.setBusMaster(true);
      await host.start(1);
      requireSuccess(await host.submit(1, { opcode: 0, namespaceId: 1 }));
      await host.close();
    }),
    { numRuns: 60 },
  );
});
