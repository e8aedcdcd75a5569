import { randomBytes } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { setTimeout as delay } from 'node:timers/promises';
import fc from 'fast-check';
import { afterEach, describe, expect, it, vi } from 'vitest';
import {
  encodeControlFrame,
  FrameChannel,
  FrameType,
  type LinkEvent,
  MigrationReceiver,
} from '../../src/migration/index.js';
import { dialTo } from '../../src/migration/link/dial.js';
import { readFirstFrame } from '../../src/migration/link/first-frame.js';
import type { Dial } from '../../src/migration/link/link-keeper.js';
import { decodeResume, encodeResume, type Resume } from '../../src/migration/link/resume.js';
import { encodeFrameHeader, FRAME_HEADER_SIZE } from '../../src/migration/stream/stream-format.js';
import { type ErrnoName, VfioError } from '../../src/uapi/index.js';
import { hashOf, type Link, move, tamperedLink, twoHosts } from './two-hosts.js';

const opened: { close(): unknown }[] = [];
afterEach(async () => {
  for (const each of opened.splice(0).reverse()) await each.close();
});

type Tamper = Parameters<typeof tamperedLink>[1];

interface TwoEndsOptions {
  forth?: Tamper;
  back?: Tamper;
  timeoutMs?: number;
  /** How the first attempts fail that are made after the first connection. */
  redialFailures?: readonly ErrnoName[];
}

/** Two ends of a channel, and a link in between that a test can make worse. */
async function twoEnds({ forth, back, timeoutMs = 2000, redialFailures = [] }: TwoEndsOptions = {}) {
  const events: LinkEvent[] = [];
  const token = randomBytes(16);
  const listening = new FrameChannel({ timeoutMs });
  const refused: VfioError[] = [];
  let isBegun = false;
  const server = createServer(async socket => {
    socket.on('error', () => {});
    if (!isBegun) {
      isBegun = true;
      listening.begin(socket);
      return;
    }
    try {
      const { payload } = await readFirstFrame(socket, timeoutMs);
      listening.attach(socket, decodeResume(payload));
    } catch (error) {
      refused.push(error as VfioError);
      socket.destroy();
    }
  });
  await new Promise<void>(resolve => server.listen({ host: '127.0.0.1', port: 0 }, () => resolve()));
  const { port } = server.address() as { port: number };
  const address = { host: '127.0.0.1', port };
  const link = await tamperedLink(address, forth ?? (piece => piece), back);
  const dialling = new FrameChannel({
    timeoutMs,
    dial: failing(dialTo(link.address), redialFailures),
    onLinkEvent: event => events.push(event),
  });
  await dialling.connect();
  const ends = { dialling, listening, link, address, token, events, refused, close };
  async function close() {
    dialling.destroy();
    listening.destroy();
    await link.close();
    await new Promise(resolve => server.close(resolve));
  }
  opened.push(ends);
  dialling.token = token;
  listening.token = token;
  return ends;
}

/** Dials the first time, and again when it has failed in all those ways. */
function failing(dial: Dial, failures: readonly ErrnoName[]): Dial {
  let dialled = 0;
  return async signal => {
    const errno = dialled++ === 0 ? undefined : failures[dialled - 2];
    if (errno !== undefined) throw new VfioError(errno, { operation: 'connect' });
    return dial(signal);
  };
}

/** Sends all payloads. */
async function sendAll(channel: FrameChannel, payloads: readonly Uint8Array[]): Promise<void> {
  for (const payload of payloads) await channel.send(FrameType.DIGEST, payload);
  await channel.flush();
}

/** Takes so many frames, and asks once more, as an end does that has applied the last one. */
async function takeAll(channel: FrameChannel, count: number): Promise<string[]> {
  const taken: string[] = [];
  while (taken.length < count) taken.push(Buffer.from(await channel.expect(FrameType.DIGEST)).toString('hex'));
  channel.next().catch(() => {});
  return taken;
}

function numbered(count: number, size: number): Uint8Array[] {
  return Array.from({ length: count }, (_, index) => Buffer.alloc(size + (index % 7), index + 1));
}

const hex = (payloads: readonly Uint8Array[]) => payloads.map(payload => Buffer.from(payload).toString('hex'));

