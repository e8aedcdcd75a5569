import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { LocalDevice } from '../../src/device/index.js';
import { backingFor, GuestMemory } from '../../src/memory/index.js';
import {
  decodeMemoryMap,
  encodeMemoryMap,
  MachineMemory,
  type MemorySlot,
  type MigrateOptions,
  MigrationReceiver,
  migrate,
  type ReceiveOptions,
} from '../../src/migration/index.js';
import {
  CpuTracker,
  type DirtySet,
  LoggingSession,
  type LostLog,
  MarkedTracker,
  type Tracker,
} from '../../src/tracker/index.js';
import { type IovaRange, PciRegion, type VfioError } from '../../src/uapi/index.js';
import { cannotTrack } from '../tracker/cpu/helpers.js';
import { WriterDevice } from '../tracker/writer-device.js';

const PAGE = 4096;
/** All addresses of these tests. */
const EVERYTHING: IovaRange = { iova: 0n, length: 128n * 4096n };

const opened: { close(): Promise<void> | void }[] = [];
afterEach(async () => {
  for (const each of opened.splice(0).reverse()) await each.close();
});

function newMemory(pages: number, fill = 0): GuestMemory {
  const memory = GuestMemory.create(pages * PAGE);
  opened.push(memory);
  if (fill !== 0) memory.write(0, new Uint8Array(pages * PAGE).fill(fill));
  return memory;
}

function rangeOf(page: number, pages: number): IovaRange {
  return { iova: BigInt(page * PAGE), length: BigInt(pages * PAGE) };
}

function slotOf(page: number, pages: number, fill = 0): MemorySlot {
  return { ...rangeOf(page, pages), memory: newMemory(pages, fill) };
}

async function errnoOf(work: () => unknown): Promise<string> {
  try {
    await work();
  } catch (error) {
    return (error as VfioError).errno;
  }
  return 'none';
}

/** One end: a device, and memory that comes and goes with what the device is told of it. */
async function newEnd(slots: readonly MemorySlot[]) {
  const device = new WriterDevice();
  const handle = new LocalDevice(device);
  opened.push(handle);
  await handle.regionWrite(PciRegion.CONFIG, 4, Uint8Array.of(6, 0));
  const machine = new MachineMemory([]);
  const map = (slot: MemorySlot) =>
    handle.mapMemory({ iova: slot.iova, length: slot.length, readable: true, writable: true }, slot.memory);
  const end = {
    device,
    handle,
    machine,
    map,
    async add(slot: MemorySlot) {
      machine.add(slot);
      await map(slot);
    },
    /** Closes the memory as soon as nobody reads it: who did so later would crash. */
    async remove(slot: MemorySlot) {
      const removed = machine.remove(slot);
      removed.catch(() => {});
      if (!machine.slots.some(({ iova }) => iova === slot.iova)) await handle.unmapMemory(slot.iova, slot.length);
      await removed;
      slot.memory.close();
    },
    /** By DMA. */
    write: (page: number, value: number) => device.dma.write(BigInt(page * PAGE), Uint8Array.of(value)),
  };
  for (const slot of slots) await end.add(slot);
  return end;
}

type End = Awaited<ReturnType<typeof newEnd>>;

function contentOf({ machine }: End) {
  return machine.slots.map(({ iova, length, memory }) => {
    const bytes = new Uint8Array(Number(length));
    memory.read(0, bytes);
    return { iova, length, hash: Buffer.from(bytes).toString('base64') };
  });
}

/** A destination that takes what comes and gives back what goes. */
function provider(end: End): Pick<ReceiveOptions, 'memoryFor' | 'memoryGone'> {
  return {
    async memoryFor(range) {
      // What was there before must not show.
      const slot = { ...range, memory: newMemory(Number(range.length) / PAGE, 0xdd) };
      await end.map(slot);
      return slot;
    },
    async memoryGone(slot) {
      await end.handle.unmapMemory(slot.iova, slot.length);
      slot.memory.close();
    },
  };
}

