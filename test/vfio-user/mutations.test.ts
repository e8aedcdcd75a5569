import fc from 'fast-check';
import { expect, onTestFinished, test } from 'vitest';
import { createEventFd, openFdCount, readEventFd } from '../../src/native/index.js';
import { Command, VfioUserClient } from '../../src/vfio-user/index.js';
import { expectNoFdLeak, temporaryFolder } from '../native/helpers.js';
import { message, Peer, QEMU_PROPOSAL, turn, until, versionPayload, words } from './peer.js';
import { mappedFiles, memoryFile, serve } from './served.js';
import { stampSettings } from './stamp-device.js';

expectNoFdLeak();
const path = temporaryFolder();

/** Valid messages, and which of the two descriptors (memory file, eventfd) each brings. */
const valid: readonly [Uint8Array, readonly (0 | 1)[]][] = [
  [message(Command.VERSION, versionPayload(QEMU_PROPOSAL)), []],
  [message(Command.DMA_MAP, words(32, 3, 0n, 0x10000n, 0x10000n)), [0]],
  [message(Command.DMA_MAP, words(32, 3, 0n, 0x80000n, 0x10000n)), []],
  [message(Command.DMA_UNMAP, words(24, 0, 0x10000n, 0x10000n)), []],
  [message(Command.DMA_UNMAP, words(24, 2, 0n, 0n)), []],
  [message(Command.DEVICE_GET_INFO, words(16, 0, 0, 0)), []],
  [message(Command.DEVICE_GET_REGION_INFO, words(32, 0, 0, 0, 0n, 0n)), []],
  [message(Command.DEVICE_GET_IRQ_INFO, words(16, 0, 2, 0)), []],
  [message(Command.DEVICE_SET_IRQS, words(20, 36, 2, 0, 2)), [1, 1]],
  [message(Command.DEVICE_SET_IRQS, words(20, 33, 2, 0, 0)), []],
  [message(Command.DEVICE_SET_IRQS, words(24, 34, 0, 0, 4, 0x01010101)), []],
  [message(Command.REGION_READ, words(0n, 0, 64)), []],
  [message(Command.REGION_WRITE, words(0n, 0, 16, ...new Uint32Array(stampSettings(0x10000n, 64, 1).buffer))), []],
  [message(Command.REGION_WRITE, words(4n, 7, 4, 6)), []],
  [message(Command.DEVICE_RESET), []],
  [message(Command.DEVICE_FEATURE, words(40, 0x20006, 4096n, 1, 0, 0x10000n, 0x10000n)), []],
  [message(Command.DEVICE_FEATURE, words(40, 0x10008, 0x10000n, 0x10000n, 4096n)), []],
  [message(Command.DEVICE_FEATURE, words(8, 0x20007)), []],
  [message(Command.DEVICE_FEATURE, words(16, 0x20002, 3, 0xffff_ffff)), []],
  [message(Command.MIG_DATA_READ, words(4104, 4096)), []],
  [message(Command.MIG_DATA_WRITE, words(12, 4, 0)), []],
];

/** One valid message with some of its bytes changed, and perhaps cut short or made longer; perhaps with descriptors nobody expects. */
const mutated = fc.record({
  which: fc.nat(valid.length - 1),
  changes: fc.array(fc.tuple(fc.nat(200), fc.oneof(fc.nat(255), fc.constantFrom(0, 1, 0x7f, 0x80, 0xff))), {
    maxLength: 4,
  }),
  cut: fc.option(fc.nat(200), { freq: 6 }),
  fds: fc.option(fc.array(fc.constantFrom(0 as const, 1 as const), { maxLength: 20 }), { freq: 4 }),
  split: fc.nat(60),
});

test('no message, however mangled, ends the server or leaves it a descriptor, a mapping or an interrupt', async () => {
  const errors: unknown[] = [];
  const { device, server } = await serve(path('a'), { onError: error => errors.push(error) });
  const memory = memoryFile(0x20000);
  const interrupt = createEventFd();
  onTestFinished(() => interrupt.close());
  const files = [memory.fd, interrupt.fd];
  const fds = openFdCount();
  const maps = mappedFiles();

  await fc.assert(
    fc.asyncProperty(fc.array(mutated, { minLength: 1, maxLength: 6 }), fc.boolean(), async (messages, greets) => {
      const peer = Peer.connect(path('a'));
      try {
        if (greets) await peer.greet(QEMU_PROPOSAL);
        for (const { which, changes, cut, fds: extra, split } of messages) {
          const [original, own] = valid[which]!;
          const bytes = original.slice(0, Math.max(1, cut ?? original.length));
          for (const [at, value] of changes) bytes[at % bytes.length] = value;
          await peer.sendSplit(
            bytes,
            split,
            (extra ?? own).map(index => files[index]!),
          );
        }
        await turn();
      } catch (error) {
        // The server has ended the connection before all was sent: it may.
        expect((error as { errno?: string }).errno).toBe('EPIPE');
      } finally {
        peer.close();
      }
      // A server that serves nobody has one descriptor less than one that serves: everything of the client must be gone.
      await until(() => !server.connected && openFdCount() === fds, 'the server has let go');
      expect(device.dma.map.statistics.regions).toBe(0);
    }),
    { numRuns: 2500 },
  );
  expect(errors).toEqual([]);
  expect(mappedFiles()).toBe(maps);

  const client = await VfioUserClient.connect(path('a'));
  await client.reset();
  await client.setIrqTriggers(2, 0, [interrupt.fd]);
  readEventFd(interrupt.fd);
  device.interrupts.raise(2, 0);
  expect(readEventFd(interrupt.fd)).toBe(1n);
  await client.close();
});