/** Sends some both ways at once; each must come once, in order. */
async function exchange(
  { dialling, listening }: { dialling: FrameChannel; listening: FrameChannel },
  count: number,
  size: number,
) {
  const [there, back] = [numbered(count, size), numbered(count, size + 1)];
  const all = [
    takeAll(listening, count),
    takeAll(dialling, count),
    sendAll(dialling, there),
    sendAll(listening, back),
  ] as const;
  const [tookThere, tookBack] = await Promise.all(all);
  expect(tookThere).toEqual(hex(there));
  expect(tookBack).toEqual(hex(back));
}

/** Something that is done to the first connections only: `undefined` cuts. */
function onFirst(connections: number, tamper: Tamper): Tamper {
  let seen = 0;
  return (piece, offset) => {
    if (offset === 0) seen++;
    return seen <= connections ? tamper(piece, offset) : piece;
  };
}

const cutAt =
  (place: number): Tamper =>
  (piece, offset) => {
    if (offset + piece.length <= place) return piece;
    return undefined;
  };

/** Lets through what is before the place, then cuts with the next piece. */
function truncateAt(place: number): Tamper {
  return (piece, offset) => {
    if (offset >= place) return undefined;
    return piece.subarray(0, place - offset);
  };
}

/** An end of a channel that says what a test wants, bytes and all: it takes the connections of the other one by one. */
async function scriptedEnd() {
  const connections: ((socket: Socket) => void)[] = [];
  const sockets: Socket[] = [];
  const waiting: Socket[] = [];
  const server = createServer(socket => {
    socket.on('error', () => {});
    sockets.push(socket);
    const taker = connections.shift();
    if (taker === undefined) waiting.push(socket);
    else taker(socket);
  });
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', () => resolve()));
  const end = {
    address: { host: '127.0.0.1', port: (server.address() as { port: number }).port },
    connection: (): Promise<Socket> => {
      const socket = waiting.shift();
      return socket === undefined ? new Promise(resolve => connections.push(resolve)) : Promise.resolve(socket);
    },
    get connections() {
      return sockets.length;
    },
    async close() {
      for (const socket of sockets) socket.destroy();
      await new Promise(resolve => server.close(resolve));
    },
  };
  opened.push(end);
  return end;
}

/** DIGEST frames from `first` on, each with its number in its payload. */
function frames(first: number, count: number): Buffer {
  return Buffer.concat(
    Array.from({ length: count }, (_, index) => {
      const payload = Uint8Array.of(first + index);
      const header = new Uint8Array(FRAME_HEADER_SIZE);
      encodeFrameHeader(header, FrameType.DIGEST, first + index, payload);
      return Buffer.concat([header, payload]);
    }),
  );
}

