import { crc32 } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  BLOCK_SIZE,
  checkPayload,
  decodeAbort,
  decodeFrameHeader,
  decodeHello,
  encodeAbort,
  encodeFrameHeader,
  encodeHello,
  FRAME_HEADER_SIZE,
  FrameParser,
  FrameType,
  MAX_PAYLOAD,
} from '../../src/migration/index.js';
import { VfioError, viewOf } from '../../src/uapi/index.js';

function frame(type: FrameType, sequence: number, payload: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(FRAME_HEADER_SIZE + payload.length);
  bytes.set(payload, FRAME_HEADER_SIZE);
  encodeFrameHeader(bytes, type, sequence, payload);
  return bytes;
}

function errnoOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    return (error as VfioError).errno;
  }
  return 'none';
}

describe('a frame header', () => {
  it('has the bytes of the worked example', () => {
    const go = frame(FrameType.GO, 3, new Uint8Array(0));
    expect(Buffer.from(go.subarray(0, 20)).toString('hex')).toBe('444d4c4706000000000000000300000000000000');
    expect(viewOf(go).getUint32(20, true)).toBe(crc32(go.subarray(0, 20)));
  });

  it('is refused when any bit of it was changed', () => {
    const header = frame(FrameType.PASS, 7, Uint8Array.of(1, 2, 3, 4)).subarray(0, FRAME_HEADER_SIZE);
    for (let bit = 0; bit < FRAME_HEADER_SIZE * 8; bit++) {
      const changed = header.slice();
      changed[bit >>> 3]! ^= 1 << (bit & 7);
      expect(
        errnoOf(() => decodeFrameHeader(changed, 7)),
        `bit ${bit}`,
      ).toBe('EBADMSG');
    }
  });

  it('is refused out of sequence: lost, doubled and replayed frames', () => {
    const header = frame(FrameType.PASS, 7, new Uint8Array(4)).subarray(0, FRAME_HEADER_SIZE);
    for (const due of [0, 6, 8]) expect(errnoOf(() => decodeFrameHeader(header, due))).toBe('EBADMSG');
    expect(decodeFrameHeader(header, 7)).toMatchObject({ type: FrameType.PASS, length: 4, sequence: 7 });
  });

  it('is refused with a payload beyond the limit, before memory is taken for it', () => {
    const header = new Uint8Array(FRAME_HEADER_SIZE);
    encodeFrameHeader(header, FrameType.MEMORY, 0, new Uint8Array(0));
    viewOf(header).setUint32(8, MAX_PAYLOAD + 1, true);
    viewOf(header).setUint32(20, crc32(header.subarray(0, 20)), true);
    expect(errnoOf(() => decodeFrameHeader(header, 0))).toBe('EMSGSIZE');
  });

  it('finds a payload that was changed', () => {
    const bytes = frame(FrameType.MEMORY, 0, Uint8Array.of(1, 2, 3));
    const header = decodeFrameHeader(bytes.subarray(0, FRAME_HEADER_SIZE), 0);
    expect(errnoOf(() => checkPayload(header, Uint8Array.of(1, 2, 2)))).toBe('EBADMSG');
    expect(errnoOf(() => checkPayload(header, Uint8Array.of(1, 2, 3)))).toBe('none');
  });
});

