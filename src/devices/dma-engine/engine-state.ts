import { VfioError, viewOf } from '../../uapi/index.js';
import {
  decodeGenerations,
  encodeGenerations,
  type WorkloadCounters,
  type WorkloadProgress,
} from '../workload/index.js';
import { readSettings } from './read-settings.js';
import { RegisterBlock } from './register-block.js';
import {
  COMMAND_BUSY,
  COMMAND_ERRNO_MASK,
  DMA_ENGINE_MAGIC,
  DMA_ENGINE_VERSION,
  DmaEngineCommand,
  DmaEngineInterrupt,
  DmaEngineRegister,
  PageFault,
  WorkloadControl,
} from './registers.js';

/*
 * The engine's migrating state:
 *
 *   registers 0x000 to 0x11f as they read (288 bytes) · u32 bytes and bytes of the page order's place · u32 bytes and bytes of the
 *   generation table
 *
 * The last two are empty while no workload is armed. A command that was at rest at a chunk's border is in the registers, busy.
 */

/** Registers end here. */
const REGISTERS_END = 0x120;
const LARGEST_COUNT = 2n ** 53n - 1n;

const COUNT_REGISTERS = [
  DmaEngineRegister.PAGES_WRITTEN,
  DmaEngineRegister.PAGES_CHECKED,
  DmaEngineRegister.CHECK_ERRORS,
  DmaEngineRegister.VERIFY_CHECKED,
  DmaEngineRegister.VERIFY_BAD,
  DmaEngineRegister.VERIFY_STALE,
];
/** Words of the block that hold nothing. */
const RESERVED_WORDS = [0x00c, 0x0b8, 0x0bc, 0x0e8, 0x0ec, 0x0f0, 0x0f4, 0x0f8, 0x0fc, 0x11c];
for (let word = 0x048; word < 0x080; word += 4) RESERVED_WORDS.push(word);

/** The state taken apart. */
export interface EngineState {
  /** The registers. */
  block: RegisterBlock;
  /** Set when a workload is armed. */
  progress: WorkloadProgress | undefined;
}

/** The engine's state as bytes. */
export function encodeState(block: RegisterBlock, progress: WorkloadProgress | undefined): Uint8Array {
  const order = progress === undefined ? new Uint8Array(0) : bytesOf(progress.order);
  const generations = progress === undefined ? new Uint8Array(0) : encodeGenerations(progress.generations);
  const bytes = new Uint8Array(REGISTERS_END + 8 + order.length + generations.length);
  const view = viewOf(bytes);
  bytes.set(block.bytes.subarray(0, REGISTERS_END));
  view.setUint32(REGISTERS_END, order.length, true);
  bytes.set(order, REGISTERS_END + 4);
  view.setUint32(REGISTERS_END + 4 + order.length, generations.length, true);
  bytes.set(generations, REGISTERS_END + 8 + order.length);
  return bytes;
}

/**
 * Reverse of {@link encodeState}. What it gives is valid but for the page order's place, which the order itself checks.
 * @throws VfioError EINVAL
 */
export function decodeState(bytes: Uint8Array): EngineState {
  if (bytes.length < REGISTERS_END + 8) throw invalid('length', `${bytes.length} bytes`);
  const order = partAt(bytes, REGISTERS_END);
  const generations = partAt(bytes, REGISTERS_END + 4 + order.length);
  if (REGISTERS_END + 8 + order.length + generations.length !== bytes.length) {
    throw invalid('length', 'more bytes than parts');
  }
  const block = new RegisterBlock();
  block.bytes.set(bytes.subarray(0, REGISTERS_END));
  checkRegisters(block);
  if (block.u32(DmaEngineRegister.WORKLOAD_CONTROL) === 0) {
    if (order.length + generations.length > 0) throw invalid('order', 'no workload is armed');
    return { block, progress: undefined };
  }
  if (order.length % 4 !== 0) throw invalid('order', `${order.length} bytes`);
  const { pages } = readSettings(block);
  return {
    block,
    progress: {
      order: new Uint32Array(order.slice().buffer),
      generations: decodeGenerations(generations, pages),
      counters: readCounters(block),
    },
  };
}

