import { readdirSync } from 'node:fs';
import { connect } from 'node:net';
import fc from 'fast-check';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { GuestMemory } from '../../src/memory/index.js';
import { ReceivingLanes } from '../../src/migration/destination/receiving-lanes.js';
import { MachineMemory, PageList } from '../../src/migration/index.js';
import { decodeJoin, encodeJoin } from '../../src/migration/lane/join.js';
import { decodeLanePorts, encodeLanePorts, lanesOf } from '../../src/migration/lane/lane-ports.js';
import { LaneThread } from '../../src/migration/lane/lane-thread.js';
import { MemoryLanes } from '../../src/migration/source/memory-lanes.js';
import { encodeControlFrame, FrameType } from '../../src/migration/stream/stream-format.js';
import { VfioError } from '../../src/uapi/index.js';
import { errnoOf } from '../native/helpers.js';
import { type Link, tamperedLink } from './two-hosts.js';

const PAGE = 4096;
const token = Uint8Array.from({ length: 16 }, (_, index) => index + 1);

const opened: { close(): unknown }[] = [];
afterEach(async () => {
  for (const each of opened.splice(0).reverse()) await each.close();
});

/** A machine whose ranges have so many pages each, with gaps in between. */
function machineOf(pagesOfRanges: readonly number[]): MachineMemory {
  let iova = 0n;
  const slots = pagesOfRanges.map(pages => {
    const memory = GuestMemory.create(pages * PAGE + PAGE, 'lanes');
    opened.push(memory);
    const slot = { iova, length: BigInt(pages * PAGE), memory, offset: PAGE };
    iova += slot.length + 0x10_0000n;
    return slot;
  });
  return new MachineMemory(slots);
}

/** Fills pages with words that say which they are. */
function fill(machine: MachineMemory, words: string): void {
  for (const range of machine.slots.keys()) {
    for (let page = 0; page < machine.pagesOf(range); page++) {
      machine.write(range, page, Buffer.alloc(PAGE, `${words}: page ${page} of range ${range};`));
    }
  }
}

function bytesOf(machine: MachineMemory): Buffer {
  return Buffer.concat(
    Array.from(machine.slots.keys(), range => {
      const bytes = Buffer.alloc(machine.pagesOf(range) * PAGE);
      machine.read(range, 0, bytes);
      return bytes;
    }),
  );
}

interface Pair {
  source: MachineMemory;
  destination: MachineMemory;
  sending: MemoryLanes;
  receiving: ReceivingLanes;
  ports: number[];
  /** Why a lane failed at the destination. */
  failures: unknown[];
}

/** Lanes between two machines. `through` puts a link in the way of each lane. */
async function pairOf(
  lanes: number,
  pagesOfRanges: readonly number[],
  options: { through?: (to: { host: string; port: number }, lane: number) => Promise<Link>; timeoutMs?: number } = {},
): Promise<Pair> {
  const { timeoutMs = 5000, through } = options;
  const [source, destination] = [machineOf(pagesOfRanges), machineOf(pagesOfRanges)];
  fill(source, 'the source');
  const failures: unknown[] = [];
  const shared = { host: '127.0.0.1', tls: undefined, token, timeoutMs, peerTimeoutMs: timeoutMs };
  const onFailed = (error: unknown) => failures.push(error);
  const receiving = await ReceivingLanes.listen({ ...shared, lanes, firstPort: 0, memory: destination, onFailed });
  opened.push(receiving);
  const { ports } = receiving;
  const links = await Promise.all(ports.map((port, lane) => through?.({ host: '127.0.0.1', port }, lane)));
  opened.push(...links.filter(link => link !== undefined));
  const sending = await MemoryLanes.start({
    compression: 'off',
    ...shared,
    ports: ports.map((port, lane) => links[lane]?.address.port ?? port),
    memory: source,
  });
  opened.push(sending);
  return { source, destination, sending, receiving, ports, failures };
}

/** Sends all memory once. */
async function sendAll(lanes: MemoryLanes, machine: MachineMemory): Promise<void> {
  const list = new PageList(lanes.pagesPerList(machine.pages));
  for (const range of machine.slots.keys()) {
    for (let page = 0; page < machine.pagesOf(range); ) {
      page += list.add(range, page, machine.pagesOf(range) - page);
      if (list.full) {
        await lanes.send(list);
        list.clear();
      }
    }
  }
  if (list.pages > 0) await lanes.send(list);
  await lanes.flush();
}

