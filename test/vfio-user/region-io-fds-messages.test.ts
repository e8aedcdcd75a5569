import { expect, test } from 'vitest';
import { viewOf } from '../../src/uapi/index.js';
import { IoEventFdFlag, IoFdType } from '../../src/vfio-user/wire/constants.js';
import {
  decodeRegionIoFds,
  decodeRegionIoFdsRequest,
  encodeRegionIoFds,
  encodeRegionIoFdsRequest,
} from '../../src/vfio-user/wire/region-io-fds-messages.js';
import { errnoOf } from '../native/helpers.js';
import { words } from './peer.js';

const plain = { offset: 0x1000, size: 4, fdIndex: 0, type: IoFdType.IOEVENTFD, flags: 0, match: 0n };
const matching = { ...plain, offset: 0x1008, size: 8, flags: IoEventFdFlag.DATAMATCH, match: 2n ** 63n };
const shadowed = {
  ...plain,
  fdIndex: 1,
  type: IoFdType.IOEVENTFD_SHADOW,
  shadow: { fdIndex: 2, offset: 0x2000n },
};

test('the request has the bytes of the protocol, and is decoded as it was encoded', () => {
  expect(encodeRegionIoFdsRequest(2, 112)).toEqual(words(112, 0, 2, 0));
  expect(decodeRegionIoFdsRequest(words(112, 0, 2, 0))).toEqual({ region: 2, argsz: 112 });
});

test.each([
  ['flags', words(16, 1, 2, 0)],
  ['a count', words(16, 0, 2, 1)],
  ['an argsz that is too small', words(15, 0, 2, 0)],
  ['12 bytes', words(16, 0, 2)],
  ['20 bytes', words(16, 0, 2, 0, 0)],
])('a request with %s is EINVAL', (_name, bytes) => {
  expect(errnoOf(() => decodeRegionIoFdsRequest(bytes))).toBe('EINVAL');
});

test('the reply has the bytes of the C reference, and is decoded as it was encoded', () => {
  const { payload, complete } = encodeRegionIoFds(2, [plain, matching, shadowed], 4096);
  expect(complete).toBe(true);
  expect(payload).toEqual(
    Uint8Array.from([
      ...words(160, 0, 2, 3),
      ...words(0x1000n, 4n, 0, 0, 0, 0, 0n, 0n),
      ...words(0x1008n, 8n, 0, 0, 1, 0, 0n, 2n ** 63n),
      ...words(0x1000n, 4n, 1, 2, 0, 2, 0x2000n, 0n),
    ]),
  );
  expect(decodeRegionIoFds(payload, 2)).toEqual({ needed: 160, whole: true, entries: [plain, matching, shadowed] });
});

test('a region without any has no entries', () => {
  expect(decodeRegionIoFds(encodeRegionIoFds(2, [], 16).payload, 2)).toEqual({ needed: 16, whole: true, entries: [] });
});

test('entries of 40 bytes, as the text of the protocol has them, are read by argsz and count', () => {
  const reply = Uint8Array.from([
    ...words(96, 0, 2, 2),
    ...words(0x1000n, 4n, 0, 0, 0, 0, 0n),
    ...words(0x1008n, 8n, 0, 0, 1, 0, 2n ** 63n),
  ]);
  expect(decodeRegionIoFds(reply, 2)).toEqual({ needed: 96, whole: true, entries: [plain, matching] });
});

test('an ioregionfd has its user data at byte 32, however long the entries are', () => {
  for (const tail of [words(7n), words(7n, 9n)]) {
    const entry = Uint8Array.from([...words(0n, 4n, 0, IoFdType.IOREGIONFD, 0, 0), ...tail]);
    const reply = Uint8Array.from([...words(16 + entry.length, 0, 0, 1), ...entry]);
    expect(decodeRegionIoFds(reply, 0)).toMatchObject({ entries: [{ type: IoFdType.IOREGIONFD, match: 7n }] });
  }
});

test('an argsz without room for all gets the one that has, and no entries', () => {
  for (let argsz = 16; argsz < 112; argsz++) {
    const { payload, complete } = encodeRegionIoFds(1, [plain, matching], argsz);
    expect(complete).toBe(false);
    expect(payload).toEqual(words(112, 0, 1, 2));
    expect(decodeRegionIoFds(payload, 1)).toEqual({ needed: 112, whole: false, entries: [] });
  }
});

test('a reply that makes no sense is EINVAL', () => {
  const whole = encodeRegionIoFds(2, [plain, matching], 4096).payload;
  expect(errnoOf(() => decodeRegionIoFds(whole, 3))).toBe('EINVAL');
  for (let size = 0; size < 16; size++) {
    expect(errnoOf(() => decodeRegionIoFds(whole.subarray(0, size), 2))).toBe('EINVAL');
  }
  for (const count of [3, 5, 2 ** 32 - 1]) {
    const bytes = whole.slice();
    viewOf(bytes).setUint32(12, count, true);
    expect(errnoOf(() => decodeRegionIoFds(bytes, 2))).toBe('EINVAL');
  }
  for (const argsz of [0, 15, 16, 95, 111]) {
    const bytes = whole.slice();
    viewOf(bytes).setUint32(0, argsz, true);
    expect(errnoOf(() => decodeRegionIoFds(bytes, 2))).toBe('EINVAL');
  }
  const far = whole.slice();
  viewOf(far).setBigUint64(16, 2n ** 60n, true);
  expect(errnoOf(() => decodeRegionIoFds(far, 2))).toBe('EINVAL');
});