describe('an end of a channel, whatever the other end says,', () => {
  /** A channel of which the first connection brought so many frames in one piece, and is lost; the second waits for an answer to RESUME. */
  async function lostAfter(count: number) {
    const far = await scriptedEnd();
    const events: LinkEvent[] = [];
    const onLinkEvent = (event: LinkEvent) => events.push(event);
    const channel = new FrameChannel({ timeoutMs: 2000, dial: dialTo(far.address), onLinkEvent });
    opened.push({ close: () => channel.destroy() });
    channel.token = randomBytes(16);
    await channel.connect();
    const first = await far.connection();
    first.write(frames(0, count));
    const taken = await channel.expect(FrameType.DIGEST);
    expect(taken).toEqual(Uint8Array.of(0));
    first.resetAndDestroy();
    // Read by the test: no socket gives a sign of its loss while its end reads nothing.
    const second = await far.connection();
    const { payload } = await readFirstFrame(second, 2000);
    return { far, channel, events, second, resume: decodeResume(payload) };
  }

  it('takes no frame of a lost connection after it has said where it is', async () => {
    // Two are taken in at a time: the others were there, and not looked at.
    const { far, channel, events, second, resume } = await lostAfter(5);
    expect(resume).toMatchObject({ next: 2, applied: 0 });
    expect(await channel.expect(FrameType.DIGEST)).toEqual(Uint8Array.of(1));
    second.write(encodeControlFrame(FrameType.RESUME, encodeResume({ ...resume, next: 0, applied: 0 })));
    second.write(frames(2, 3));
    for (let frame = 2; frame < 5; frame++) {
      expect(await channel.expect(FrameType.DIGEST)).toEqual(Uint8Array.of(frame));
    }
    expect(events.map(({ event }) => event)).toEqual(['link-lost', 'link-resumed']);
    expect(far.connections).toBe(2);
  });

  it('says what it has applied since it said where it is, when a connection goes on', async () => {
    const { channel, second, resume } = await lostAfter(1);
    expect(resume).toMatchObject({ next: 1, applied: 0 });
    channel.next().catch(() => {});
    second.write(encodeControlFrame(FrameType.RESUME, encodeResume({ ...resume, next: 0, applied: 0 })));
    const answer = readFirstFrame(second, 2000);
    second.resume();
    const { type, payload } = await answer;
    expect({ type, payload: [...payload] }).toEqual({ type: FrameType.ACK, payload: [1, 0, 0, 0] });
  });

  it('fails when frames come that nobody waits for, and hide what it waits for', async () => {
    const far = await scriptedEnd();
    const channel = new FrameChannel({ timeoutMs: 600, dial: dialTo(far.address) });
    opened.push({ close: () => channel.destroy() });
    await channel.connect();
    const socket = await far.connection();
    socket.resume();
    socket.write(frames(0, 3));
    await channel.send(FrameType.PASS, new Uint8Array(4));
    await expect(channel.flush()).rejects.toMatchObject({ errno: 'EPROTO', message: expect.stringMatching(/nobody/) });
  });

  it('keeps few acknowledgements for a peer that sends much and reads nothing', async () => {
    const unread: (() => void)[] = [];
    const socket = new Duplex({ read() {}, write: (_chunk, _encoding, done) => void unread.push(done) });
    const channel = new FrameChannel({ timeoutMs: 60_000 });
    opened.push({ close: () => channel.destroy() });
    channel.begin(socket);
    for (let first = 0; first < 8000; first += 100) {
      socket.push(Buffer.concat(Array.from({ length: 100 }, (_, index) => frames(first + index, 1))));
      for (let index = 0; index < 100; index++) await channel.expect(FrameType.DIGEST);
    }
    expect(socket.writableLength).toBeLessThan(2 * socket.writableHighWaterMark);
    // As soon as it reads it hears of all.
    const heard = new Promise(resolve => socket.once('drain', resolve));
    channel.next().catch(() => {});
    while (unread.length > 0) unread.shift()!();
    await heard;
    await vi.waitFor(() => expect(unread).toHaveLength(1));
  });

  it('says that it gives up by the next connection, when the last one is lost', async () => {
    const { dialling, listening, link } = await twoEnds();
    await sendAll(dialling, []);
    const reason = listening.next().catch((error: unknown) => error);
    link.cut();
    while (dialling.isConnected) await new Promise(resolve => setImmediate(resolve));
    const error = new VfioError('ECANCELED', { operation: 'test', message: 'enough of it' });
    await dialling.abort({ error, mayRun: false });
    expect(await reason).toMatchObject({ errno: 'ECONNABORTED', message: expect.stringMatching(/enough of it/) });
  });
});