async function move(
  source: End,
  destination: End,
  options: Partial<MigrateOptions> = {},
  receive: Partial<ReceiveOptions> = provider(destination),
) {
  const receiver = await MigrationReceiver.listen({
    memory: destination.machine,
    devices: [destination.handle],
    timeoutMs: 3000,
    ...receive,
  });
  const received = receiver.finished().then(
    () => undefined,
    (error: unknown) => error,
  );
  const report = await migrate({
    to: receiver.address,
    memory: source.machine,
    devices: [source.handle],
    timeoutMs: 3000,
    // On a busy machine the first round trip alone may take longer than the default.
    downtimeLimitMs: 10_000,
    verify: 'report',
    ...options,
  });
  const refusal = await received;
  await receiver.close();
  return { report, refusal };
}

/** Does one thing after each pass that is told, which leads to another pass when it changes the memory. */
function afterPasses(...works: (() => unknown)[]): Pick<MigrateOptions, 'onEvent'> {
  return {
    onEvent: event => {
      if (event.event === 'pass') void works.shift()?.();
    },
  };
}

describe('MachineMemory', () => {
  it('keeps its slots in order of address, whatever comes and goes', async () => {
    const machine = new MachineMemory([slotOf(8, 2)]);
    machine.add(slotOf(0, 4));
    machine.add(slotOf(4, 4));
    expect(machine.ranges).toEqual([rangeOf(0, 4), rangeOf(4, 4), rangeOf(8, 2)]);
    await machine.remove(rangeOf(0, 8));
    expect(machine.ranges).toEqual([rangeOf(8, 2)]);
    expect(machine.pages).toBe(2);
  });

  it.each([
    ['add', 'a slot that overlaps another', (machine: MachineMemory) => machine.add(slotOf(3, 2))],
    ['remove', 'a part of a slot', (machine: MachineMemory) => machine.remove(rangeOf(0, 1))],
    ['remove', 'more than a slot and less than two', (machine: MachineMemory) => machine.remove(rangeOf(0, 9))],
    ['remove', 'what is not there', (machine: MachineMemory) => machine.remove(rangeOf(20, 1))],
  ])('refuses to %s %s, and stays as it was', async (_, __, work) => {
    const machine = new MachineMemory([slotOf(0, 4), slotOf(8, 2)]);
    expect(await errnoOf(() => work(machine))).toBe('EINVAL');
    expect(machine.ranges).toEqual([rangeOf(0, 4), rangeOf(8, 2)]);
  });

  it('removes when nobody reads any more, and shows readers what they began with', async () => {
    const machine = new MachineMemory([slotOf(0, 4, 1), slotOf(8, 2, 2)]);
    const loans = [machine.lend(), machine.lend()];
    let isRemoved = false;
    const removed = machine.remove(rangeOf(0, 4)).then(() => {
      isRemoved = true;
    });
    machine.add(slotOf(0, 4, 3));
    const later = machine.lend();
    const byte = (memory: MachineMemory) => {
      const into = new Uint8Array(PAGE);
      memory.read(0, 0, into);
      return into[0];
    };
    expect([loans[0]!.memory, later.memory].map(byte)).toEqual([1, 3]);
    expect([loans[0]!.isCurrent, later.isCurrent]).toEqual([false, true]);
    loans[0]!.end();
    await new Promise(resolve => setImmediate(resolve));
    expect(isRemoved).toBe(false);
    loans[1]!.end();
    await removed;
    later.end();
  });

  it('takes no change while a reader that has it as it is keeps it so', async () => {
    const machine = new MachineMemory([slotOf(0, 4)]);
    const loan = machine.lend();
    machine.add(slotOf(4, 1));
    expect(loan.freeze()).toBe(false);
    loan.end();
    const next = machine.lend();
    expect(next.freeze()).toBe(true);
    expect(await errnoOf(() => machine.add(slotOf(8, 1)))).toBe('EBUSY');
    expect(await errnoOf(() => machine.remove(rangeOf(4, 1)))).toBe('EBUSY');
    next.thaw();
    machine.add(slotOf(8, 1));
    next.freeze();
    next.end();
    await machine.remove(rangeOf(4, 1));
    expect(machine.ranges).toEqual([rangeOf(0, 4), rangeOf(8, 1)]);
  });
});

