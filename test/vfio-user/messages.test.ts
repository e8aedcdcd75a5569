import { describe, expect, test } from 'vitest';
import { IrqSet, viewOf } from '../../src/uapi/index.js';
import {
  decodeInfo,
  decodeInfoRequest,
  decodeIrqInfo,
  decodeIrqInfoRequest,
  decodeRegionInfo,
  decodeRegionInfoRequest,
  encodeInfo,
  encodeInfoRequest,
  encodeIrqInfo,
  encodeIrqInfoRequest,
  encodeRegionInfo,
  encodeRegionInfoRequest,
} from '../../src/vfio-user/wire/device-messages.js';
import {
  decodeDmaMap,
  decodeDmaUnmap,
  decodeDmaUnmapBitmap,
  encodeDmaMap,
  encodeDmaUnmap,
  newDmaUnmapBitmap,
} from '../../src/vfio-user/wire/dma-messages.js';
import { decodeHeader, encodeCommand, encodeErrorReply, encodeReply } from '../../src/vfio-user/wire/header.js';
import { decodeSetIrqs, encodeSetIrqs } from '../../src/vfio-user/wire/irq-messages.js';
import {
  decodeMigrationData,
  decodeMigrationRead,
  decodeMigrationWrite,
  encodeMigrationData,
  encodeMigrationRead,
} from '../../src/vfio-user/wire/migration-messages.js';
import {
  decodeRegionData,
  decodeRegionRead,
  decodeRegionWrite,
  decodeRegionWriteMulti,
  decodeRegionWritesDone,
  encodeRegionAccess,
  encodeRegionWrite,
  encodeRegionWriteMulti,
  encodeRegionWritesDone,
  newRegionData,
} from '../../src/vfio-user/wire/region-messages.js';
import { errnoOf } from '../native/helpers.js';
import { words } from './peer.js';

const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString('hex');
const { DATA_NONE, DATA_BOOL, DATA_EVENTFD, ACTION_MASK, ACTION_UNMASK, ACTION_TRIGGER } = IrqSet;

describe('every message has the bytes of the protocol', () => {
  test('headers', () => {
    expect(hex(encodeErrorReply({ id: 7, command: 9 }, 22))).toBe('07000900100000002100000016000000');
    expect(hex(encodeReply({ id: 0xfffe, command: 18 }, Uint8Array.of(0xaa)))).toBe(
      'feff1200110000000100000000000000aa',
    );
    expect(hex(encodeCommand(1, 13, new Uint8Array(0), true))).toBe('01000d00100000001000000000000000');
    expect(decodeHeader(viewOf(encodeErrorReply({ id: 7, command: 9 }, 22)))).toEqual({
      id: 7,
      command: 9,
      size: 16,
      type: 1,
      noReply: false,
      error: true,
      errno: 22,
    });
  });

  test.each([
    [
      'DMA_MAP',
      encodeDmaMap({ iova: 0x1000n, length: 0x2000n, readable: true, writable: true, offset: 0x3000n }),
      words(32, 3, 0x3000n, 0x1000n, 0x2000n),
    ],
    ['DMA_UNMAP', encodeDmaUnmap({ iova: 0x1000n, length: 0x2000n }), words(24, 0, 0x1000n, 0x2000n)],
    ['DMA_UNMAP of all', encodeDmaUnmap('all'), words(24, 2, 0n, 0n)],
    [
      'DMA_UNMAP with the dirty bitmap',
      encodeDmaUnmap({ iova: 0x1000n, length: 0x2000n, dirtyBitmap: { pageSize: 4096n, bytes: 16 } }),
      words(56, 1, 0x1000n, 0x2000n, 4096n, 16n),
    ],
    ['GET_INFO', encodeInfoRequest(), words(16, 0, 0, 0)],
    ['GET_INFO, reply', encodeInfo({ flags: 3, regions: 9, irqs: 5 }), words(16, 3, 9, 5)],
    ['GET_REGION_INFO', encodeRegionInfoRequest(7), words(32, 0, 7, 0, 0n, 0n)],
    ['GET_REGION_INFO, reply', encodeRegionInfo(7, { flags: 3, size: 256 }).payload, words(32, 3, 7, 0, 256n, 0n)],
    ['GET_IRQ_INFO', encodeIrqInfoRequest(2), words(16, 0, 2, 0)],
    ['GET_IRQ_INFO, reply', encodeIrqInfo(2, { flags: 9, count: 4 }), words(16, 9, 2, 4)],
    [
      'SET_IRQS with eventfds',
      encodeSetIrqs({ type: 2, start: 1, count: 3, action: ACTION_TRIGGER, data: 'eventfd' }),
      words(20, 36, 2, 1, 3),
    ],
    [
      'SET_IRQS with bytes',
      encodeSetIrqs({ type: 0, start: 0, count: 4, action: ACTION_MASK, data: Uint8Array.of(1, 0, 0, 1) }),
      words(24, 10, 0, 0, 4, 0x01000001),
    ],
    ['REGION_READ', encodeRegionAccess({ region: 7, offset: 2 ** 40, count: 8 }), words(2n ** 40n, 7, 8)],
    ['REGION_WRITE', encodeRegionWrite(1, 16, Uint8Array.of(1, 2, 3, 4)), words(16n, 1, 4, 0x04030201)],
    [
      'REGION_WRITE_MULTI',
      encodeRegionWriteMulti([
        { region: 1, offset: 16, data: Uint8Array.of(1, 2, 3, 4) },
        { region: 2, offset: 24, data: Uint8Array.of(9) },
      ]),
      words(2n, 16n, 1, 4, 0x04030201n, 24n, 2, 1, 9n),
    ],
    ['REGION_WRITE_MULTI, reply', encodeRegionWritesDone(2), words(2n)],
    ['MIG_DATA_READ', encodeMigrationRead(100), words(108, 100)],
    ['MIG_DATA_READ, reply', encodeMigrationData(Uint8Array.of(1, 2, 3, 4)), words(12, 4, 0x04030201)],
  ])('%s', (_name, encoded, bytes) => {
    expect(hex(encoded)).toBe(hex(bytes));
  });
});