describe('FrameParser', () => {
  const payloads = [new Uint8Array(0), Uint8Array.of(9), Buffer.from('device state'), Buffer.alloc(300, 7)];
  const types = [FrameType.GO, FrameType.PASS, FrameType.DEVICE_STATE, FrameType.MEMORY];
  const stream = Buffer.concat(payloads.map((payload, index) => frame(types[index]!, index, payload)));

  function parse(pieces: readonly Uint8Array[]): { type: number; payload: string }[] {
    const parser = new FrameParser();
    const frames: { type: number; payload: string }[] = [];
    for (const piece of pieces) {
      for (const { type, payload } of parser.push(piece)) {
        frames.push({ type, payload: Buffer.from(payload).toString('hex') });
      }
    }
    expect(parser.atBorder).toBe(true);
    return frames;
  }

  const expected = payloads.map((payload, index) => ({
    type: types[index]!,
    payload: Buffer.from(payload).toString('hex'),
  }));

  it('finds the same frames wherever the stream is split', () => {
    for (let at = 0; at <= stream.length; at++) {
      expect(parse([stream.subarray(0, at), stream.subarray(at)]), `split at ${at}`).toEqual(expected);
    }
  });

  it('finds the same frames in pieces of any sizes', () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: 64 }), { maxLength: 60 }), sizes => {
        const pieces: Uint8Array[] = [];
        let at = 0;
        for (const size of sizes) {
          pieces.push(stream.subarray(at, at + size));
          at += size;
        }
        pieces.push(stream.subarray(at));
        expect(parse(pieces)).toEqual(expected);
      }),
      { numRuns: 1000 },
    );
  });

  it('knows when a stream ends inside a frame', () => {
    for (let at = 1; at < FRAME_HEADER_SIZE; at++) {
      const parser = new FrameParser();
      expect([...parser.push(stream.subarray(0, at))]).toEqual([]);
      expect(parser.atBorder).toBe(false);
    }
  });
});

describe('HELLO and ABORT', () => {
  const hello = {
    version: 1,
    pageSize: 4096,
    memory: [{ iova: 1n << 63n, length: 1n << 40n }],
    devices: [7, 1],
    timeoutMs: 60_000,
  };

  it('come back as they were sent', () => {
    expect(decodeHello(encodeHello(hello))).toEqual(hello);
    const heard = decodeAbort(
      encodeAbort({ error: new VfioError('EIO', { operation: 'disk', message: 'full' }), mayRun: false }),
    );
    expect(heard.error.message).toContain('disk: full (EIO)');
    expect(heard.mayRun).toBe(false);
  });

  it('fit a frame however much an error quotes, and are taken for a machine that may run when they do not say', () => {
    const long = new VfioError('EIO', { operation: 'x', message: 'y'.repeat(2_000_000) });
    expect(encodeAbort({ error: long, mayRun: true }).length).toBeLessThan(MAX_PAYLOAD);
    expect(decodeAbort(Buffer.from('{}')).mayRun).toBe(true);
  });

  it.each([
    ['no JSON', 'hello'],
    ['no object', '7'],
    ['null', 'null'],
    ['a missing member', '{"version":1,"pageSize":4096,"memory":[]}'],
    ['a version that is no number', '{"version":"1","pageSize":4096,"memory":[],"devices":[],"timeoutMs":1}'],
    ['a range that is no pair', '{"version":1,"pageSize":4096,"memory":[["0x0"]],"devices":[],"timeoutMs":1}'],
    [
      'a range that is too large',
      '{"version":1,"pageSize":4096,"memory":[["0x0","0x11112222333344445"]],"devices":[],"timeoutMs":1}',
    ],
    ['a range of words', '{"version":1,"pageSize":4096,"memory":[["low","high"]],"devices":[],"timeoutMs":1}'],
    ['flags that are no numbers', '{"version":1,"pageSize":4096,"memory":[],"devices":[{}],"timeoutMs":1}'],
    ['no timeout', '{"version":1,"pageSize":4096,"memory":[],"devices":[]}'],
    ['broken UTF-8', Buffer.from([0x7b, 0xff, 0x7d])],
  ])('are refused when they are %s', (_, text) => {
    expect(errnoOf(() => decodeHello(Buffer.from(text as string)))).toBe('EBADMSG');
  });

  it('blocks fit frames', () => {
    expect(BLOCK_SIZE % 4096).toBe(0);
    expect(MAX_PAYLOAD).toBeGreaterThan(BLOCK_SIZE);
  });
});
