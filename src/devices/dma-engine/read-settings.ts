import { VfioError } from '../../uapi/index.js';
import type { WorkloadSettings } from '../workload/index.js';
import type { RegisterBlock } from './register-block.js';
import {
  BURST_MAX,
  DmaEngineRegister,
  EXPONENT_MAX,
  EXPONENT_ONE,
  RINGS_MAX,
  WORKLOAD_MAX_PAGE_SIZE,
  WORKLOAD_MAX_PAGES,
  WORKLOAD_MIN_PAGE_SIZE,
  WorkloadKind,
} from './registers.js';

const ADDRESS_END = 2n ** 53n;

/** The settings in the registers. @throws VfioError EINVAL naming the register that does not fit */
export function readSettings(block: RegisterBlock): WorkloadSettings {
  const kind = block.u32(DmaEngineRegister.WORKLOAD_KIND);
  const pageSize = block.u32(DmaEngineRegister.WORKLOAD_PAGE_SIZE);
  const base = block.u64(DmaEngineRegister.WORKLOAD_BASE);
  const length = block.u64(DmaEngineRegister.WORKLOAD_LENGTH);
  const exponent = block.u32(DmaEngineRegister.WORKLOAD_EXPONENT);
  const rings = block.u32(DmaEngineRegister.WORKLOAD_RINGS);
  const burst = block.u32(DmaEngineRegister.WORKLOAD_BURST);
  requireFit('kind', kind <= WorkloadKind.RINGS);
  requireFit('page_size', isPageSize(pageSize));
  requireFit('base', base % 8n === 0n);
  requireFit('length', length > 0n && length % BigInt(pageSize) === 0n && base + length <= ADDRESS_END);
  const pages = Number(length / BigInt(pageSize));
  requireFit('length', pages <= WORKLOAD_MAX_PAGES);
  requireFit('exponent', exponent <= EXPONENT_MAX);
  requireFit('rings', rings >= 1 && rings <= RINGS_MAX && (kind !== WorkloadKind.RINGS || rings <= pages));
  requireFit('burst', burst >= 1 && burst <= BURST_MAX);
  return {
    kind,
    pageSize,
    base: Number(base),
    pages,
    seed: block.u32(DmaEngineRegister.WORKLOAD_SEED),
    exponent: exponent / EXPONENT_ONE,
    rings,
    burst,
  };
}

function isPageSize(size: number): boolean {
  return size >= WORKLOAD_MIN_PAGE_SIZE && size <= WORKLOAD_MAX_PAGE_SIZE && (size & (size - 1)) === 0;
}

function requireFit(field: string, fits: boolean): void {
  if (!fits) throw new VfioError('EINVAL', { operation: 'WORKLOAD', field, message: 'is out of its limits' });
}