describe('what one side encodes the other decodes', () => {
  test('DMA_MAP and DMA_UNMAP', () => {
    const map = { iova: 2n ** 64n - 8192n, length: 4096n, readable: false, writable: true, offset: 2n ** 40n };
    expect(decodeDmaMap(encodeDmaMap(map))).toEqual(map);
    expect(decodeDmaUnmap(encodeDmaUnmap({ iova: 4096n, length: 8192n }))).toEqual({ iova: 4096n, length: 8192n });
    expect(decodeDmaUnmap(encodeDmaUnmap('all'))).toBe('all');
  });

  test('DMA_UNMAP with the dirty bitmap, and its reply', () => {
    const unmap = { iova: 4096n, length: 8192n, dirtyBitmap: { pageSize: 1024n, bytes: 16 } };
    const request = encodeDmaUnmap(unmap);
    expect(decodeDmaUnmap(request)).toEqual(unmap);
    const { reply, bitmap } = newDmaUnmapBitmap(request, 16);
    bitmap.set([0x81, 0, 0, 5]);
    expect(decodeDmaUnmapBitmap(reply, unmap.dirtyBitmap)).toEqual(words(0x81, 0, 0, 5));
    expect(reply.subarray(0, 40)).toEqual(request);
  });

  test('several writes to regions', () => {
    const writes = [
      { region: 0, offset: 2 ** 40, data: Uint8Array.of(1) },
      { region: 7, offset: 4, data: Uint8Array.of(1, 2, 3, 4, 5, 6, 7, 8) },
      { region: 1, offset: 0, data: new Uint8Array(0) },
    ];
    expect(decodeRegionWriteMulti(encodeRegionWriteMulti(writes))).toEqual(writes);
    expect(decodeRegionWriteMulti(encodeRegionWriteMulti([]))).toEqual([]);
    expect(decodeRegionWritesDone(encodeRegionWritesDone(2), 3)).toBe(2);
  });

  test('device, region and IRQ information', () => {
    expect(decodeInfo(encodeInfo({ flags: 3, regions: 9, irqs: 5 }))).toEqual({ flags: 3, regions: 9, irqs: 5 });
    expect(decodeRegionInfoRequest(encodeRegionInfoRequest(8))).toEqual({ region: 8, argsz: 32 });
    expect(decodeRegionInfoRequest(encodeRegionInfoRequest(8, 96))).toEqual({ region: 8, argsz: 96 });
    expect(decodeRegionInfo(encodeRegionInfo(8, { flags: 1, size: 2 ** 41 }).payload)).toEqual({
      needed: 32,
      whole: true,
      flags: 1,
      size: 2 ** 41,
      fileOffset: 0n,
      areas: undefined,
    });
    expect(decodeIrqInfoRequest(encodeIrqInfoRequest(4))).toBe(4);
    expect(decodeIrqInfo(encodeIrqInfo(4, { flags: 1, count: 2048 }))).toEqual({ flags: 1, count: 2048 });
  });

  test.each([
    { type: 2, start: 1, count: 2, action: ACTION_TRIGGER, data: 'eventfd' as const },
    { type: 0, start: 0, count: 1, action: ACTION_UNMASK, data: 'none' as const },
    { type: 2, start: 0, count: 0, action: ACTION_TRIGGER, data: 'none' as const },
    { type: 2, start: 0, count: 3, action: ACTION_TRIGGER, data: Uint8Array.of(0, 1, 2) },
  ])('SET_IRQS %o', message => {
    expect(decodeSetIrqs(encodeSetIrqs(message))).toEqual(message);
  });

  test('region access', () => {
    expect(decodeRegionRead(encodeRegionAccess({ region: 1, offset: 2, count: 3 }), 3)).toEqual({
      region: 1,
      offset: 2,
      count: 3,
    });
    expect(decodeRegionWrite(encodeRegionWrite(1, 2, Uint8Array.of(3, 4)))).toEqual({
      region: 1,
      offset: 2,
      count: 2,
      data: Uint8Array.of(3, 4),
    });
    const { reply, data } = newRegionData({ region: 1, offset: 2, count: 2 });
    data.set([8, 9]);
    expect(decodeRegionData(reply, 2)).toEqual(Uint8Array.of(8, 9));
  });

  test('migration data', () => {
    expect(decodeMigrationRead(encodeMigrationRead(77), 77)).toBe(77);
    expect(decodeMigrationWrite(encodeMigrationData(Uint8Array.of(5, 6)))).toEqual(Uint8Array.of(5, 6));
    expect(decodeMigrationData(encodeMigrationData(Uint8Array.of(5, 6)), 2)).toEqual(Uint8Array.of(5, 6));
  });

  test('migration data that a server has padded to what was asked for', () => {
    const padded = new Uint8Array(8 + 100);
    padded.set(encodeMigrationData(Uint8Array.of(5, 6)));
    expect(decodeMigrationData(padded, 100)).toEqual(Uint8Array.of(5, 6));
  });
});