interface Shares {
  /** How often it was given to a thread, and how often that ended. */
  readonly given: number;
  readonly ended: number;
  /** As memory does that is closed, once it was given so often. */
  refuseAfter(times: number): void;
}

function sharesOf(memory: GuestMemory): Shares {
  let most = Number.POSITIVE_INFINITY;
  const share = memory.share.bind(memory);
  const giving = vi.spyOn(memory, 'share').mockImplementation(() => {
    if (giving.mock.results.filter(({ type }) => type === 'return').length < most) return share();
    throw new VfioError('EBADF', { operation: 'share' });
  });
  const ending = vi.spyOn(memory, 'endShare');
  return {
    get given() {
      return giving.mock.results.filter(({ type }) => type === 'return').length;
    },
    get ended() {
      return ending.mock.calls.length;
    },
    refuseAfter(times) {
      most = times;
    },
  };
}

function threadCount(): number {
  return readdirSync('/proc/self/task').length;
}

function fdCount(): number {
  return readdirSync('/proc/self/fd').length;
}

describe('memory lanes', () => {
  it.each([1, 2, 3, 4])('bring every page by %i connections', async lanes => {
    const { source, destination, sending, receiving } = await pairOf(lanes, [3000, 1, 700]);
    await sending.joined();
    await sendAll(sending, source);
    expect(bytesOf(destination).equals(bytesOf(source))).toBe(true);
    expect(sending.bytesSent).toBeGreaterThan(3701 * PAGE);
    await receiving.close();
    expect(receiving.pagesReceived).toBe(3701);
  });

  it('bring memories of any sizes', async () => {
    const sizes = fc.array(fc.integer({ min: 1, max: 600 }), { minLength: 1, maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: 4 }), sizes, async (lanes, pagesOfRanges) => {
        const { source, destination, sending } = await pairOf(lanes, pagesOfRanges);
        await sendAll(sending, source);
        expect(bytesOf(destination).equals(bytesOf(source))).toBe(true);
        for (const each of opened.splice(0).reverse()) await each.close();
      }),
      { numRuns: 6 },
    );
  });
});

