import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { dispatchFeature, FeatureClient, LentMemory, LocalDevice, localDoor } from '../../src/device/index.js';
import {
  bitmapBytes,
  decodeFeatureRequest,
  encodeFeatureRequest,
  encodeReport,
  encodeStartInline,
  Feature,
  linux,
  MigrationState,
  profiles,
  rfc,
  VfioError,
  vfioUser,
  viewOf,
} from '../../src/uapi/index.js';
import { mapArray, TestDevice } from './test-device.js';

const PAGE = 4096n;

async function errnoOf(promise: Promise<unknown>): Promise<string | undefined> {
  return promise.then(
    () => undefined,
    (error: VfioError) => error.errno,
  );
}

describe('a session in every profile', () => {
  for (const profile of Object.values(profiles)) {
    test(`${profile.name}: what a device writes is reported once, through the same calls`, async () => {
      const device = new TestDevice();
      mapArray(device, 0x10000);
      await device.regionWrite(7, 4, Uint8Array.of(6, 0));
      const { features } = new LocalDevice(device, profile);
      expect(await features.hasLogging()).toBe(true);
      expect(await features.startLogging(PAGE, [{ iova: 0n, length: 0x10000n }])).toBe(PAGE);
      expect(await errnoOf(features.startLogging(PAGE, [{ iova: 0n, length: 0x10000n }]))).toBe('EINVAL');
      await device.dma.write(0x3fff, new Uint8Array(2));
      await device.dma.read(0x8000, new Uint8Array(2));
      const bitmap = new Uint32Array(2);
      await features.report({ iova: 0n, length: 0x10000n, pageSize: PAGE }, bitmap);
      expect([...bitmap]).toEqual([0b11000, 0]);
      await features.report({ iova: 0n, length: 0x10000n, pageSize: PAGE }, bitmap);
      expect([...bitmap]).toEqual([0b11000, 0]);
      await features.stopLogging();
      expect(await errnoOf(features.report({ iova: 0n, length: 0x10000n, pageSize: PAGE }, bitmap))).toBe('EINVAL');
      expect(await errnoOf(features.stopLogging())).toBe('EINVAL');
    });

    test(`${profile.name}: migration state and flags`, async () => {
      const { features } = new LocalDevice(new TestDevice(), profile);
      expect(await features.migrationFlags()).toBe(7);
      expect(await features.migrationState()).toBe(MigrationState.RUNNING);
      await features.setMigrationState(MigrationState.STOP_COPY);
      expect(await features.migrationState()).toBe(MigrationState.STOP_COPY);
      expect(await errnoOf(features.setMigrationState(MigrationState.ERROR))).toBe('EINVAL');
      const size = features.migrationDataSize();
      if (profile.hasDataSize) expect(await size).toBeGreaterThan(256n);
      else expect(await errnoOf(size)).toBe('ENOTTY');
    });
  }

  test('a device without logging or migration says ENOTTY', async () => {
    const device = new TestDevice({ log: false, migrationFlags: 0 });
    for (const profile of Object.values(profiles)) {
      const { features } = new LocalDevice(device, profile);
      expect(await features.hasLogging()).toBe(false);
      expect(await features.migrationFlags()).toBe(0);
      expect(await errnoOf(features.startLogging(PAGE, [{ iova: 0n, length: PAGE }]))).toBe('ENOTTY');
      expect(await errnoOf(features.setMigrationState(MigrationState.STOP))).toBe('ENOTTY');
    }
  });

  test("the rfc profile's indexes are power management in Linux: the linux profile does not have them", async () => {
    const device = new TestDevice();
    for (const index of [rfc.start, rfc.stop, rfc.report]) {
      const request = encodeFeatureRequest({ index, probe: true });
      expect(await errnoOf(dispatchFeature(device, linux, request))).toBe('ENOTTY');
      expect(await errnoOf(dispatchFeature(device, rfc, request))).toBeUndefined();
    }
  });
});

