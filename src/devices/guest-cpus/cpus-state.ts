import { VfioError, viewOf } from '../../uapi/index.js';
import {
  createPageOrder,
  decodeGenerations,
  encodeGenerations,
  generationsSize,
  PageFault,
  type WorkloadCounters,
  WorkloadKind,
  type WorkloadProgress,
} from '../workload/index.js';
import { type CpuWorkload, requireCpuWorkload, settingsOf } from './cpu-workload.js';

/*
 * The CPUs' migrating state, little-endian:
 *
 *   u32 CPUs · u32 control (0 no workload, 1 at rest, 2 started) · u32 kind · u32 seed · f64 base · f64 length · f64 rate · f64 exponent
 *   then for each CPU: 7 counters, f64 each · u32 bytes and bytes of the page order's place · u32 bytes and bytes of the generation table
 *
 * Without a workload the first two words are all.
 */

const HEADER_SIZE = 48;
const COUNTERS_SIZE = 7 * 8;
const KINDS: readonly (readonly [CpuWorkload['kind'], number])[] = [
  ['sequential', WorkloadKind.SEQUENTIAL],
  ['uniform', WorkloadKind.UNIFORM],
  ['hot-set', WorkloadKind.HOT_SET],
];

/** A workload and how far each CPU is with it. */
export interface CpusState {
  workload: CpuWorkload;
  /** Whether the CPUs write while the machine runs. */
  started: boolean;
  /** One for each CPU. */
  progress: readonly WorkloadProgress[];
}

/** The size of what {@link encodeCpusState} gives, in bytes. */
export function cpusStateSize(state: CpusState | undefined): number {
  if (state === undefined) return 8;
  return state.progress.reduce((sum, progress) => sum + progressSize(progress), HEADER_SIZE);
}

function progressSize({ order, generations }: WorkloadProgress): number {
  return COUNTERS_SIZE + 8 + order.byteLength + generationsSize(generations);
}

/** The state of `cpus` CPUs as bytes; `undefined`: they have no workload. */
export function encodeCpusState(cpus: number, state: CpusState | undefined): Uint8Array {
  if (state === undefined) {
    const bytes = new Uint8Array(8);
    viewOf(bytes).setUint32(0, cpus, true);
    return bytes;
  }
  return Buffer.concat([encodeHeader(cpus, state), ...state.progress.flatMap(encodeProgress)]);
}

function encodeHeader(cpus: number, { workload, started }: CpusState): Uint8Array {
  const header = new Uint8Array(HEADER_SIZE);
  const view = viewOf(header);
  view.setUint32(0, cpus, true);
  view.setUint32(4, started ? 2 : 1, true);
  view.setUint32(8, KINDS.find(([kind]) => kind === workload.kind)![1], true);
  view.setUint32(12, workload.seed, true);
  view.setFloat64(16, workload.base, true);
  view.setFloat64(24, workload.length, true);
  view.setFloat64(32, workload.rate, true);
  view.setFloat64(40, workload.exponent, true);
  return header;
}

function encodeProgress({ order, generations, counters }: WorkloadProgress): Uint8Array[] {
  return [encodeCounters(counters), ...part(asBytes(order)), ...part(encodeGenerations(generations))];
}

function encodeCounters(counters: WorkloadCounters): Uint8Array {
  return asBytes(
    Float64Array.of(
      counters.pagesWritten,
      counters.pagesChecked,
      counters.checkErrors,
      counters.firstBadPage,
      counters.firstBadFault,
      counters.firstBadExpected,
      counters.firstBadFound,
    ),
  );
}

function part(bytes: Uint8Array): Uint8Array[] {
  return [asBytes(Uint32Array.of(bytes.length)), bytes];
}

function asBytes(numbers: Uint32Array | Float64Array): Uint8Array {
  return new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength);
}

/**
 * Reverse of {@link encodeCpusState}; all of it is checked, and nothing is allocated that `lies` does not vouch for.
 * @param cpus how many the machine has here
 * @param lies whether an area is in this machine's memory
 * @throws VfioError EINVAL
 */
export function decodeCpusState(
  bytes: Uint8Array,
  cpus: number,
  lies: (workload: CpuWorkload) => boolean,
): CpusState | undefined {
  const reader = new Reader(bytes);
  const theirs = reader.u32();
  if (theirs !== cpus) throw invalid('cpus', `the state is of ${theirs} CPUs, here are ${cpus}`);
  const control = reader.u32();
  if (control > 2) throw invalid('control', `${control}`);
  const state = control === 0 ? undefined : readState(reader, { cpus, started: control === 2, lies });
  reader.requireEnd();
  return state;
}

function readState(
  reader: Reader,
  { cpus, started, lies }: { cpus: number; started: boolean; lies: (workload: CpuWorkload) => boolean },
): CpusState {
  const number = reader.u32();
  const kind = KINDS.find(([, known]) => known === number)?.[0];
  if (kind === undefined) throw invalid('kind', `${number}`);
  const seed = reader.u32();
  const [base, length, rate, exponent] = [reader.f64(), reader.f64(), reader.f64(), reader.f64()];
  const workload = { kind, seed, base, length, rate, exponent };
  requireCpuWorkload(workload, cpus, 'MIG_DATA_WRITE');
  if (!lies(workload)) throw invalid('base', 'the area is not in the memory of this machine');
  const progress: WorkloadProgress[] = [];
  for (let index = 0; index < cpus; index++) progress.push(readProgress(reader, settingsOf(workload, cpus, index)));
  return { workload, started, progress };
}

function readProgress(reader: Reader, settings: ReturnType<typeof settingsOf>): WorkloadProgress {
  const counters = readCounters(reader);
  const words = reader.part();
  if (words.length % 4 !== 0) throw invalid('order', `${words.length} bytes`);
  const order = new Uint32Array(Uint8Array.from(words).buffer);
  // The order itself knows which places there are.
  createPageOrder(settings, order);
  return { counters, order, generations: decodeGenerations(reader.part(), settings.pages) };
}

function readCounters(reader: Reader): WorkloadCounters {
  const count = (most: number) => {
    const value = reader.f64();
    if (!(Number.isInteger(value) && value >= 0 && value <= most)) throw invalid('counters', `${value}`);
    return value;
  };
  return {
    pagesWritten: count(Number.MAX_SAFE_INTEGER),
    pagesChecked: count(Number.MAX_SAFE_INTEGER),
    checkErrors: count(Number.MAX_SAFE_INTEGER),
    firstBadPage: count(2 ** 32 - 1),
    firstBadFault: count(PageFault.BODY) as PageFault,
    firstBadExpected: count(2 ** 32 - 1),
    firstBadFound: count(2 ** 32 - 1),
  };
}

/** Takes bytes one after the other. @throws VfioError EINVAL where there are too few */
class Reader {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = viewOf(bytes);
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4), true);
  }

  f64(): number {
    return this.#view.getFloat64(this.#take(8), true);
  }

  /** A length in bytes, and as many bytes. */
  part(): Uint8Array {
    const length = this.u32();
    const start = this.#take(length);
    return this.#bytes.subarray(start, start + length);
  }

  requireEnd(): void {
    if (this.#at !== this.#bytes.length) throw invalid('length', 'more bytes than parts');
  }

  #take(length: number): number {
    const start = this.#at;
    if (length > this.#bytes.length - start) throw invalid('length', 'cut off');
    this.#at = start + length;
    return start;
  }
}

function invalid(field: string, message: string): VfioError {
  return new VfioError('EINVAL', { operation: 'MIG_DATA_WRITE', field, message });
}