describe('memory lanes in trouble', () => {
  /** Links of which each connection is cut after some bytes, as long as there are places to cut at. */
  function cutLinks(places: number[]): (to: { host: string; port: number }) => Promise<Link> {
    return async to => {
      let passed = 0;
      return tamperedLink(to, piece => {
        passed += piece.length;
        if (places.length === 0 || passed < places[0]!) return piece;
        places.shift();
        passed = 0;
        return undefined;
      });
    };
  }

  it('bring every page when their connections are cut at any places', async () => {
    // Nobody dials more than three times for a lane that was not taken yet.
    const first = fc.integer({ min: 1, max: 2_500_000 });
    const later = fc.array(fc.integer({ min: 200, max: 2_500_000 }), { maxLength: 4 });
    await fc.assert(
      fc.asyncProperty(first, later, async (place, places) => {
        const through = cutLinks([place, ...places]);
        const { source, destination, sending } = await pairOf(2, [3000, 300], { through });
        await sendAll(sending, source);
        expect(bytesOf(destination).equals(bytesOf(source))).toBe(true);
        for (const each of opened.splice(0).reverse()) await each.close();
      }),
      { numRuns: 6 },
    );
  });

  it('never write a block of which a byte was changed on its way', async () => {
    const { source, destination, sending } = await pairOf(2, [1500], {
      through: async to => {
        let changed = false;
        return tamperedLink(to, (piece, offset) => {
          if (changed || offset < 500_000) return piece;
          changed = true;
          const copy = Buffer.from(piece);
          copy[piece.length >>> 1]! ^= 4;
          return copy;
        });
      },
    });
    await sendAll(sending, source);
    expect(bytesOf(destination).equals(bytesOf(source))).toBe(true);
  });

  it('say so when the destination is gone', async () => {
    const { source, sending, receiving } = await pairOf(2, [3000], { timeoutMs: 600 });
    await sendAll(sending, source);
    await receiving.close();
    await expect(sendAll(sending, source)).rejects.toMatchObject({ name: 'VfioError' });
    await expect(sending.flush()).rejects.toMatchObject({ name: 'VfioError' });
  });

  it('have failed when a thread dies', async () => {
    const died: VfioError[] = [];
    const events = { onWord: () => {}, onFailed: (error: VfioError) => died.push(error) };
    // It finds nothing of what it needs in its data.
    const thread = new LaneThread('lane 0', '#lane-sender', {}, events);
    await vi.waitFor(() => expect(died).toMatchObject([{ errno: 'EIO' }]), 5000);
    expect(died[0]!.message).toMatch(/lane 0: its thread died/);
    await thread.stop();
    expect(died).toHaveLength(1);
  });

  it('say which port refuses them', async () => {
    const source = machineOf([10]);
    const shared = { host: '127.0.0.1', tls: undefined, token, timeoutMs: 1000, peerTimeoutMs: 1000 };
    const sending = await MemoryLanes.start({ compression: 'off', ...shared, ports: [1], memory: source });
    opened.push(sending);
    await expect(sending.joined()).rejects.toThrow(/lane 0: .*127\.0\.0\.1:1 \(ECONNREFUSED\)/);
  });

  it('let go of whoever waits when they are given up, and take nothing more', async () => {
    const { source, sending, receiving } = await pairOf(1, [6000]);
    await sending.joined();
    await receiving.close();
    const work = sendAll(sending, source);
    sending.giveUp(new VfioError('ECANCELED', { operation: 'test' }));
    await expect(work).rejects.toMatchObject({ errno: 'ECANCELED' });
    await expect(sending.flush()).rejects.toMatchObject({ errno: 'ECANCELED' });
  });

  it('are closed to everybody who does not know the secret, and go on for who does', async () => {
    const { source, destination, sending, ports, failures } = await pairOf(1, [500]);
    const wrong = Uint8Array.from(token, byte => byte ^ 1);
    const firstWords = [
      Buffer.from('GET / HTTP/1.1\r\n\r\nand more than a header'),
      encodeControlFrame(FrameType.JOIN, encodeJoin({ token: wrong, lane: 0 })),
      encodeControlFrame(FrameType.JOIN, encodeJoin({ token, lane: 1 })),
      encodeControlFrame(FrameType.JOIN, new Uint8Array(3)),
      encodeControlFrame(FrameType.RESUME, new Uint8Array(32)),
    ];
    await sendAll(sending, source);
    for (const words of firstWords) {
      const socket = connect(ports[0]!, '127.0.0.1');
      const heard: Buffer[] = [];
      socket.on('data', piece => heard.push(piece)).on('error', () => {});
      socket.write(words);
      await new Promise(resolve => socket.once('close', resolve));
      expect(Buffer.concat(heard)).toHaveLength(0);
    }
    fill(source, 'later');
    await sendAll(sending, source);
    expect(bytesOf(destination).equals(bytesOf(source))).toBe(true);
    expect(failures).toEqual([]);
  });

  it('refuse a page that the machine has not', async () => {
    const { sending, source, failures } = await pairOf(1, [500]);
    const list = new PageList();
    list.add(0, 499, 1);
    await sending.send(list);
    await sending.flush();
    const larger = machineOf([600]);
    sending.useMemory(larger);
    list.clear();
    list.add(0, 500, 1);
    await sending.send(list);
    await expect(sending.flush()).rejects.toThrow(/the other end gave up: .*pages 500 \+ 1 of range 0 do not exist/);
    // It waits a moment for its last words to be heard.
    await vi.waitFor(() => expect(failures).toMatchObject([{ errno: 'EBADMSG' }]), 5000);
    expect(source.pages).toBe(500);
  });

  it('bring the pages of other memory once both ends were told of it', async () => {
    const { source, destination, sending, receiving } = await pairOf(2, [500]);
    await sendAll(sending, source);
    const [largerSource, largerDestination] = [machineOf([2, 900]), machineOf([2, 900])];
    fill(largerSource, 'other memory');
    await receiving.useMemory(largerDestination);
    sending.useMemory(largerSource);
    await sendAll(sending, largerSource);
    expect(bytesOf(largerDestination).equals(bytesOf(largerSource))).toBe(true);
    expect(bytesOf(destination).equals(bytesOf(source))).toBe(true);
  });

  it('write no page of memory that they have let go of, and refuse it', async () => {
    const { source, destination, sending, receiving, failures } = await pairOf(1, [500]);
    await sending.joined();
    await receiving.letGoOfMemory();
    await expect(sendAll(sending, source)).rejects.toThrow(/range 0 do not exist/);
    await vi.waitFor(() => expect(failures).toMatchObject([{ errno: 'EBADMSG' }]), 5000);
    expect(bytesOf(destination).every(byte => byte === 0)).toBe(true);
  });

  it('leave nobody waiting for them to know of other memory when they are closed', async () => {
    const { receiving } = await pairOf(2, [500]);
    const told = receiving.useMemory(machineOf([600]));
    await Promise.all([expect(told).rejects.toMatchObject({ errno: 'ECANCELED' }), receiving.close()]);
    await expect(receiving.useMemory(machineOf([600]))).rejects.toMatchObject({ errno: 'ECANCELED' });
  });

  describe('of which the second cannot start', () => {
    const shared = { host: '127.0.0.1', tls: undefined, token, timeoutMs: 1000, peerTimeoutMs: 1000 };
    const begin = {
      source: (memory: MachineMemory) => MemoryLanes.start({ ...shared, compression: 'off', ports: [1, 1], memory }),
      destination: (memory: MachineMemory) =>
        ReceivingLanes.listen({ ...shared, lanes: 2, firstPort: 0, memory, onFailed: () => {} }),
    };

    it.each(['source', 'destination'] as const)('leave nothing of the first behind at the %s', async end => {
      const machine = machineOf([1, 1]);
      // Warm: what Node opens for its first thread it keeps.
      await (await begin[end](machine)).close();
      const before = { threads: threadCount(), fds: fdCount() };
      const [first, second] = machine.slots.map(({ memory }) => sharesOf(memory)) as [Shares, Shares];
      second.refuseAfter(1);
      await expect(begin[end](machine)).rejects.toMatchObject({ errno: 'EBADF' });
      expect([first.given, second.given]).toEqual([2, 1]);
      expect([first.ended, second.ended]).toEqual([2, 1]);
      expect({ threads: threadCount(), fds: fdCount() }).toEqual(before);
    });
  });

  it('leave no thread, port or descriptor behind, whenever they are closed', async () => {
    const warm = await pairOf(1, [10]);
    await warm.sending.close();
    await warm.receiving.close();
    for (const each of opened.splice(0).reverse()) await each.close();
    const before = { threads: threadCount(), fds: fdCount() };
    for (const moment of ['at once', 'joined', 'sending', 'flushed']) {
      const { source, sending, receiving, ports } = await pairOf(2, [3000]);
      const work = moment === 'at once' ? undefined : sending.joined().then(() => sendAll(sending, source));
      work?.catch(() => {});
      if (moment === 'joined') await sending.joined();
      if (moment === 'sending') while (sending.bytesSent === 0) await new Promise(resolve => setTimeout(resolve, 1));
      if (moment === 'flushed') await work;
      await Promise.all([sending.close(), receiving.close()]);
      for (const port of ports) await expect(isOpen(port)).resolves.toBe(false);
      for (const each of opened.splice(0).reverse()) await each.close();
      expect({ threads: threadCount(), fds: fdCount() }, moment).toEqual(before);
    }
  });
});