describe('a channel over connections that break', () => {
  it('brings each frame once and in order, wherever the first connection ends, in either direction', async () => {
    // Three frames of 40 bytes and their headers, acknowledgements and signs of life in between.
    for (let place = 1; place < 3 * 72 + 36; place += 3) {
      for (const direction of ['forth', 'back'] as const) {
        const ends = await twoEnds({ [direction]: onFirst(1, truncateAt(place)) });
        await exchange(ends, 3, 40).catch(error => expect.fail(`${direction} ${place}: ${error}`));
        await opened.pop()!.close();
      }
    }
  });

  it('brings each frame once and in order when any byte is damaged, in either direction', async () => {
    for (let place = 0; place < 3 * 72; place += 3) {
      for (const direction of ['forth', 'back'] as const) {
        const damage = onFirst(1, (piece, offset) => {
          if (place < offset || place >= offset + piece.length) return piece;
          const changed = Buffer.from(piece);
          changed[place - offset]! ^= 0x40;
          return changed;
        });
        const ends = await twoEnds({ [direction]: damage, timeoutMs: 900 });
        await exchange(ends, 3, 40).catch(error => expect.fail(`${direction} ${place}: ${error}`));
        await opened.pop()!.close();
      }
    }
  });

  it('brings each frame once and in order over many connections that end at random places', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 1500, max: 9000 }), { minLength: 30, maxLength: 30 }),
        async places => {
          const next = { forth: [...places], back: [...places].reverse() };
          const cutNext = (list: number[]): Tamper => {
            let place = Number.POSITIVE_INFINITY;
            return (piece, offset) => {
              if (offset === 0) place = list.pop() ?? Number.POSITIVE_INFINITY;
              return truncateAt(place)(piece, offset);
            };
          };
          const ends = await twoEnds({ forth: cutNext(next.forth), back: cutNext(next.back) });
          await exchange(ends, 150, 600);
          expect(ends.events.filter(({ event }) => event === 'link-resumed').length).toBeGreaterThan(3);
          await opened.pop()!.close();
        },
      ),
      { numRuns: 10 },
    );
  });

  it('tells when a connection is lost and when it goes on, and why the other end dropped it', async () => {
    const damage = onFirst(1, (piece, offset) => {
      if (offset > 200 || offset + piece.length < 200) return piece;
      const changed = Buffer.from(piece);
      changed[changed.length - 1]! ^= 1;
      return changed;
    });
    const ends = await twoEnds({ forth: damage });
    await exchange(ends, 5, 100);
    expect(ends.events).toMatchObject([
      { event: 'link-lost', channel: 0, error: { errno: 'ECONNRESET' } },
      {
        event: 'link-resumed',
        channel: 0,
        reason: expect.stringMatching(/the checksum of DIGEST \(frame \d\) is wrong/),
      },
    ]);
  });

  it('fails with the first reason and its place when the same frame comes damaged three times', async () => {
    const ends = await twoEnds({
      forth: (piece, offset) => {
        if (offset + piece.length <= 150) return piece;
        const changed = Buffer.from(piece);
        changed[changed.length - 1]! ^= 1;
        return changed;
      },
    });
    const taking = takeAll(ends.listening, 1);
    const sent = sendAll(ends.dialling, [Buffer.alloc(300)]).catch((error: VfioError) => error);
    await expect(taking).rejects.toMatchObject({ errno: 'EBADMSG' });
    await expect(taking).rejects.toThrow(/the checksum of DIGEST \(frame 0\) is wrong/);
    ends.listening.destroy();
    expect(await sent).toBeInstanceOf(Error);
  });

  it('goes on when many connections in a row bring nothing on, and the next one does', async () => {
    // Cut after the first piece, the word where the other end is.
    const ends = await twoEnds({ forth: onFirst(6, cutAt(100)) });
    await exchange(ends, 3, 200);
    expect(ends.events.filter(({ event }) => event === 'link-resumed').length).toBeGreaterThan(3);
  });

  it('fails with the first reason when connections bring nothing on for as long as it is patient', async () => {
    const ends = await twoEnds({ forth: cutAt(100), timeoutMs: 400 });
    const taking = takeAll(ends.listening, 1).catch((error: VfioError) => error);
    const sent = sendAll(ends.dialling, [Buffer.alloc(300)]);
    await expect(sent).rejects.toThrow(/ECONNRESET|was closed/);
    expect(ends.events.filter(({ event }) => event === 'link-lost').length).toBeGreaterThan(3);
    ends.listening.destroy();
    expect(await taking).toBeInstanceOf(Error);
  });

  it('keeps eight frames at most for an end that acknowledges none', async () => {
    const held: Socket[] = [];
    const server = createServer(socket => held.push(socket.resume()));
    await new Promise<void>(resolve => server.listen({ host: '127.0.0.1', port: 0 }, () => resolve()));
    const { port } = server.address() as { port: number };
    const channel = new FrameChannel({ timeoutMs: 5000, dial: dialTo({ host: '127.0.0.1', port }) });
    opened.push({ close: () => server.close() }, { close: () => held.forEach(socket => void socket.destroy()) });
    opened.push({ close: () => channel.destroy() });
    await channel.connect();
    let sent = 0;
    const sending = (async () => {
      for (; sent < 20; sent++) await channel.send(FrameType.DIGEST, Buffer.alloc(100));
    })().catch((error: unknown) => error);
    await delay(200);
    expect(sent).toBe(8);
    channel.destroy();
    expect(await sending).toBeInstanceOf(Error);
  });

  it('gives up when no connection comes for as long as it is patient, saying what was lost', async () => {
    const ends = await twoEnds({ redialFailures: Array(1000).fill('EHOSTUNREACH') });
    await exchange(ends, 1, 10);
    ends.dialling.patienceMs = 100;
    const next = ends.dialling.next();
    await ends.link.close();
    await expect(next).rejects.toThrow(/the link was not back within 100 ms: .*; then .*EHOSTUNREACH/);
  });

  it('gives up sooner when the other end refuses each time, saying what was lost', async () => {
    const ends = await twoEnds({ timeoutMs: 3000 });
    await exchange(ends, 1, 10);
    const next = ends.dialling.next();
    await ends.link.close();
    await expect(next).rejects.toMatchObject({
      errno: 'ECONNREFUSED',
      message: expect.stringMatching(/nobody listens there any more: .*(ECONNRESET).*; then .*ECONNREFUSED/),
    });
  });

  // The three attempts begin 0, 50 and 150 ms after the loss, or later; refusals are borne for a tenth of the time.
  it.each([
    ['that end soon', 20_000, ['ECONNREFUSED', 'ECONNREFUSED', 'ECONNREFUSED']],
    ['that come one at a time', 1400, ['ECONNREFUSED', 'EHOSTUNREACH', 'ECONNREFUSED']],
  ] as [string, number, ErrnoName[]][])('goes on after refusals %s', async (_, timeoutMs, redialFailures) => {
    const ends = await twoEnds({ forth: onFirst(1, cutAt(100)), timeoutMs, redialFailures });
    await exchange(ends, 3, 200);
    expect(ends.events.map(({ event }) => event)).toEqual(['link-lost', 'link-resumed']);
  });

  it('is over with its connection once the decisive word is out, which waits for a connection', async () => {
    const ends = await twoEnds({ back: onFirst(1, cutAt(100)) });
    const heard = takeAll(ends.listening, 1).then(() => ends.listening.expect(FrameType.GO));
    await ends.dialling.send(FrameType.DIGEST, Buffer.alloc(10));
    await ends.dialling.sendDecisive(FrameType.GO);
    expect(await heard.catch(() => new Uint8Array(0))).toHaveLength(0);
    const lost = ends.dialling.next();
    await ends.link.close();
    await expect(lost).rejects.toMatchObject({ errno: 'ECONNRESET' });
    await expect(ends.dialling.send(FrameType.PASS)).rejects.toMatchObject({ errno: 'ECONNRESET' });
  });
});