describe('a memory map', () => {
  it('has the bytes of the worked example', () => {
    const map = encodeMemoryMap([{ iova: 0x10000n, length: 0x2000n }]);
    expect(Buffer.from(map).toString('hex')).toBe('010000000000000000000100000000000020000000000000');
  });

  it('comes back as it was', () => {
    const gaps = fc.array(fc.tuple(fc.nat(5), fc.integer({ min: 1, max: 2 ** 30 })), { maxLength: 20 });
    fc.assert(
      fc.property(gaps, pairs => {
        let page = 0;
        const ranges = pairs.map(([gap, pages]) => {
          const range = rangeOf(page + gap, pages);
          page += gap + pages;
          return range;
        });
        expect(decodeMemoryMap(encodeMemoryMap(ranges))).toEqual(ranges);
      }),
    );
  });

  it.each([
    ['that overlap', [rangeOf(0, 2), rangeOf(1, 2)]],
    ['that are not in order', [rangeOf(4, 2), rangeOf(0, 2)]],
    ['that are empty', [rangeOf(4, 0)]],
    ['that are not whole pages', [{ iova: 0n, length: 100n }]],
    ['that begin inside a page', [{ iova: 1n, length: 4096n }]],
    ['beyond the last address', [{ iova: 2n ** 64n - 4096n, length: 8192n }]],
  ])('is refused with ranges %s', async (_, ranges) => {
    expect(await errnoOf(() => decodeMemoryMap(encodeMemoryMap(ranges)))).toBe('EBADMSG');
  });

  it('is refused when it is cut off, or longer than it says', async () => {
    const map = encodeMemoryMap([rangeOf(0, 2), rangeOf(4, 2)]);
    for (let size = 0; size < map.length; size++) {
      expect(await errnoOf(() => decodeMemoryMap(map.subarray(0, size)))).toBe('EBADMSG');
    }
    expect(await errnoOf(() => decodeMemoryMap(new Uint8Array([...map, 0])))).toBe('EBADMSG');
  });
});

