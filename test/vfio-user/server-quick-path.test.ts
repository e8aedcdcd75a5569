import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { MaybePromise } from '../../src/memory/index.js';
import { VfioError } from '../../src/uapi/index.js';
import { Command, type ServerOptions } from '../../src/vfio-user/index.js';
import { expectNoFdLeak, temporaryFolder } from '../native/helpers.js';
import { message, NO_REPLY, type Peer, type ReceivedMessage, until, words } from './peer.js';
import { greeted, serve } from './served.js';
import { StampDevice } from './stamp-device.js';

expectNoFdLeak();
const path = temporaryFolder();

/** Registers that answer at once, later, or not at all, by their offset; later ones keep what they were given until then. */
class MoodyDevice extends StampDevice {
  protected override readRegister(_bar: number, offset: number, into: Uint8Array): MaybePromise<void> {
    return this.#inItsMood(offset, () => into.set(this.registers.subarray(offset, offset + into.length)));
  }

  protected override writeRegister(_bar: number, offset: number, data: Uint8Array): MaybePromise<void> {
    return this.#inItsMood(offset, () => this.registers.set(data, offset));
  }

  #inItsMood(offset: number, move: () => void): MaybePromise<void> {
    if (offset >= 96) throw new VfioError('EBUSY', { operation: 'register' });
    if (offset < 64) return move();
    return new Promise(resolve => setImmediate(resolve)).then(move);
  }
}

interface Access {
  command: number;
  region: number;
  offset: number;
  count: number;
  flags: number;
}

const access: fc.Arbitrary<Access> = fc.record({
  command: fc.constantFrom(Command.REGION_READ, Command.REGION_WRITE, Command.REGION_WRITE, Command.DEVICE_GET_INFO),
  region: fc.constantFrom(0, 0, 0, 0, 1, 7, 6, 9),
  offset: fc.oneof(fc.nat(100), fc.constantFrom(250, 256, 4090, 4096, 2 ** 32, 2 ** 53)),
  count: fc.oneof(fc.constantFrom(1, 2, 4, 8), fc.nat(12)),
  flags: fc.constantFrom(0, 0, 0, NO_REPLY),
});

function encode({ command, region, offset, count, flags }: Access, id: number): Uint8Array {
  if (command === Command.DEVICE_GET_INFO) return message(command, words(16, 0, 0, 0), { id, flags });
  const data = command === Command.REGION_WRITE ? Array.from({ length: count }, (_, index) => id + index) : [];
  return message(command, Uint8Array.from([...words(BigInt(offset), region, count), ...data]), { id, flags });
}

async function replies(peer: Peer, accesses: readonly Access[]): Promise<ReceivedMessage[]> {
  const wanted = accesses.filter(({ flags }) => flags !== NO_REPLY).length;
  const received: ReceivedMessage[] = [];
  // One more, so that what came without a reply is done too.
  for (let count = 0; count < wanted + 1; count++) received.push(await peer.reply());
  return received;
}

const last = message(Command.DEVICE_GET_IRQ_INFO, words(16, 0, 2, 0), { id: 999 });

test.each<ServerOptions['loop']>(['shared', 'dedicated'])(
  'any accesses in one piece are answered as when each comes in two, by a device in any mood (%s loop)',
  async loop => {
    const options = loop === undefined ? {} : { loop };
    const { device } = await serve(path(`one-${loop}`), options, new MoodyDevice());
    const { device: twin } = await serve(path(`two-${loop}`), {}, new MoodyDevice());
    const peer = await greeted(path(`one-${loop}`));
    const twinPeer = await greeted(path(`two-${loop}`));
    await fc.assert(
      fc.asyncProperty(fc.array(access, { minLength: 1, maxLength: 60 }), async accesses => {
        await peer.send(Buffer.concat([...accesses.map(encode), last]));
        for (const [id, each] of accesses.entries()) await twinPeer.sendSplit(encode(each, id), 20);
        await twinPeer.send(last);
        expect(await replies(peer, accesses)).toEqual(await replies(twinPeer, accesses));
        expect(Buffer.compare(device.registers, twin.registers)).toBe(0);
      }),
      { numRuns: 100 },
    );
  },
);

test('accesses whose replies are not read wait, and are all answered when they are', async () => {
  const { device } = await serve(path('unread'));
  const peer = await greeted(path('unread'));
  const batch = Buffer.concat(
    Array.from({ length: 100 }, (_, id) => message(Command.REGION_READ, words(0n, 0, 8), { id })),
  );
  let sent = 0;
  for (let idle = 0; idle < 20; ) {
    if (peer.trySend(batch)) sent += 100;
    else {
      await new Promise(resolve => setImmediate(resolve));
      idle++;
    }
  }
  expect(sent).toBeGreaterThan(1000);
  // A batch may have been sent in part: what is whole is answered.
  for (let count = 0; count < sent - 100; count++) expect((await peer.reply()).id).toBe(count % 100);
  peer.close();
  await until(() => device.events.includes('disconnect'));
});

test('a read that the device leaves unanswered is of zeros, whatever was written before', async () => {
  class Silent extends StampDevice {
    protected override readRegister(): void {}
  }
  await serve(path('zeros'), {}, new Silent());
  const peer = await greeted(path('zeros'));
  await peer.request(Command.REGION_WRITE, words(0n, 0, 4, 0xdeadbeef));
  const reply = await peer.request(Command.REGION_READ, words(0n, 0, 4));
  expect(reply.payload).toEqual(words(0n, 0, 4, 0));
});

test('a device that closes its server in the middle of an access keeps its memory to the end of it', async () => {
  class Closing extends StampDevice {
    close_: (() => Promise<void>) | undefined;
    protected override writeRegister(): MaybePromise<void> {
      void this.close_?.();
      this.events.push(`${this.dma.map.statistics.regions} regions`);
      return new Promise<void>(resolve => setImmediate(resolve)).then(() => {
        this.events.push(`${this.dma.map.statistics.regions} regions`);
      });
    }
  }
  const device = new Closing();
  const { server } = await serve(path('closing'), {}, device);
  device.close_ = () => server.close();
  const peer = await greeted(path('closing'));
  expect(await peer.errno(Command.DMA_MAP, words(32, 3, 0n, 0n, 0x1000n))).toBe(0);
  await peer.send(message(Command.REGION_WRITE, words(0n, 0, 4, 1)));
  await until(() => device.events.length > 0);
  await server.close();
  expect(device.events).toEqual(['1 regions', '1 regions', 'disconnect']);
});