describe('a connection that says that it goes on', () => {
  /** Somebody with a connection of its own to the listening end. */
  async function comeAgain(address: { host: string; port: number }, resume: Resume) {
    const socket = connect(address).on('error', () => {});
    opened.push({ close: () => void socket.destroy() });
    await new Promise<void>(resolve => socket.once('connect', () => resolve()));
    socket.write(encodeControlFrame(FrameType.RESUME, encodeResume(resume)));
    return socket;
  }

  const resumeOf = (token: Uint8Array, members: Partial<Resume> = {}): Resume => ({
    token,
    channel: 0,
    connection: 1,
    next: 0,
    applied: 0,
    reason: '',
    ...members,
  });

  it('comes back as it was sent, and is refused when it is too short or too long', () => {
    const resume = resumeOf(randomBytes(16), { connection: 2 ** 32 - 1, next: 7, applied: 5, reason: 'damaged' });
    const payload = encodeResume(resume);
    expect({ ...decodeResume(payload), token: undefined }).toEqual({ ...resume, token: undefined });
    expect(Buffer.compare(decodeResume(payload).token, resume.token)).toBe(0);
    for (let size = 0; size < 32; size++) expect(() => decodeResume(payload.subarray(0, size))).toThrow(/EINVAL/);
    expect(() => decodeResume(new Uint8Array(600))).toThrow(/EMSGSIZE/);
    expect(encodeResume({ ...resume, reason: 'x'.repeat(10_000) }).length).toBeLessThan(600);
  });

  it('is refused when it was recorded, or speaks of frames that never were; the one in use goes on', async () => {
    const ends = await twoEnds();
    await exchange(ends, 4, 100);
    for (const wrong of [{ connection: 0 }, { next: 5 }, { next: 99 }]) {
      const socket = await comeAgain(ends.address, resumeOf(ends.token, { next: 4, ...wrong }));
      await new Promise(resolve => socket.once('close', resolve).resume());
    }
    expect(ends.refused.map(({ errno }) => errno)).toEqual(['ESTALE', 'EPROTO', 'EPROTO']);
    ends.listening.destroy();
  });

  it('takes the place of one that still lives, of which nothing is heard any more', async () => {
    const ends = await twoEnds();
    const first = ends.listening.next();
    await ends.dialling.send(FrameType.DIGEST, Buffer.from('first'));
    expect(Buffer.from((await first).payload).toString()).toBe('first');
    const second = await comeAgain(ends.address, resumeOf(ends.token, { connection: 1 }));
    const { type, payload } = await readFirstFrame(second, 2000);
    expect(type).toBe(FrameType.RESUME);
    expect(decodeResume(payload)).toMatchObject({ connection: 1, next: 1, applied: 0 });
    // The first end dials again at once, as its connection was closed: it comes by a later connection, and goes on.
    const next = ends.listening.next();
    await ends.dialling.send(FrameType.DIGEST, Buffer.from('second'));
    expect(Buffer.from((await next).payload).toString()).toBe('second');
  });

  it('is refused by a destination without the right token, and told why; its source goes on', async () => {
    const hosts = await twoHosts(300);
    opened.push(hosts);
    let answer: Promise<string> | undefined;
    const { report } = await move(hosts, {
      downtimeLimitMs: 60_000,
      through: async to => {
        const link = await tamperedLink(to, piece => {
          answer ??= comeAgain(to, resumeOf(randomBytes(16))).then(async socket => {
            const { payload } = await readFirstFrame(socket, 2000);
            return new TextDecoder().decode(payload);
          });
          return piece;
        });
        return link;
      },
    });
    expect(report.outcome).toBe('moved');
    expect(await answer).toMatch(/there is no such migration here/);
    expect(await answer).toMatch(/"mayRun":false/);
  });
});