describe('the vfio-user profile', () => {
  const { start, report } = vfioUser;

  test('START without ranges logs every write', async () => {
    const device = new TestDevice();
    const { features } = new LocalDevice(device, vfioUser);
    await features.startLogging(PAGE, []);
    device.dma.log.record(0x1234_5678_9000n, 1);
    const bitmap = new Uint32Array(2);
    await features.report({ iova: 0x1234_5678_0000n, length: 0x10000n, pageSize: PAGE }, bitmap);
    expect([...bitmap]).toEqual([1 << 9, 0]);
  });

  test('START without ranges is EINVAL in the others', async () => {
    for (const profile of [linux, rfc]) {
      const { features } = new LocalDevice(new TestDevice(), profile);
      expect(await errnoOf(features.startLogging(PAGE, []))).toBe('EINVAL');
    }
  });

  test('a reply larger than the caller takes is EINVAL, and the log keeps its bits', async () => {
    const device = new TestDevice();
    device.dma.log.start(PAGE, [{ iova: 0n, length: 0x100000n }]);
    device.dma.log.record(0, 1);
    const data = encodeReport({ iova: 0n, length: 0x100000n, pageSize: PAGE });
    const enough = 8 + 24 + 32;
    for (const argsz of [8, 31, 32, enough - 1]) {
      const request = encodeFeatureRequest({ index: report, get: true, data, argsz });
      expect(await errnoOf(dispatchFeature(device, vfioUser, request))).toBe('EINVAL');
    }
    expect(device.dma.log.dirtyPages()).toBe(1);
    const request = encodeFeatureRequest({ index: report, get: true, data, argsz: enough });
    const reply = await dispatchFeature(device, vfioUser, request);
    expect(reply.length).toBe(enough);
    expect(viewOf(reply).getUint32(0, true)).toBe(enough);
    expect(reply.subarray(8, 32)).toEqual(data);
    expect(reply[32]).toBe(1);
  });

  test('an absurd report is refused before memory is taken for its bitmap', async () => {
    const device = new TestDevice();
    device.dma.log.start(PAGE, [{ iova: 0n, length: PAGE }]);
    for (const pageSize of [1n, PAGE]) {
      const data = encodeReport({ iova: 0n, length: (1n << 64n) - PAGE, pageSize });
      const request = encodeFeatureRequest({ index: report, get: true, data, argsz: 0xffff_ffff });
      expect(await errnoOf(dispatchFeature(device, vfioUser, request))).toBe('EINVAL');
    }
  });

  test('more ranges than the message holds is EINVAL at any length of the message', async () => {
    const device = new TestDevice();
    const data = encodeStartInline(PAGE, [
      { iova: 0n, length: PAGE },
      { iova: 0x10000n, length: PAGE },
    ]);
    for (let length = 0; length < data.length; length++) {
      const request = encodeFeatureRequest({ index: start, set: true, data: data.subarray(0, length), argsz: 1000 });
      expect(await errnoOf(dispatchFeature(device, vfioUser, request))).toBe('EINVAL');
      expect(device.dma.log.active).toBe(false);
    }
    viewOf(data).setUint32(8, 0xffff_ffff, true);
    const request = encodeFeatureRequest({ index: start, set: true, data, argsz: 1000 });
    expect(await errnoOf(dispatchFeature(device, vfioUser, request))).toBe('EINVAL');
  });

  test('a GET of the migration features needs no data; its reply has the structure', async () => {
    const request = encodeFeatureRequest({ index: Feature.MIG_DEVICE_STATE, get: true, argsz: 16 });
    const reply = await dispatchFeature(new TestDevice(), vfioUser, request);
    expect([...reply.subarray(8)]).toEqual([2, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    const small = encodeFeatureRequest({ index: Feature.MIG_DEVICE_STATE, get: true, argsz: 15 });
    expect(await errnoOf(dispatchFeature(new TestDevice(), vfioUser, small))).toBe('EINVAL');
  });
});

describe('any bytes as a request', () => {
  test('are answered or refused with an errno, in every profile', async () => {
    const device = new TestDevice();
    const flags = fc.tuple(fc.nat(12), fc.nat(7)).map(([index, bits]) => index | (bits << 16));
    const word = fc.oneof(fc.constantFrom(0n, 1n, PAGE, 1n << 63n, (1n << 64n) - 1n), fc.bigInt(0n, (1n << 64n) - 1n));
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(...Object.values(profiles)),
        fc.oneof(fc.nat(0xffff_ffff), fc.nat(128)),
        fc.oneof({ weight: 9, arbitrary: flags }, { weight: 1, arbitrary: fc.nat(0xffff_ffff) }),
        fc.array(word, { maxLength: 8 }),
        fc.nat(80),
        async (profile, argsz, flagsWord, words, length) => {
          const bytes = new Uint8Array(8 + words.length * 8);
          const view = viewOf(bytes);
          view.setUint32(0, argsz, true);
          view.setUint32(4, flagsWord, true);
          for (const [index, value] of words.entries()) view.setBigUint64(8 + 8 * index, value, true);
          try {
            await dispatchFeature(device, profile, bytes.subarray(0, length), new LentMemory());
          } catch (error) {
            expect(error).toBeInstanceOf(VfioError);
          }
        },
      ),
      { numRuns: 5000 },
    );
  });
});

