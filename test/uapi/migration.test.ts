import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  decodeDataSize,
  decodeDeviceState,
  decodeMigrationFlags,
  decodePrecopyInfo,
  encodeDataSize,
  encodeDeviceState,
  encodeMigrationFlags,
  encodePrecopyInfo,
  MIGRATION_P2P,
  MIGRATION_PRE_COPY,
  MIGRATION_STOP_COPY,
  MigrationState,
  migrationStateName,
} from '../../src/uapi/index.js';
import { errnoOf } from '../log/bitmaps.js';
import { bytesOf, unaligned } from './hex.js';

const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });

describe('the migration structures against bytes written by hand', () => {
  test('MIGRATION: u64 flags', () => {
    const bytes = bytesOf('07 00 00 00 00 00 00 00');
    expect(encodeMigrationFlags(MIGRATION_STOP_COPY | MIGRATION_P2P | MIGRATION_PRE_COPY)).toEqual(bytes);
    expect(decodeMigrationFlags(unaligned(bytes))).toBe(7);
    expect([MIGRATION_STOP_COPY, MIGRATION_P2P, MIGRATION_PRE_COPY]).toEqual([1, 2, 4]);
  });

  test('MIG_DEVICE_STATE: u32 state, i32 data fd, which may be -1', () => {
    const bytes = bytesOf('03 00 00 00  ff ff ff ff');
    expect(encodeDeviceState({ state: MigrationState.STOP_COPY, dataFd: -1 })).toEqual(bytes);
    expect(decodeDeviceState(unaligned(bytes))).toEqual({ state: 3, dataFd: -1 });
    expect(decodeDeviceState(bytesOf('ff ff ff ff  2a 00 00 00'))).toEqual({ state: 0xffffffff, dataFd: 42 });
  });

  test('MIG_DATA_SIZE: u64 length', () => {
    const bytes = bytesOf('60 00 00 00 00 00 00 80');
    expect(encodeDataSize(0x8000000000000060n)).toEqual(bytes);
    expect(decodeDataSize(unaligned(bytes))).toBe(0x8000000000000060n);
  });

  test('precopy info: u32 argsz, u32 flags, u64 initial, u64 dirty', () => {
    const bytes = bytesOf('18 00 00 00  00 00 00 00  34 12 00 00 00 00 00 00  00 00 00 00 01 00 00 00');
    expect(encodePrecopyInfo({ initialBytes: 0x1234n, dirtyBytes: 0x100000000n })).toEqual(bytes);
    expect(decodePrecopyInfo(unaligned(bytes))).toEqual({ initialBytes: 0x1234n, dirtyBytes: 0x100000000n });
  });

  test('cut at any length they are EINVAL', () => {
    const decoders: [(bytes: Uint8Array) => unknown, size: number][] = [
      [decodeMigrationFlags, 8],
      [decodeDeviceState, 8],
      [decodeDataSize, 8],
      [decodePrecopyInfo, 24],
    ];
    for (const [decode, size] of decoders) {
      for (let length = 0; length < size; length++)
        expect(errnoOf(() => decode(new Uint8Array(length)))).toBe('EINVAL');
      expect(errnoOf(() => decode(new Uint8Array(size)))).toBe(undefined);
    }
  });

  test('any values survive encoding and decoding', () => {
    const u32 = fc.integer({ min: 0, max: 0xffffffff });
    const i32 = fc.integer({ min: -(2 ** 31), max: 2 ** 31 - 1 });
    fc.assert(
      fc.property(u32, i32, u64, u64, (state, dataFd, initialBytes, dirtyBytes) => {
        expect(decodeMigrationFlags(encodeMigrationFlags(state))).toBe(state);
        expect(decodeDeviceState(encodeDeviceState({ state, dataFd }))).toEqual({ state, dataFd });
        expect(decodeDataSize(encodeDataSize(dirtyBytes))).toBe(dirtyBytes);
        expect(decodePrecopyInfo(encodePrecopyInfo({ initialBytes, dirtyBytes }))).toEqual({
          initialBytes,
          dirtyBytes,
        });
      }),
      { numRuns: 1000 },
    );
  });
});

test('the states have the numbers of linux/vfio.h, and their names', () => {
  const names = ['ERROR', 'STOP', 'RUNNING', 'STOP_COPY', 'RESUMING', 'RUNNING_P2P', 'PRE_COPY', 'PRE_COPY_P2P'];
  expect(Object.entries(MigrationState)).toEqual(names.map((name, number) => [name, number]));
  expect(names.map((_, number) => migrationStateName(number))).toEqual(names);
  expect(migrationStateName(8)).toBe('state 8');
  expect(migrationStateName(0xffffffff)).toBe('state 4294967295');
});