describe('a message of a wrong size is EINVAL', () => {
  const decoders: [string, Uint8Array, (bytes: Uint8Array) => unknown][] = [
    ['DMA_MAP', words(32, 3, 0n, 0n, 4096n), decodeDmaMap],
    ['DMA_UNMAP', words(24, 0, 0n, 4096n), decodeDmaUnmap],
    ['GET_INFO', encodeInfoRequest(), decodeInfoRequest],
    ['GET_REGION_INFO', encodeRegionInfoRequest(0), decodeRegionInfoRequest],
    ['GET_IRQ_INFO', encodeIrqInfoRequest(0), decodeIrqInfoRequest],
    ['SET_IRQS', words(20, DATA_NONE | ACTION_TRIGGER, 2, 0, 1), decodeSetIrqs],
    ['SET_IRQS with bytes', words(24, DATA_BOOL | ACTION_TRIGGER, 2, 0, 4, 0), decodeSetIrqs],
    ['REGION_READ', words(0n, 0, 8), bytes => decodeRegionRead(bytes, 4096)],
    ['REGION_WRITE', encodeRegionWrite(0, 0, new Uint8Array(8)), decodeRegionWrite],
    ['REGION_WRITE_MULTI', words(1n, 0n, 0, 4, 0n), decodeRegionWriteMulti],
    ['REGION_WRITE_MULTI, reply', words(1n), bytes => decodeRegionWritesDone(bytes, 1)],
    ['DMA_UNMAP with the dirty bitmap', words(48, 1, 0n, 4096n, 4096n, 8n), decodeDmaUnmap],
    [
      'DMA_UNMAP with the dirty bitmap, reply',
      words(48, 1, 0n, 4096n, 4096n, 8n, 1n),
      bytes => decodeDmaUnmapBitmap(bytes, { pageSize: 4096n, bytes: 8 }),
    ],
    ['REGION_READ, reply', encodeRegionWrite(0, 0, new Uint8Array(8)), bytes => decodeRegionData(bytes, 8)],
    ['MIG_DATA_READ', encodeMigrationRead(8), bytes => decodeMigrationRead(bytes, 4096)],
    ['MIG_DATA_WRITE', encodeMigrationData(new Uint8Array(8)), decodeMigrationWrite],
  ];

  test.each(decoders)('%s', (_name, whole, decode) => {
    expect(errnoOf(() => decode(whole))).toBeUndefined();
    for (let size = 0; size < whole.length; size++) {
      expect(errnoOf(() => decode(whole.subarray(0, size)))).toBe('EINVAL');
    }
    expect(errnoOf(() => decode(Uint8Array.from([...whole, 0])))).toBe('EINVAL');
  });

  const withArgsz = decoders.filter(([name]) => !name.startsWith('REGION') && !name.includes('bitmap, reply'));
  test.each(withArgsz)('%s with an argsz that is too small', (name, whole, decode) => {
    const bytes = whole.slice();
    const needed = name.startsWith('SET_IRQS') ? 20 : new DataView(bytes.buffer).getUint32(0, true);
    new DataView(bytes.buffer).setUint32(0, needed - 1, true);
    expect(errnoOf(() => decode(bytes))).toBe('EINVAL');
  });

  test('replies that are short', () => {
    const replies: [Uint8Array, (bytes: Uint8Array) => unknown][] = [
      [encodeInfo({ flags: 0, regions: 9, irqs: 5 }), decodeInfo],
      [encodeRegionInfo(0, { flags: 0, size: 1 }).payload, decodeRegionInfo],
      [encodeIrqInfo(0, { flags: 0, count: 1 }), decodeIrqInfo],
      [encodeMigrationData(new Uint8Array(8)), bytes => decodeMigrationData(bytes, 8)],
    ];
    for (const [whole, decode] of replies) {
      for (let size = 0; size < whole.length; size++) {
        expect(errnoOf(() => decode(whole.subarray(0, size)))).toBe('EINVAL');
      }
    }
  });
});