describe('the client', () => {
  /** A client whose replies hold at most `maxReply` bytes, and the sizes of the reports it asked for. */
  function smallDoor(device: TestDevice, profile: typeof linux, maxReply: number) {
    const door = localDoor(device, profile);
    const asked: bigint[] = [];
    const client = new FeatureClient({
      ...door,
      maxReply,
      maxRequest: 1 << 20,
      request: message => {
        const { index, data } = decodeFeatureRequest(message);
        if (index === profile.report) asked.push(viewOf(data).getBigUint64(8, true));
        return door.request(message);
      },
    });
    return { client, asked };
  }

  test('asks for a large report piece by piece, and puts the pieces together', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(linux, vfioUser),
        fc.integer({ min: 1, max: 4000 }),
        fc.constantFrom(4096n, 8192n),
        fc.integer({ min: 40, max: 200 }),
        fc.array(fc.nat(3999), { maxLength: 30 }),
        async (profile, pages, pageSize, maxReply, dirty) => {
          const device = new TestDevice();
          const length = BigInt(pages) * PAGE;
          device.dma.log.start(PAGE, [{ iova: 0n, length }]);
          for (const page of dirty) device.dma.log.record(page * 4096, 1);
          const { client, asked } = smallDoor(device, profile, maxReply);
          const bitmap = new Uint32Array(Number(bitmapBytes(length, pageSize)) / 4);
          await client.report({ iova: 0n, length, pageSize }, bitmap);
          const bits = new Set<number>();
          for (let bit = 0; bit < bitmap.length * 32; bit++) {
            if (((bitmap[bit >>> 5]! >>> (bit & 31)) & 1) === 1) bits.add(bit);
          }
          const inRange = dirty.filter(page => page < pages);
          expect(bits).toEqual(new Set(inRange.map(page => Math.floor((page * 4096) / Number(pageSize)))));
          expect(asked.reduce((sum, piece) => sum + piece, 0n)).toBe(length);
          const most = BigInt(Math.floor((maxReply - 32) / 8) * 64) * pageSize;
          expect(asked.every(piece => piece <= most)).toBe(true);
        },
      ),
      { numRuns: 500 },
    );
  });

  test('cuts through no log page: what was reported once is clean, wherever the interval begins', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom(linux, vfioUser),
        fc.bigInt(0n, 300n),
        fc.bigInt(1n, 3000n),
        fc.constantFrom(4096n, 8192n),
        fc.integer({ min: 40, max: 300 }),
        fc.array(fc.nat(3300), { minLength: 1, maxLength: 10 }),
        async (profile, first, pages, pageSize, maxReply, dirty) => {
          const device = new TestDevice({ log: { pageSizes: [PAGE * 16n] } });
          const range = { iova: first * PAGE, length: pages * PAGE };
          device.dma.log.start(PAGE * 16n, [range]);
          for (const page of dirty) device.dma.log.record(page * 4096, 1);
          const { client } = smallDoor(device, profile, maxReply);
          const bitmap = new Uint32Array(Number(bitmapBytes(range.length, pageSize)) / 4);
          await client.report({ ...range, pageSize }, bitmap);
          const inRange = dirty.filter(page => BigInt(page) >= first && BigInt(page) < first + pages);
          for (const page of inRange) {
            const bit = Number(((BigInt(page) - first) * PAGE) / pageSize);
            expect((bitmap[bit >>> 5]! >>> (bit & 31)) & 1).toBe(1);
          }
          if (pageSize === PAGE || first % 2n === 0n) expect(device.dma.log.dirtyPages()).toBe(0);
        },
      ),
      { numRuns: 1000 },
    );
  });

  test('refuses a bitmap that is too small, before it asks', async () => {
    const device = new TestDevice();
    device.dma.log.start(PAGE, [{ iova: 0n, length: 0x100000n }]);
    const { client, asked } = smallDoor(device, linux, 4096);
    const report = client.report({ iova: 0n, length: 0x100000n, pageSize: PAGE }, new Uint32Array(6));
    expect(await errnoOf(report)).toBe('EINVAL');
    expect(asked).toEqual([]);
  });

  test('takes a reply without its bitmap, or of another feature, for EPROTO: never for "nothing is dirty"', async () => {
    const device = new TestDevice();
    device.dma.log.start(PAGE, [{ iova: 0n, length: 0x100000n }]);
    const door = localDoor(device, vfioUser);
    const answering = (change: (reply: Uint8Array) => Uint8Array) =>
      new FeatureClient({ ...door, request: async message => change(await door.request(message)) });
    const ask = (client: FeatureClient) =>
      errnoOf(client.report({ iova: 0n, length: 0x100000n, pageSize: PAGE }, new Uint32Array(8)));
    expect(await ask(answering(reply => reply))).toBeUndefined();
    expect(await ask(answering(reply => reply.subarray(0, 32)))).toBe('EPROTO');
    expect(await ask(answering(reply => reply.subarray(0, reply.length - 1)))).toBe('EPROTO');
    expect(await ask(answering(reply => reply.subarray(0, 7)))).toBe('EPROTO');
    for (const at of [4, 8, 24]) {
      const changed = (reply: Uint8Array) => {
        const copy = reply.slice();
        copy[at]! ^= 1;
        return copy;
      };
      expect(await ask(answering(changed))).toBe('EPROTO');
    }
  });

  test.each([
    ['is missing', (reply: Uint8Array) => reply.subarray(0, 12)],
    ['is 0', (reply: Uint8Array) => reply.slice().fill(0, 8, 16)],
    ['is no power of two', (reply: Uint8Array) => reply.slice().fill(3, 8, 9)],
  ])('takes START’s answer whose page size %s for EPROTO', async (_name, change) => {
    const door = localDoor(new TestDevice(), vfioUser);
    const client = new FeatureClient({ ...door, request: async message => change(await door.request(message)) });
    expect(await errnoOf(client.startLogging(PAGE, []))).toBe('EPROTO');
  });

  test('takes a state that is cut off for EPROTO', async () => {
    const door = localDoor(new TestDevice(), vfioUser);
    const client = new FeatureClient({ ...door, request: async () => Uint8Array.of(8, 0, 0, 0, 2, 0, 1, 0) });
    expect(await errnoOf(client.migrationState())).toBe('EPROTO');
  });

  test('asks for no report that has no answer: a page size of 0, a negative length', async () => {
    const { client, asked } = smallDoor(new TestDevice(), vfioUser, 4096);
    for (const wrong of [
      { iova: 0n, length: PAGE, pageSize: 0n },
      { iova: 0n, length: -PAGE, pageSize: PAGE },
    ]) {
      expect(await errnoOf(client.report(wrong, new Uint32Array(2)))).toBe('EINVAL');
    }
    expect(asked).toEqual([]);
  });

  test('takes lent buffers back also when the request fails', async () => {
    const device = new TestDevice();
    const door = localDoor(device, linux);
    let lent = 0;
    const client = new FeatureClient({
      ...door,
      lend: bytes => {
        lent++;
        return door.lend!(bytes);
      },
      take: address => {
        lent--;
        door.take!(address);
      },
    });
    await client.startLogging(PAGE, [{ iova: 0n, length: PAGE }]);
    expect(await errnoOf(client.startLogging(PAGE, [{ iova: 0n, length: PAGE }]))).toBe('EINVAL');
    await client.report({ iova: 0n, length: PAGE, pageSize: PAGE }, new Uint32Array(2));
    expect(lent).toBe(0);
  });

  test('hands other errors than "not there" through a probe', async () => {
    const door = localDoor(new TestDevice(), linux);
    const gone = new VfioError('ECONNRESET', { operation: 'DEVICE_FEATURE' });
    const client = new FeatureClient({ ...door, request: () => Promise.reject(gone) });
    expect(await errnoOf(client.hasLogging())).toBe('ECONNRESET');
  });
});

describe('lent memory', () => {
  test('one byte before, behind or between two buffers is a fault', () => {
    const memory = new LentMemory();
    const first = memory.lend(new Uint8Array(4096));
    const second = memory.lend(new Uint8Array(10));
    expect(first % 4096n).toBe(0n);
    expect(memory.at(first, 4096).length).toBe(4096);
    expect(memory.at(second + 3n, 7).length).toBe(7);
    for (const [address, length] of [
      [first - 1n, 1],
      [first, 4097],
      [first + 4096n, 1],
      [second + 9n, 2],
      [0n, 0],
    ] as const) {
      expect(() => memory.at(address, length)).toThrow('EFAULT');
    }
    memory.take(first);
    expect(() => memory.at(first, 1)).toThrow('EFAULT');
  });
});
