import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createEventFd, type OwnedFd, openFdCount } from '../../src/native/index.js';
import { closeFds, type Frame, FrameParser } from '../../src/vfio-user/wire/frame-parser.js';
import { expectNoFdLeak, pattern, sameBytes } from '../native/helpers.js';
import { message } from './peer.js';

expectNoFdLeak();

/** A parser that keeps what it tells. */
function recorder(maxPayload = 4096, maxFds = 4) {
  const frames: Frame[] = [];
  const broken: { id: number; field: string | undefined }[] = [];
  const parser = new FrameParser(maxPayload, maxFds, {
    frame: frame => frames.push(frame),
    broken: (header, error) => broken.push({ id: header.id, field: error.field }),
  });
  return { frames, broken, parser };
}

function bodies(frames: readonly Frame[]): string[] {
  return frames.map(({ header, payload }) => `${header.id}:${Buffer.from(payload).toString('hex')}`);
}

const three = [
  message(9, pattern(5), { id: 1 }),
  message(10, pattern(0), { id: 2 }),
  message(16, pattern(40), { id: 3 }),
];
const stream = Uint8Array.from(three.flatMap(bytes => [...bytes]));
const expected = [
  `1:${Buffer.from(pattern(5)).toString('hex')}`,
  '2:',
  `3:${Buffer.from(pattern(40)).toString('hex')}`,
];

describe('whole messages come out of bytes in any pieces', () => {
  test('three messages cut at every pair of offsets', () => {
    for (let first = 0; first <= stream.length; first++) {
      for (let second = first; second <= stream.length; second++) {
        const { frames, parser } = recorder();
        for (const piece of [stream.subarray(0, first), stream.subarray(first, second), stream.subarray(second)]) {
          parser.push(piece, []);
        }
        expect(bodies(frames)).toEqual(expected);
      }
    }
  });

  test('any messages in any pieces', () => {
    const payloads = fc.array(fc.uint8Array({ maxLength: 200 }), { minLength: 1, maxLength: 8 });
    fc.assert(
      fc.property(payloads, fc.array(fc.integer({ min: 1, max: 90 }), { minLength: 1 }), (list, sizes) => {
        const { frames, parser } = recorder();
        const bytes = Uint8Array.from(list.flatMap((payload, id) => [...message(9, payload, { id })]));
        for (let at = 0, index = 0; at < bytes.length; index++) {
          const size = sizes[index % sizes.length]!;
          parser.push(bytes.slice(at, at + size), []);
          at += size;
        }
        expect(bodies(frames)).toEqual(list.map((payload, id) => `${id}:${Buffer.from(payload).toString('hex')}`));
      }),
      { numRuns: 2000 },
    );
  });

  test('a payload is not touched by what is received after it', () => {
    const { frames, parser } = recorder();
    const shared = message(9, pattern(8));
    parser.push(shared, []);
    shared.fill(0);
    expect(frames[0]!.payload).toEqual(pattern(8));
  });
});

describe('the rest of a large payload', () => {
  const LARGE = 64 * 1024;

  /** Brings bytes as a stream does: to their place where there is one, else by way of a buffer. */
  function bring(parser: FrameParser, bytes: Uint8Array, most: number, fds: OwnedFd[] = []): number {
    const place = parser.unfilled;
    const count = Math.min(most, bytes.length, place?.length ?? most);
    if (place === undefined) parser.push(bytes.slice(0, count), fds);
    else {
      place.set(bytes.subarray(0, count));
      parser.filled(count, fds, false);
    }
    return count;
  }

  test('is received in its place, in any pieces, and the message behind it is not', () => {
    const large = message(9, pattern(3 * LARGE + 5), { id: 1 });
    const bytes = Uint8Array.from([...three[0]!, ...large, ...three[2]!]);
    const pieces = fc.array(fc.oneof(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 2 * LARGE })), {
      minLength: 1,
    });
    fc.assert(
      fc.property(pieces, sizes => {
        const { frames, parser } = recorder(1 << 20);
        let inPlace = 0;
        for (let at = 0, index = 0; at < bytes.length; index++) {
          const more = Math.max(sizes[index % sizes.length]!, index > 1000 ? LARGE : 0);
          if (parser.unfilled !== undefined) inPlace++;
          at += bring(parser, bytes.subarray(at), more);
        }
        expect(inPlace).toBeGreaterThan(0);
        expect(frames.map(({ payload }) => payload.length)).toEqual([5, 3 * LARGE + 5, 40]);
        expect(sameBytes(frames[1]!.payload, large.subarray(16))).toBe(true);
        expect(frames[2]!.payload).toEqual(pattern(40));
      }),
      { numRuns: 100 },
    );
  });

  test('brings its descriptors, and goes with the parser', () => {
    const { frames, parser } = recorder(1 << 20);
    const before = openFdCount();
    const large = message(9, pattern(LARGE), { id: 1 });
    parser.push(large.subarray(0, 16), [createEventFd()]);
    bring(parser, large.subarray(16), LARGE, [createEventFd()]);
    expect(frames[0]!.fds.length).toBe(2);
    closeFds(frames[0]!.fds);
    parser.push(large.subarray(0, 16), [createEventFd()]);
    expect(parser.unfilled?.length).toBe(LARGE);
    parser.close();
    expect(parser.unfilled).toBeUndefined();
    expect(openFdCount()).toBe(before);
  });

  test('takes memory that was given back, if there is enough of it, and only once', () => {
    const { frames, parser } = recorder(1 << 20);
    const receive = (size: number, seed: number) => {
      parser.push(message(9, pattern(size, seed)), []);
      const { payload } = frames.at(-1)!;
      expect(sameBytes(payload, pattern(size, seed))).toBe(true);
      return payload;
    };
    const first = receive(2 * LARGE, 1);
    parser.reuse(first.subarray(8));
    expect(receive(100, 2).buffer).not.toBe(first.buffer);
    const second = receive(LARGE, 3);
    expect(second.buffer).toBe(first.buffer);
    expect(receive(LARGE, 4).buffer).not.toBe(first.buffer);
    parser.reuse(second);
    expect(receive(3 * LARGE, 5).buffer).not.toBe(first.buffer);
    expect(receive(2 * LARGE, 6).buffer).toBe(first.buffer);
  });
});

