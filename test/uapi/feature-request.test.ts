import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  decodeFeatureRequest,
  encodeFeatureFlags,
  encodeFeatureRequest,
  FEATURE_GET,
  FEATURE_HEADER_SIZE,
  FEATURE_MASK,
  FEATURE_PROBE,
  FEATURE_SET,
} from '../../src/uapi/index.js';
import { errnoOf } from '../log/bitmaps.js';
import { bytesOf, unaligned } from './hex.js';

function header(argsz: number, flags: number): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setUint32(0, argsz, true);
  new DataView(bytes.buffer).setUint32(4, flags, true);
  return bytes;
}

/** The field that the refusal of these bytes names; `undefined` when they are accepted. */
function refusedField(bytes: Uint8Array): string | undefined {
  try {
    decodeFeatureRequest(bytes);
    return undefined;
  } catch (error) {
    expect(errnoOf(() => decodeFeatureRequest(bytes))).toBe('EINVAL');
    return (error as { field?: string }).field;
  }
}

describe('the header', () => {
  test('is argsz and flags, with the feature in bits 0 to 15, GET 16, SET 17, PROBE 18', () => {
    expect([FEATURE_HEADER_SIZE, FEATURE_MASK, FEATURE_GET, FEATURE_SET, FEATURE_PROBE]).toEqual([
      8, 0xffff, 0x10000, 0x20000, 0x40000,
    ]);
    expect(encodeFeatureRequest({ index: 6, set: true, probe: true })).toEqual(bytesOf('08 00 00 00  06 00 06 00'));
    expect(encodeFeatureRequest({ index: 0xffff, get: true, argsz: 0xffffffff })).toEqual(
      bytesOf('ff ff ff ff  ff ff 01 00'),
    );
    expect(encodeFeatureFlags({ index: 8, get: true })).toBe(0x10008);
  });

  test('argsz is the size of header and data unless said otherwise', () => {
    expect(encodeFeatureRequest({ index: 1, get: true, data: Uint8Array.of(1, 2, 3) })).toEqual(
      bytesOf('0b 00 00 00  01 00 01 00  01 02 03'),
    );
  });

  test('comes apart into the same parts, whatever they are', () => {
    const parts = fc.record({
      index: fc.integer({ min: 0, max: 0xffff }),
      argsz: fc.integer({ min: 8, max: 0xffffffff }),
      direction: fc.constantFrom<{ get: boolean; set: boolean; probe: boolean }>(
        ...[false, true].flatMap(get => [false, true].map(set => ({ get, set, probe: true }))),
        { get: true, set: false, probe: false },
        { get: false, set: true, probe: false },
        { get: false, set: false, probe: false },
      ),
      data: fc.uint8Array({ maxLength: 40 }),
    });
    fc.assert(
      fc.property(parts, ({ index, argsz, direction, data }) => {
        const request = { index, argsz, ...direction, data };
        const decoded = decodeFeatureRequest(unaligned(encodeFeatureRequest(request)));
        expect({ ...decoded, data: [...decoded.data] }).toEqual({ ...request, data: [...data] });
      }),
      { numRuns: 2000 },
    );
  });
});

describe("Linux's first checks, in Linux's order", () => {
  test('a header cut at any length is EINVAL', () => {
    for (let length = 0; length < 8; length++)
      expect(refusedField(header(8, 0x40006).subarray(0, length))).toBe('argsz');
    expect(refusedField(header(8, 0x40006))).toBe(undefined);
  });

  test('argsz below 8 is EINVAL, before the flags are looked at (rows A18 to A21)', () => {
    for (let argsz = 0; argsz < 8; argsz++) {
      expect(refusedField(header(argsz, 0x40006))).toBe('argsz');
      expect(refusedField(header(argsz, 0xffffffff))).toBe('argsz');
    }
    for (const argsz of [8, 0xffffffff]) expect(refusedField(header(argsz, 0x40006))).toBe(undefined);
  });

  test('every unknown flag bit is EINVAL, before GET with SET (rows A22 to A24)', () => {
    for (let bit = 19; bit < 32; bit++) {
      const unknown = 2 ** bit;
      expect(refusedField(header(64, 0x40006 + unknown))).toBe('flags');
      expect(() => decodeFeatureRequest(header(64, 0x30006 + unknown))).toThrow('unknown bits');
    }
  });

  test('GET with SET is EINVAL without PROBE, for any feature (rows A28, A44)', () => {
    for (const index of [6, 7, 8, 0x7f]) {
      expect(() => decodeFeatureRequest(header(64, 0x30000 + index))).toThrow('GET and SET together need PROBE');
      expect(refusedField(header(64, 0x70000 + index))).toBe(undefined);
    }
  });

  test('no flag at all is left to the feature (rows A29, A45)', () => {
    expect(decodeFeatureRequest(header(64, 0x7f))).toMatchObject({ index: 0x7f, get: false, set: false, probe: false });
  });
});