describe('what a field may not say is EINVAL', () => {
  test.each([
    ['unknown flags', words(32, 16, 0n, 0n, 4096n)],
    ['an address within a page', words(32, 3, 0n, 0x800n, 4096n)],
    ['a size of half a page', words(32, 3, 0n, 0n, 2048n)],
  ])('DMA_MAP: %s', (_name, bytes) => {
    expect(errnoOf(() => decodeDmaMap(bytes))).toBe('EINVAL');
  });

  test('DMA_MAP takes the flags of the extension', () => {
    expect(decodeDmaMap(words(32, 15, 0n, 0n, 4096n))).toMatchObject({ readable: true, writable: true });
  });

  test.each([
    ['unknown flags', words(24, 4, 0n, 4096n), 'EINVAL'],
    ['all, and an address', words(24, 2, 4096n, 0n), 'EINVAL'],
    ['all, and a size', words(24, 2, 0n, 4096n), 'EINVAL'],
    ['an address within a page', words(24, 0, 1n, 4096n), 'EINVAL'],
    ['all, and a dirty bitmap', words(48, 3, 0n, 0n, 4096n, 8n), 'EINVAL'],
    ['a dirty bitmap of no pages', words(48, 1, 0n, 4096n, 0n, 8n), 'EINVAL'],
    ['a dirty bitmap of no power of two', words(48, 1, 0n, 4096n, 4097n, 8n), 'EINVAL'],
    ['a dirty bitmap that is too small', words(48, 1, 0n, 65n * 4096n, 4096n, 8n), 'EINVAL'],
    ['a dirty bitmap of no whole words', words(64, 1, 0n, 4096n, 4096n, 12n), 'EINVAL'],
    ['a dirty bitmap that argsz has no room for', words(48, 1, 0n, 4096n, 4096n, 16n), 'EINVAL'],
    ['a dirty bitmap beyond all memory', words(2 ** 32 - 1, 1, 0n, 2n ** 63n, 1n, 2n ** 60n), 'EINVAL'],
  ])('DMA_UNMAP: %s', (_name, bytes, errno) => {
    expect(errnoOf(() => decodeDmaUnmap(bytes))).toBe(errno);
  });

  test.each([
    ['another page size', words(48, 1, 0n, 4096n, 8192n, 8n, 1n)],
    ['another number of bytes', words(48, 1, 0n, 4096n, 4096n, 16n, 1n)],
  ])('DMA_UNMAP: a reply with a bitmap of %s', (_name, bytes) => {
    expect(errnoOf(() => decodeDmaUnmapBitmap(bytes, { pageSize: 4096n, bytes: 8 }))).toBe('EINVAL');
  });

  test('REGION_WRITE_MULTI: more writes than are taken, more bytes than a write has, more done than asked for', () => {
    const write = { region: 0, offset: 0, data: Uint8Array.of(1) };
    expect(decodeRegionWriteMulti(encodeRegionWriteMulti(Array(200).fill(write)))).toHaveLength(200);
    expect(errnoOf(() => encodeRegionWriteMulti(Array(201).fill(write)))).toBe('EINVAL');
    expect(errnoOf(() => encodeRegionWriteMulti([{ ...write, data: new Uint8Array(9) }]))).toBe('EINVAL');
    expect(errnoOf(() => decodeRegionWriteMulti(Uint8Array.from([...words(201n), ...new Uint8Array(201 * 24)])))).toBe(
      'EINVAL',
    );
    expect(errnoOf(() => decodeRegionWriteMulti(words(2n ** 63n)))).toBe('EINVAL');
    expect(errnoOf(() => decodeRegionWriteMulti(words(1n, 0n, 0, 9, 0n)))).toBe('EINVAL');
    expect(errnoOf(() => decodeRegionWritesDone(words(4n), 3))).toBe('EINVAL');
  });

  test('SET_IRQS: of all combinations of flags, those with one kind of data and one action, eventfds only to trigger', () => {
    const allowed = new Set([
      DATA_NONE | ACTION_MASK,
      DATA_NONE | ACTION_UNMASK,
      DATA_NONE | ACTION_TRIGGER,
      DATA_BOOL | ACTION_MASK,
      DATA_BOOL | ACTION_UNMASK,
      DATA_BOOL | ACTION_TRIGGER,
      DATA_EVENTFD | ACTION_TRIGGER,
    ]);
    for (let flags = 0; flags < 128; flags++) {
      const head = words(24, flags, 2, 0, 4);
      const bytes = (flags & DATA_BOOL) === 0 ? head : Uint8Array.from([...head, 1, 1, 1, 1]);
      expect(errnoOf(() => decodeSetIrqs(bytes))).toBe(allowed.has(flags) ? undefined : 'EINVAL');
    }
  });

  test.each([
    ['nothing, trigger', DATA_NONE | ACTION_TRIGGER, undefined],
    ['nothing, mask', DATA_NONE | ACTION_MASK, 'EINVAL'],
    ['bytes, trigger', DATA_BOOL | ACTION_TRIGGER, 'EINVAL'],
    ['eventfds, trigger', DATA_EVENTFD | ACTION_TRIGGER, 'EINVAL'],
  ])('SET_IRQS: a count of 0 with %s', (_name, flags, errno) => {
    expect(errnoOf(() => decodeSetIrqs(words(20, flags, 2, 0, 0)))).toBe(errno);
  });

  test('REGION_READ: more than is sent at once, and an offset beyond 2^53', () => {
    expect(errnoOf(() => decodeRegionRead(words(0n, 0, 4097), 4096))).toBe('EINVAL');
    expect(errnoOf(() => decodeRegionRead(words(2n ** 53n, 0, 1), 4096))).toBe('EINVAL');
    expect(errnoOf(() => decodeRegionWrite(words(2n ** 64n - 1n, 0, 0)))).toBe('EINVAL');
  });

  test('MIG_DATA_READ: more than is sent at once, and an argsz that does not hold it', () => {
    expect(errnoOf(() => decodeMigrationRead(words(8 + 4097, 4097), 4096))).toBe('EINVAL');
    expect(errnoOf(() => decodeMigrationRead(words(8 + 4095, 4096), 4096))).toBe('EINVAL');
    expect(errnoOf(() => decodeMigrationData(encodeMigrationData(new Uint8Array(9)), 8))).toBe('EINVAL');
  });

  test('a caller with a number that its field does not hold', () => {
    const region = { iova: 0n, length: 4096n, readable: true, writable: true, offset: 0n };
    expect(errnoOf(() => encodeDmaMap({ ...region, iova: 2n ** 64n }))).toBe('EINVAL');
    expect(errnoOf(() => encodeDmaMap({ ...region, offset: -4096n }))).toBe('EINVAL');
    expect(errnoOf(() => encodeDmaUnmap({ iova: -4096n, length: 4096n }))).toBe('EINVAL');
    expect(errnoOf(() => encodeRegionAccess({ region: -1, offset: 0, count: 1 }))).toBe('EINVAL');
    expect(errnoOf(() => encodeRegionAccess({ region: 0, offset: -1, count: 1 }))).toBe('EINVAL');
    expect(errnoOf(() => encodeRegionAccess({ region: 0, offset: 0.5, count: 1 }))).toBe('EINVAL');
    expect(errnoOf(() => encodeRegionAccess({ region: 0, offset: 0, count: 2 ** 32 }))).toBe('EINVAL');
    const irqs = { type: 2, start: 0, count: 1, action: ACTION_TRIGGER, data: 'none' as const };
    expect(errnoOf(() => encodeSetIrqs({ ...irqs, start: -1 }))).toBe('EINVAL');
    expect(errnoOf(() => encodeMigrationRead(2 ** 32))).toBe('EINVAL');
  });
});