function partAt(bytes: Uint8Array, offset: number): Uint8Array {
  if (bytes.length - offset < 4) throw invalid('length', 'cut off');
  const length = viewOf(bytes).getUint32(offset, true);
  if (length > bytes.length - offset - 4) throw invalid('length', 'cut off');
  return bytes.subarray(offset + 4, offset + 4 + length);
}

function checkRegisters(block: RegisterBlock): void {
  const u32 = (register: number) => block.u32(register);
  const demand = (field: string, valid: boolean) => {
    if (!valid) throw invalid(field, 'has a value that no engine gives');
  };
  demand('magic', u32(DmaEngineRegister.MAGIC) === DMA_ENGINE_MAGIC);
  demand('version', u32(DmaEngineRegister.VERSION) === DMA_ENGINE_VERSION);
  demand(
    'reserved',
    RESERVED_WORDS.every(word => u32(word) === 0),
  );
  demand(
    'interrupt',
    u32(DmaEngineRegister.INTERRUPT_STATUS) <= (DmaEngineInterrupt.COMMAND | DmaEngineInterrupt.CHECK_ERROR),
  );
  demand(
    'count',
    COUNT_REGISTERS.every(register => block.u64(register) <= LARGEST_COUNT),
  );
  demand(
    'workload',
    [0, WorkloadControl.ARM, WorkloadControl.ARM | WorkloadControl.RUN].includes(
      u32(DmaEngineRegister.WORKLOAD_CONTROL),
    ),
  );
  demand('fault', u32(DmaEngineRegister.FIRST_BAD_FAULT) <= PageFault.BODY);
  demand('command', isCommandValid(block));
}

/** A busy command has not gone beyond its end. VERIFY sees its end wherever it is, and one that does not exist ends at once. */
function isCommandValid(block: RegisterBlock): boolean {
  const status = block.u32(DmaEngineRegister.COMMAND_STATUS);
  if (status <= COMMAND_ERRNO_MASK) return true;
  const command = block.u32(DmaEngineRegister.COMMAND);
  const hasLength = command >= DmaEngineCommand.COPY && command <= DmaEngineCommand.SCATTER;
  const isWithin = block.u64(DmaEngineRegister.COMMAND_DONE) <= block.u64(DmaEngineRegister.LENGTH);
  return status === COMMAND_BUSY && (isWithin || !hasLength);
}

/** The workload's counters as the registers hold them. */
export function readCounters(block: RegisterBlock): WorkloadCounters {
  return {
    pagesWritten: block.count(DmaEngineRegister.PAGES_WRITTEN),
    pagesChecked: block.count(DmaEngineRegister.PAGES_CHECKED),
    checkErrors: block.count(DmaEngineRegister.CHECK_ERRORS),
    firstBadPage: block.u32(DmaEngineRegister.FIRST_BAD_PAGE),
    firstBadFault: block.u32(DmaEngineRegister.FIRST_BAD_FAULT) as PageFault,
    firstBadExpected: block.u32(DmaEngineRegister.FIRST_BAD_EXPECTED),
    firstBadFound: block.u32(DmaEngineRegister.FIRST_BAD_FOUND),
  };
}

/** Reverse of {@link readCounters}. */
export function writeCounters(block: RegisterBlock, counters: WorkloadCounters): void {
  block.setCount(DmaEngineRegister.PAGES_WRITTEN, counters.pagesWritten);
  block.setCount(DmaEngineRegister.PAGES_CHECKED, counters.pagesChecked);
  block.setCount(DmaEngineRegister.CHECK_ERRORS, counters.checkErrors);
  block.setU32(DmaEngineRegister.FIRST_BAD_PAGE, counters.firstBadPage);
  block.setU32(DmaEngineRegister.FIRST_BAD_FAULT, counters.firstBadFault);
  block.setU32(DmaEngineRegister.FIRST_BAD_EXPECTED, counters.firstBadExpected);
  block.setU32(DmaEngineRegister.FIRST_BAD_FOUND, counters.firstBadFound);
}

function bytesOf(words: Uint32Array): Uint8Array {
  return new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
}

function invalid(field: string, message: string): VfioError {
  return new VfioError('EINVAL', { operation: 'MIG_DATA_WRITE', field, message });
}