describe('descriptors belong to the message in which the last byte of their piece lies', () => {
  function fdsOf(frames: readonly Frame[]): number[] {
    const counts = frames.map(frame => frame.fds.length);
    for (const frame of frames) closeFds(frame.fds);
    return counts;
  }

  test('whatever of the message before it came along', () => {
    const bytes = stream;
    const starts = [0, 21, 37];
    for (let before = 0; before < starts[2]!; before++) {
      for (let end = starts[2]! + 1; end <= bytes.length; end++) {
        const { frames, parser } = recorder();
        parser.push(bytes.subarray(0, before), []);
        parser.push(bytes.subarray(before, end), [createEventFd(), createEventFd()]);
        parser.push(bytes.subarray(end), []);
        expect(fdsOf(frames)).toEqual([0, 0, 2]);
      }
    }
  });

  test('also when they come with the middle of one', () => {
    for (let at = 1; at < three[2]!.length; at++) {
      const { frames, parser } = recorder();
      parser.push(three[2]!.subarray(0, at), [createEventFd()]);
      parser.push(three[2]!.subarray(at), [createEventFd()]);
      expect(fdsOf(frames)).toEqual([2]);
    }
  });

  test('those beyond the limit are closed at once', () => {
    const { frames, parser } = recorder(4096, 2);
    const before = openFdCount();
    parser.push(three[0]!, [createEventFd(), createEventFd(), createEventFd()]);
    expect(openFdCount()).toBe(before + 2);
    expect(fdsOf(frames)).toEqual([2]);
  });

  test('those of a message that never ends are closed with the parser', () => {
    const { parser } = recorder();
    const before = openFdCount();
    parser.push(three[2]!.subarray(0, 20), [createEventFd()]);
    parser.close();
    parser.push(three[2]!.subarray(20), [createEventFd()]);
    expect(openFdCount()).toBe(before);
  });

  test('a message whose descriptors were lost says so, and the next one does not', () => {
    const { frames, parser } = recorder();
    parser.push(three[2]!.subarray(0, 4), [], true);
    parser.push(three[2]!.subarray(4), []);
    parser.push(three[0]!, []);
    expect(frames.map(frame => frame.fdsLost)).toEqual([true, false]);
  });
});

describe('a size that is no size ends the stream', () => {
  test.each([0, 1, 15, 16 + 4096 + 1, 0x7fff_ffff, 0xffff_ffff])('size %i', size => {
    const { frames, broken, parser } = recorder();
    const before = process.memoryUsage().arrayBuffers;
    parser.push(message(9, new Uint8Array(0), { id: 5, size }), []);
    parser.push(three[0]!, [createEventFd()]);
    expect(broken).toEqual([{ id: 5, field: 'size' }]);
    expect(frames).toEqual([]);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(1 << 20);
  });

  test('the largest one allowed is none', () => {
    const { frames, parser } = recorder();
    parser.push(message(9, pattern(4096)), []);
    expect(frames[0]!.payload.length).toBe(4096);
  });

  test('what came before it is told', () => {
    const { frames, broken, parser } = recorder();
    const bad = message(9, new Uint8Array(0), { size: 3 });
    parser.push(Uint8Array.from([...three[0]!, ...bad, ...three[1]!]), []);
    expect(bodies(frames)).toEqual(expected.slice(0, 1));
    expect(broken.length).toBe(1);
  });
});

test('a parser that is closed by whom it tells tells nothing more', () => {
  const told: number[] = [];
  const extra: OwnedFd[] = [createEventFd()];
  const parser: FrameParser = new FrameParser(4096, 4, {
    frame: frame => {
      told.push(frame.header.id);
      parser.close();
    },
    broken: () => told.push(-1),
  });
  parser.push(stream, extra);
  expect(told).toEqual([1]);
});