describe('a migration over connections that break', () => {
  it('brings memory and state whole, and leaves nothing behind, over many of them', async () => {
    const before = readdirSync('/proc/self/fd').length;
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.integer({ min: 1_200_000, max: 3_000_000 }), { minLength: 8, maxLength: 8 }),
        async places => {
          const hosts = await twoHosts(2000);
          const list = [...places];
          let place = Number.POSITIVE_INFINITY;
          let states = 0;
          const load = hosts.destination.device['loadState'].bind(hosts.destination.device);
          hosts.destination.device['loadState'] = (...state: Parameters<typeof load>) => {
            states++;
            load(...state);
          };
          const events: string[] = [];
          const { report, refusal } = await move(hosts, {
            verify: 'abort',
            downtimeLimitMs: 60_000,
            onEvent: ({ event }) => events.push(event),
            through: (to): Promise<Link> =>
              tamperedLink(to, (piece, offset) => {
                if (offset === 0) place = list.pop() ?? Number.POSITIVE_INFINITY;
                return truncateAt(place)(piece, offset);
              }),
          });
          expect(report.error).toBeUndefined();
          expect(report).toMatchObject({ outcome: 'moved', verified: true });
          expect(refusal).toBeUndefined();
          expect(states).toBe(1);
          expect(events.filter(event => event === 'link-lost').length).toBeGreaterThan(1);
          expect(hashOf(hosts.destination)).toBe(hashOf(hosts.source));
          await hosts.close();
        },
      ),
      { numRuns: 8 },
    );
    await delay(50);
    expect(readdirSync('/proc/self/fd').length).toBeLessThanOrEqual(before);
  });

  it('ends at the destination when its source does not come again, and the place is said to be lost', async () => {
    const hosts = await twoHosts(300);
    opened.push(hosts);
    const receiver = await MigrationReceiver.listen({
      memory: hosts.destination.machine,
      devices: [hosts.destination.handle],
      timeoutMs: 300,
    });
    opened.push(receiver);
    const link = await tamperedLink(receiver.address, (piece, offset) => (offset > 400_000 ? undefined : piece));
    const { migrate } = await import('../../src/migration/index.js');
    const moving = migrate({
      to: link.address,
      memory: hosts.source.machine,
      devices: [hosts.source.handle],
      timeoutMs: 300,
      compression: 'off',
      onEvent: ({ event }) => event === 'link-lost' && void link.close(),
    });
    await expect(receiver.finished()).rejects.toThrow(/the link was not back within 300 ms/);
    expect(await moving).toMatchObject({ outcome: 'failed', runningAt: 'source', error: { errno: 'ECONNREFUSED' } });
    expect(hosts.destination.device.state).toHaveLength(0);
  });
});