async function isOpen(port: number): Promise<boolean> {
  const socket = connect(port, '127.0.0.1');
  return new Promise(resolve => {
    socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
  });
}

describe('LANES and JOIN', () => {
  it('come back as they were sent, and are refused with anything missing or too much', () => {
    expect(decodeLanePorts(encodeLanePorts([4445, 65535]))).toEqual([4445, 65535]);
    expect(Buffer.from(encodeLanePorts([4445, 4446])).toString('hex')).toBe('5d115e11');
    expect(decodeJoin(encodeJoin({ token, lane: 7 }))).toEqual({ token, lane: 7 });
    expect(errnoOf(() => decodeLanePorts(new Uint8Array(0)))).toBe('EINVAL');
    for (const bad of [[1, 0, 1], [0, 0], new Array(34).fill(1)]) {
      expect(errnoOf(() => decodeLanePorts(Uint8Array.from(bad)))).toBe('EBADMSG');
    }
    for (let size = 0; size < 20; size++) expect(errnoOf(() => decodeJoin(new Uint8Array(size)))).toBe('EINVAL');
    expect(errnoOf(() => decodeJoin(new Uint8Array(21)))).toBe('EMSGSIZE');
  });

  it('agree on the fewer lanes, and on none below two', () => {
    expect(lanesOf(4, 8)).toBe(4);
    expect(lanesOf(8, 3)).toBe(3);
    expect(lanesOf(99, 99)).toBe(16);
    expect(lanesOf(1, 8)).toBe(0);
    expect(lanesOf(8, undefined)).toBe(0);
  });
});
