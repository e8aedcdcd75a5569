import { crc32 } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import {
  BLOCK_SIZE,
  checkHello,
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
  type Hello,
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
    expect(Buffer.from(go.subarray(0, 28)).toString('hex')).toBe(
      '444d4c47060000000000000003000000ef46db3751d8e99900000000',
    );
    expect(viewOf(go).getUint32(28, true)).toBe(crc32(go.subarray(0, 28)));
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
    viewOf(header).setUint32(28, crc32(header.subarray(0, 28)), true);
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
  it('takes bytes that were read to where they belong as it takes those from elsewhere', () => {
    fc.assert(
      fc.property(
        fc.array(fc.uint8Array({ maxLength: 400 }), { minLength: 1, maxLength: 6 }),
        fc.array(fc.tuple(fc.boolean(), fc.integer({ min: 1, max: 90 })), { minLength: 1, maxLength: 40 }),
        (payloads, reads) => {
          const stream = Buffer.concat(payloads.map((payload, index) => frame(FrameType.DIGEST, index, payload)));
          const parser = new FrameParser();
          const found: Buffer[] = [];
          for (let at = 0, turn = 0; at < stream.length; turn++) {
            const [toItsPlace, most] = reads[turn % reads.length]!;
            const { place } = parser;
            const size = Math.min(most, stream.length - at, toItsPlace ? place.length : most);
            const piece = toItsPlace ? place.subarray(0, size) : new Uint8Array(size);
            piece.set(stream.subarray(at, at + size));
            at += size;
            for (const { payload } of parser.push(piece)) found.push(Buffer.from(payload));
          }
          expect(found).toEqual(payloads.map(payload => Buffer.from(payload)));
        },
      ),
      { numRuns: 500 },
    );
  });

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
    versions: [2, 3] as const,
    features: ['zstd'],
    requires: [],
    pageSize: 4096,
    memory: [{ iova: 1n << 63n, length: 1n << 40n }],
    devices: [7, 1],
    timeoutMs: 60_000,
  };

  function changed(members: object): string {
    return JSON.stringify({ ...JSON.parse(new TextDecoder().decode(encodeHello(hello))), ...members });
  }

  it('come back as they were sent', () => {
    expect(decodeHello(encodeHello(hello))).toEqual(hello);
    const withToken = { ...hello, token: Uint8Array.from({ length: 16 }, (_, index) => 250 - index) };
    expect(decodeHello(encodeHello(withToken))).toEqual(withToken);
    expect(decodeHello(encodeHello({ ...hello, requestMs: 0.25 }))).toEqual({ ...hello, requestMs: 0.25 });
    const heard = decodeAbort(
      encodeAbort({ error: new VfioError('EIO', { operation: 'disk', message: 'full' }), mayRun: false }),
    );
    expect(heard.error.message).toContain('disk: full (EIO)');
    expect(heard.mayRun).toBe(false);
  });

  it.each([-1, '5', null, [1]])('say nothing of how fast devices answer by %j', requestMs => {
    expect(decodeHello(Buffer.from(changed({ requestMs })))).toEqual(hello);
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
    ['an empty object', '{}'],
    ['a missing member', changed({ devices: undefined })],
    ['a version that is no range', changed({ versions: 2 })],
    ['versions that are no numbers', changed({ versions: ['2', '3'] })],
    ['versions the wrong way round', changed({ versions: [3, 2] })],
    ['no features', changed({ features: undefined })],
    ['features that are no names', changed({ features: ['A b'] })],
    ['features without end', changed({ features: Array.from({ length: 257 }, (_, index) => `f${index}`) })],
    ['needs that are no list', changed({ requires: 'zstd' })],
    ['a range that is no pair', changed({ memory: [['0x0']] })],
    ['a range that is too large', changed({ memory: [['0x0', '0x11112222333344445']] })],
    ['a range of words', changed({ memory: [['low', 'high']] })],
    ['flags that are no numbers', changed({ devices: [{}] })],
    ['no timeout', changed({ timeoutMs: undefined })],
    ['a token of another size', changed({ token: 'abcd' })],
    ['broken UTF-8', Buffer.from([0x7b, 0xff, 0x7d])],
  ])('are refused when they are %s', (_, text) => {
    expect(errnoOf(() => decodeHello(Buffer.from(text as string)))).toBe('EBADMSG');
  });

  it('blocks fit frames', () => {
    expect(BLOCK_SIZE % 4096).toBe(0);
    expect(MAX_PAYLOAD).toBeGreaterThan(BLOCK_SIZE);
  });
});

describe('two releases', () => {
  const common = { pageSize: 4096, memory: [{ iova: 0n, length: 4096n }], devices: [7], timeoutMs: 1000 };
  const here: Hello = { versions: [2, 4], features: ['zero-pages', 'zstd'], requires: [], ...common };

  it('speak the highest version of both, with the features of both, when the other one is later', () => {
    const json = JSON.parse(new TextDecoder().decode(encodeHello(here)));
    const later = { ...json, versions: [3, 9], features: ['zstd', 'holograms'], colour: 'blue', memory2: [[1]] };
    const theirs = decodeHello(new TextEncoder().encode(JSON.stringify(later)));
    expect(checkHello(here, theirs)).toEqual({ version: 4, features: new Set(['zstd']) });
  });

  it('speak what the earlier one can, without what it cannot', () => {
    const earlier: Hello = { ...here, versions: [2, 2], features: [] };
    expect(checkHello(here, earlier)).toEqual({ version: 2, features: new Set() });
    expect(checkHello(earlier, here)).toEqual({ version: 2, features: new Set() });
  });

  it('agree on the same from either end', () => {
    const range = fc.tuple(fc.nat(6), fc.nat(6)).map(([low, more]) => [low, low + more] as const);
    const names = fc.uniqueArray(fc.constantFrom('a', 'b', 'c', 'd'));
    const hello = fc.record({ versions: range, features: names });
    const outcome = (one: Hello, other: Hello) => {
      try {
        const { version, features } = checkHello(one, other);
        return { version, features: [...features].sort() };
      } catch (error) {
        return (error as VfioError).errno;
      }
    };
    fc.assert(
      fc.property(hello, hello, (one, other) => {
        const [a, b] = [
          { ...here, ...one },
          { ...here, ...other },
        ];
        expect(outcome(a, b)).toEqual(outcome(b, a));
        const shared = Array.from({ length: 13 }, (_, version) => version).filter(version =>
          [a, b].every(({ versions: [low, high] }) => low <= version && version <= high),
        );
        if (shared.length === 0) expect(outcome(a, b)).toBe('EPROTO');
        else expect(outcome(a, b)).toMatchObject({ version: shared.at(-1) });
      }),
    );
  });

  it('with no version in common are refused, naming both ranges and which one to update', () => {
    const later: Hello = { ...here, versions: [5, 7] };
    expect(() => checkHello(here, later)).toThrow(
      /versions: .*versions 5 to 7 .*this one 2 to 4: dmalog here must be updated \(EPROTO\)/,
    );
    expect(() => checkHello(later, here)).toThrow(/versions 2 to 4 .*5 to 7: dmalog at the other end must be updated/);
  });

  it('are refused when one needs what the other cannot do, naming it', () => {
    const strict: Hello = { ...here, features: ['zstd', 'holograms'], requires: ['holograms'] };
    expect(() => checkHello(here, strict)).toThrow(/needs holograms, which this release .* cannot do \(EPROTO\)/);
    expect(() => checkHello(strict, here)).toThrow(/at the other end cannot do holograms, needed here \(EPROTO\)/);
  });
});