describe('memory that changes while it is moved', () => {
  it('arrives as it is when the machine stops', async () => {
    const [source, destination] = [
      await newEnd([slotOf(0, 8, 1), slotOf(16, 8, 2)]),
      await newEnd([slotOf(0, 8), slotOf(16, 8)]),
    ];
    const changes: unknown[] = [];
    const works = afterPasses(
      () => source.add(slotOf(32, 4, 5)),
      () => source.remove(source.machine.slots[1]!),
      () => source.add(slotOf(18, 2, 6)),
    );
    const { report } = await move(source, destination, {
      onEvent(event) {
        if (event.event === 'memory') changes.push({ added: event.added, removed: event.removed });
        works.onEvent!(event);
      },
    });
    expect(report).toMatchObject({ outcome: 'moved', verified: true, error: undefined });
    expect(changes).toEqual([
      { added: [rangeOf(32, 4)], removed: [] },
      { added: [], removed: [rangeOf(16, 8)] },
      { added: [rangeOf(18, 2)], removed: [] },
    ]);
    expect(destination.machine.ranges).toEqual([rangeOf(0, 8), rangeOf(18, 2), rangeOf(32, 4)]);
    expect(contentOf(destination)).toEqual(contentOf(source));
  });

  it('arrives when it changed between the agreement and the first pass', async () => {
    const [source, destination] = [await newEnd([slotOf(0, 8, 1)]), await newEnd([slotOf(0, 8)])];
    const { report } = await move(source, destination, {
      trackers: [new LoggingSession(source.handle.features), ...cpuTrackers(source.machine)],
      onEvent(event) {
        if (event.event === 'phase' && event.phase === 'pre-copy') void source.add(slotOf(8, 4, 7));
      },
    });
    expect(report).toMatchObject({ outcome: 'moved', verified: true });
    expect(contentOf(destination)).toEqual(contentOf(source));
  });

  it('is sent again only where it may have changed, when it only became less', async () => {
    const [source, destination] = [
      await newEnd([slotOf(0, 8, 1), slotOf(16, 8, 2)]),
      await newEnd([slotOf(0, 8), slotOf(16, 8)]),
    ];
    const { report } = await move(
      source,
      destination,
      afterPasses(() => {
        void source.remove(source.machine.slots[1]!);
        void source.write(3, 9);
      }),
    );
    expect(report).toMatchObject({ outcome: 'moved', verified: true });
    expect(report.passes.map(({ pagesSent }) => pagesSent)).toEqual([16, 0, 1, 0].slice(0, report.passes.length));
  });

  it('that was removed and added again with other content arrives with the new content', async () => {
    const [source, destination] = [await newEnd([slotOf(0, 8, 1)]), await newEnd([slotOf(0, 8)])];
    const { report } = await move(
      source,
      destination,
      afterPasses(async () => {
        void source.remove(source.machine.slots[0]!);
        await source.handle.unmapMemory(0n, 8n * 4096n).catch(() => {});
        await source.add(slotOf(0, 8, 4));
      }),
    );
    expect(report).toMatchObject({ outcome: 'moved', verified: true });
    expect(contentOf(destination)).toEqual(contentOf(source));
  });

  it('is refused by a destination that has nobody to provide it, and the machine runs on', async () => {
    const [source, destination] = [await newEnd([slotOf(0, 8, 1)]), await newEnd([slotOf(0, 8)])];
    const { report, refusal } = await move(
      source,
      destination,
      afterPasses(() => source.add(slotOf(8, 4))),
      {},
    );
    expect(report).toMatchObject({ outcome: 'failed', runningAt: 'source' });
    expect(report.error!.message).toContain('0x8000 + 0x4000 was added at the source');
    expect(refusal).toMatchObject({ errno: 'EOPNOTSUPP' });
    expect(destination.machine.ranges).toEqual([rangeOf(0, 8)]);
    // Nothing holds the memory any more.
    await source.remove(source.machine.slots[1]!);
  });

  it('is refused when the destination is given other memory than was added', async () => {
    const [source, destination] = [await newEnd([slotOf(0, 8, 1)]), await newEnd([slotOf(0, 8)])];
    const { report, refusal } = await move(
      source,
      destination,
      afterPasses(() => source.add(slotOf(8, 4))),
      {
        memoryFor: async () => slotOf(8, 3),
      },
    );
    expect(report).toMatchObject({ outcome: 'failed', runningAt: 'source' });
    expect(refusal).toMatchObject({ errno: 'EINVAL' });
  });

  it('takes no change while the machine is stopped, and all of them when it runs again', async () => {
    const [source, destination] = [await newEnd([slotOf(0, 8, 1)]), await newEnd([slotOf(0, 8)])];
    const answers: Promise<string>[] = [];
    destination.device['loadState'] = () => {
      throw new Error('broken');
    };
    const { report } = await move(source, destination, {
      onEvent(event) {
        if (event.event === 'phase' && event.phase === 'stop-and-copy') {
          answers.push(errnoOf(() => source.machine.add(slotOf(8, 1))));
          answers.push(errnoOf(() => source.machine.remove(rangeOf(0, 8))));
        }
      },
    });
    expect(report).toMatchObject({ outcome: 'failed', runningAt: 'source' });
    expect(await Promise.all(answers)).toEqual(['EBUSY', 'EBUSY']);
    await source.add(slotOf(8, 1));
    expect(source.machine.ranges).toHaveLength(2);
  });

  it('waits for a pass that is under way in it, whose end may be its failure', async () => {
    const [source, destination] = [await newEnd([slotOf(0, 8, 1)]), await newEnd([slotOf(0, 8)])];
    const controller = new AbortController();
    let removed: Promise<void> | undefined;
    const { report } = await move(source, destination, {
      signal: controller.signal,
      onEvent(event) {
        if (event.event !== 'pass' || removed !== undefined) return;
        removed = source.remove(source.machine.slots[0]!);
        controller.abort();
      },
    });
    expect(report).toMatchObject({ outcome: 'failed', runningAt: 'source', error: { errno: 'ECANCELED' } });
    await removed;
  });

  it('ends with the machine at the source when a tracker cannot follow', async () => {
    const [source, destination] = [await newEnd([slotOf(0, 8, 1)]), await newEnd([slotOf(0, 8)])];
    const { report } = await move(source, destination, {
      trackers: [new LoggingSession(source.handle.features), new MarkedTracker([rangeOf(0, 8)])],
      ...afterPasses(() => source.add(slotOf(8, 4))),
    });
    expect(report).toMatchObject({ outcome: 'failed', runningAt: 'source', error: { errno: 'EINVAL' } });
    expect(report.error!.message).toContain('not in the memory that this tracker was given');
    expect(source.device.dma.log.active).toBe(false);
  });
});

