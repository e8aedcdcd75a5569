import { VfioError } from '../../uapi/index.js';
import { WORKLOAD_MAX_PAGES, type WorkloadSettings, workloadKindNumbers } from '../workload/index.js';

/*
 * One workload, divided among the CPUs: each has a part of the area, a part of the rate and a seed of its own, so that a page of one CPU is not
 * like any of another's.
 *
 * Example: 3 CPUs, 10 pages at IOVA 0x10000, 600 pages/s, seed 7. CPU 0 has pages 0 to 2, CPU 1 pages 3 to 5, CPU 2 pages 6 to 9, at 200 pages/s
 * each; their bases are 0x10000, 0x13000 and 0x16000, their seeds 7, 8 and 9.
 */

/** Bytes of one store: a page. */
export const CPU_PAGE_SIZE = 4096;
/** Most CPUs of a machine. */
export const MOST_CPUS = 64;

const MOST_RATE = 10_000_000;
const MOST_EXPONENT = 8;

/** What the CPUs write. */
export interface CpuWorkload {
  /** How each CPU chooses the pages that it writes. */
  kind: 'sequential' | 'uniform' | 'hot-set';
  /** IOVA where the area begins, whole pages. */
  base: number;
  /** Size of the area in bytes, whole pages; a page for each CPU at least, and 2^26 pages each at most. */
  length: number;
  /** Pages per second, all CPUs together; 0 to 10,000,000. */
  rate: number;
  /** 32 bits. */
  seed: number;
  /** Hot set: Zipf's exponent, 0 to 8. */
  exponent: number;
}

/** @throws VfioError EINVAL naming what is out of its limits */
export function requireCpuWorkload(workload: CpuWorkload, cpus: number, operation: string): void {
  const { kind, base, length, rate, seed, exponent } = workload;
  const demand = (field: keyof CpuWorkload, holds: boolean) => {
    if (!holds) throw new VfioError('EINVAL', { operation, field, message: 'is out of its limits' });
  };
  const arePages = (bytes: number) => Number.isSafeInteger(bytes) && bytes >= 0 && bytes % CPU_PAGE_SIZE === 0;
  const pages = length / CPU_PAGE_SIZE;
  demand('kind', ['sequential', 'uniform', 'hot-set'].includes(kind));
  demand('base', arePages(base));
  demand('length', arePages(length) && Number.isSafeInteger(base + length));
  demand('length', pages >= cpus && pages <= cpus * WORKLOAD_MAX_PAGES);
  demand('rate', rate >= 0 && rate <= MOST_RATE);
  demand('seed', Number.isInteger(seed) && seed >= 0 && seed < 2 ** 32);
  demand('exponent', exponent >= 0 && exponent <= MOST_EXPONENT);
}

/** What CPU `index` of `cpus` writes. */
export function settingsOf(workload: CpuWorkload, cpus: number, index: number): WorkloadSettings {
  const pages = workload.length / CPU_PAGE_SIZE;
  const first = Math.floor((pages * index) / cpus);
  const end = Math.floor((pages * (index + 1)) / cpus);
  return {
    kind: workloadKindNumbers[workload.kind],
    pageSize: CPU_PAGE_SIZE,
    base: workload.base + first * CPU_PAGE_SIZE,
    pages: end - first,
    seed: (workload.seed + index) >>> 0,
    exponent: workload.exponent,
    // Of rings, which no CPU writes.
    rings: 1,
    burst: 1,
  };
}
