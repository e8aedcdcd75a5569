import { LocalDevice } from '../../src/device/index.js';
import { DmaEngine, DmaEngineDriver, type DmaEngineOptions } from '../../src/devices/dma-engine/index.js';
import { type Backing, GuestMemory, MappedBacking } from '../../src/memory/index.js';
import { bitmapBytes, MigrationState, type VfioError } from '../../src/uapi/index.js';

/** A region of guest memory as the tests map it: `offset` is where it lies in the memory file. */
export interface TestRegion {
  iova: bigint;
  length: number;
  offset: number;
  readable: boolean;
  writable: boolean;
}

/** An engine, its guest's memory and a driver, in one process. */
export interface EngineHost {
  engine: DmaEngine;
  device: LocalDevice;
  driver: DmaEngineDriver;
  memory: GuestMemory;
  close(): Promise<void>;
}

/** One region that maps all of a memory of `size` bytes from `iova` on. */
export function wholeRegion(size: number, iova = 0n): TestRegion {
  return { iova, length: size, offset: 0, readable: true, writable: true };
}

/** A host with `size` bytes of memory, mapped as `regions` say. */
export async function createHost(
  size: number,
  regions: readonly TestRegion[] = [wholeRegion(size)],
  options: DmaEngineOptions = {},
): Promise<EngineHost> {
  const memory = GuestMemory.create(size);
  const engine = new DmaEngine(options);
  for (const { iova, length, offset, readable, writable } of regions) {
    const rights = { read: readable, write: writable };
    engine.dma.map.map(
      { iova, length: BigInt(length), readable, writable },
      new MappedBacking(memory.duplicateFd(), BigInt(offset), BigInt(length), rights),
    );
  }
  const device = new LocalDevice(engine);
  const driver = await DmaEngineDriver.attach(device);
  return {
    engine,
    device,
    driver,
    memory,
    async close() {
      await driver.stop();
      await device.close();
      memory.close();
    },
  };
}

/** All bytes of a memory, copied. */
export function contentsOf(memory: GuestMemory): Uint8Array {
  const bytes = new Uint8Array(Number(memory.size));
  memory.read(0, bytes);
  return bytes;
}

/** Moves a device's state, as a migration does; the destination runs afterwards, the source stays in STOP_COPY. */
export async function migrate(source: LocalDevice, destination: LocalDevice): Promise<void> {
  await source.features.setMigrationState(MigrationState.STOP_COPY);
  await destination.features.setMigrationState(MigrationState.RESUMING);
  await destination.writeMigrationData(await readState(source));
  await destination.features.setMigrationState(MigrationState.RUNNING);
}

/** All that a device in STOP_COPY gives. */
export async function readState(source: LocalDevice): Promise<Uint8Array> {
  const pieces: Uint8Array[] = [];
  for (;;) {
    const piece = await source.readMigrationData(1000);
    if (piece.length === 0) return Buffer.concat(pieces);
    pieces.push(piece);
  }
}

/** The pages (4096 bytes) that a report of `[iova, iova + length)` names, as page numbers of the address space. */
export function reportedPages(engine: DmaEngine, iova: bigint, length: number): bigint[] {
  const bitmap = new Uint32Array(Number(bitmapBytes(BigInt(length), 4096n)) / 4);
  engine.dma.log.report(iova, BigInt(length), 4096n, bitmap);
  const pages: bigint[] = [];
  for (let bit = 0; bit < bitmap.length * 32; bit++) {
    if (((bitmap[bit >>> 5]! >>> (bit & 31)) & 1) === 1) pages.push(iova / 4096n + BigInt(bit));
  }
  return pages;
}

/** Memory that answers in a later turn of the event loop, as memory behind messages does. */
export class LateBacking implements Backing {
  readonly kind = 'message';
  readonly bytes: Uint8Array;
  /** While set, DMAs wait for {@link LateBacking.release}. */
  held = false;
  /** Reads and writes so far. */
  accesses = 0;
  #waiting: (() => void)[] = [];

  constructor(size: number) {
    this.bytes = new Uint8Array(size);
  }

  async read(offset: number, into: Uint8Array): Promise<void> {
    await this.#turn();
    into.set(this.bytes.subarray(offset, offset + into.length));
  }

  async write(offset: number, from: Uint8Array): Promise<void> {
    await this.#turn();
    this.bytes.set(from, offset);
  }

  close(): void {}

  /** How many DMAs wait. */
  get waiting(): number {
    return this.#waiting.length;
  }

  /** Lets those that wait go on, and all that follow. */
  release(): void {
    this.held = false;
    for (const resolve of this.#waiting.splice(0)) resolve();
  }

  #turn(): Promise<void> {
    this.accesses++;
    if (this.held) return new Promise(resolve => this.#waiting.push(resolve));
    return new Promise(resolve => setImmediate(resolve));
  }
}

/** Memory that answers at once, and remembers where it was written. */
export class RecordingBacking implements Backing {
  readonly kind = 'mapped';
  readonly bytes: Uint8Array;
  /** The offset of each write, in order. */
  readonly writes: number[] = [];
  /** While set, writes fail with it after half of their bytes. */
  failure: VfioError | undefined;

  constructor(bytes: Uint8Array) {
    this.bytes = bytes;
  }

  read(offset: number, into: Uint8Array): void {
    into.set(this.bytes.subarray(offset, offset + into.length));
  }

  write(offset: number, from: Uint8Array): void {
    if (this.failure !== undefined) {
      this.bytes.set(from.subarray(0, from.length / 2), offset);
      throw this.failure;
    }
    this.writes.push(offset);
    this.bytes.set(from, offset);
  }

  close(): void {}
}

/** A host whose memory, at IOVA 0, is `backing`. */
export async function createHostOver<T extends Backing>(
  backing: T,
  size: number,
): Promise<EngineHost & { backing: T }> {
  const host = await createHost(4096, []);
  host.engine.dma.map.map({ iova: 0n, length: BigInt(size), readable: true, writable: true }, backing);
  return { ...host, backing };
}

/** A host whose memory answers late. */
export function createLateHost(size: number): Promise<EngineHost & { backing: LateBacking }> {
  return createHostOver(new LateBacking(size), size);
}

/** A host whose memory is known byte by byte and write by write. */
export function createRecordingHost(bytes: Uint8Array): Promise<EngineHost & { backing: RecordingBacking }> {
  return createHostOver(new RecordingBacking(bytes), bytes.length);
}