function cpuTrackers(machine: MachineMemory): Tracker[] {
  return cannotTrack ? [] : [new CpuTracker(machine)];
}

/** A tracker of somebody else's, which knows nothing of memory that changes. */
class PlainTracker implements Tracker {
  readonly name = 'plain';
  readonly #session: LoggingSession;

  constructor(session: LoggingSession) {
    this.#session = session;
  }

  start(ranges: readonly IovaRange[]): Promise<void> {
    return this.#session.start(ranges);
  }

  collect(dirty: DirtySet): Promise<LostLog[]> {
    return this.#session.collect(dirty);
  }

  stop(): Promise<void> {
    return this.#session.stop();
  }
}

type Work =
  | { what: 'write'; page: number; value: number; by: 'device' | 'cpu' }
  | { what: 'add' | 'remove' | 'replace'; page: number; pages: number; value: number };

const page = fc.nat(63);
const value = fc.integer({ min: 1, max: 255 });
const work: fc.Arbitrary<Work> = fc.oneof(
  {
    weight: 2,
    arbitrary: fc.record({ what: fc.constant('write' as const), page, value, by: fc.constantFrom('device', 'cpu') }),
  },
  fc.record({
    what: fc.constantFrom('add', 'remove', 'replace'),
    page,
    pages: fc.integer({ min: 1, max: 12 }),
    value,
  }),
);

/** A machine that changes itself, as a naive twin says: bytes by page. */
class RestlessMachine {
  /** The first byte of each page that there is. */
  readonly twin = new Map<number, number>();
  readonly removals: Promise<unknown>[] = [];
  readonly #end: End;
  readonly #mark: (page: number) => void;

  constructor(end: End, mark: (page: number) => void) {
    this.#end = end;
    this.#mark = mark;
    for (const slot of end.machine.slots) this.#note(slot, 1);
  }

  #note({ iova, length }: IovaRange, value: number | undefined): void {
    const first = Number(iova) / PAGE;
    for (let at = first; at < first + Number(length) / PAGE; at++) {
      if (value === undefined) this.twin.delete(at);
      else this.twin.set(at, value);
    }
  }

  #slotAt(page: number): MemorySlot | undefined {
    const at = BigInt(page * PAGE);
    return this.#end.machine.slots.find(({ iova, length }) => iova <= at && at < iova + length);
  }

  /** Each by itself is done at once; a machine that is stopped does nothing. */
  do(work: Work): void {
    if (!this.#end.device.runs) return;
    const slot = this.#slotAt(work.page);
    if (work.what === 'write' && slot !== undefined) this.#write(work, slot);
    if (work.what === 'add' && slot === undefined) this.#add(slotOf(work.page, work.pages, work.value), work.value);
    if (work.what !== 'remove' && work.what !== 'replace') return;
    if (slot === undefined || this.#end.machine.slots.length === 1 || !this.#remove(slot)) return;
    if (work.what === 'replace') {
      const { iova, length } = slot;
      this.#add({ iova, length, memory: newMemory(Number(length) / PAGE, work.value) }, work.value);
    }
  }

  #write({ page, value, by }: Work & { what: 'write' }, slot: MemorySlot): void {
    this.twin.set(page, value);
    if (by === 'device') {
      void this.#end.write(page, value);
      return;
    }
    slot.memory.write(page * PAGE - Number(slot.iova), Uint8Array.of(value));
    this.#mark(page);
  }

  #add(slot: MemorySlot, value: number): void {
    try {
      this.#end.machine.add(slot);
    } catch {
      // It overlaps another, or the machine is about to stop.
      return;
    }
    this.#end.device.dma.map.map(
      { iova: slot.iova, length: slot.length, readable: true, writable: true },
      backingFor(slot.memory.duplicateFd(), 0n, slot.length, { read: true, write: true }),
    );
    this.#note(slot, value);
  }

  #remove(slot: MemorySlot): boolean {
    const removed = this.#end.machine.remove(slot);
    if (this.#slotAt(Number(slot.iova) / PAGE) !== undefined) {
      removed.catch(() => {});
      return false;
    }
    this.#end.device.dma.map.unmap(slot.iova, slot.length);
    this.#note(slot, undefined);
    this.removals.push(removed.then(() => slot.memory.close()));
    return true;
  }
}

describe('a machine that writes and changes its memory while it is moved', () => {
  const dmaTrackers = {
    'by restarting the log': (end: End) => new LoggingSession(end.handle.features),
    'by a tracker that cannot follow': (end: End) => new PlainTracker(new LoggingSession(end.handle.features)),
  };

  it.each([
    ['by restarting the log', 'kernel'],
    ['by restarting the log', 'marks'],
    ['by a tracker that cannot follow', 'marks'],
  ] as const)('arrives as a naive twin has it, tracked %s and by %s', async (dma, cpu) => {
    if (cpu === 'kernel' && cannotTrack) return;
    let changes = 0;
    await fc.assert(
      fc.asyncProperty(fc.array(work, { minLength: 5, maxLength: 60 }), async works => {
        const [source, destination] = [
          await newEnd([slotOf(0, 8, 1), slotOf(20, 8, 1)]),
          await newEnd([slotOf(0, 8), slotOf(20, 8)]),
        ];
        const marked = new MarkedTracker([EVERYTHING]);
        const machine = new RestlessMachine(source, page => marked.mark(page * PAGE, 1));
        const queue = [...works];
        let timer: NodeJS.Timeout | undefined;
        // Now and then in the middle of a pass or of a change.
        const doOne = () => {
          if (queue.length > 0) machine.do(queue.shift()!);
          if (queue.length > 0) timer = setTimeout(doOne, 1);
        };
        // A change between a pass and the stop leads to another pass.
        const doUntilChange = () => {
          const { slots } = source.machine;
          while (queue.length > 0 && source.machine.slots === slots) machine.do(queue.shift()!);
        };
        const { report, refusal } = await move(source, destination, {
          maxPasses: 1000,
          trackers: [dmaTrackers[dma](source), cpu === 'kernel' ? new CpuTracker(source.machine) : marked],
          onEvent(event) {
            if (event.event === 'memory') changes++;
            if (event.event === 'phase' && event.phase === 'pre-copy') doOne();
            if (event.event === 'pass') doUntilChange();
          },
        });
        queue.length = 0;
        clearTimeout(timer);
        expect(refusal).toBeUndefined();
        expect(report).toMatchObject({ outcome: 'moved', verified: true, stalePages: 0, lostLogs: [] });
        expect(contentOf(destination)).toEqual(contentOf(source));
        expect(pagesOf(destination)).toEqual(new Map([...machine.twin].sort(([one], [other]) => one - other)));
        await Promise.all(machine.removals);
        for (const each of opened.splice(0).reverse()) await each.close();
      }),
      { numRuns: 40 },
    );
    expect(changes).toBeGreaterThan(20);
  });
});

/** The first byte of each page. */
function pagesOf({ machine }: End): Map<number, number> {
  const bytes = new Map<number, number>();
  for (const { iova, length, memory } of machine.slots) {
    for (let at = 0; at < Number(length); at += PAGE) {
      bytes.set((Number(iova) + at) / PAGE, memory.view(at, 1)[0]!);
    }
  }
  return bytes;
}
