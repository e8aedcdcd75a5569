import { readFileSync } from 'node:fs';
import { VfioError } from '../uapi/index.js';

/*
 * How much of this process's address space peers may fill with mappings.
 *
 * When the kernel's limits are reached (65530 mappings by default, 128 TiB of addresses), mmap fails for everybody in the process, the
 * JavaScript engine included, which then ends it. A sparse memory file costs a peer nothing, so peers get a half of the one limit and a
 * quarter of the other; what is beyond is reached by pread and pwrite.
 */

/** Most bytes that are mapped for peers at a time. */
const MOST_BYTES = 2 ** 45;
const DEFAULT_MAX_MAP_COUNT = 65530;

let mostMappings: number | undefined;
let mappings = 0;
let bytes = 0;

/** Whether another mapping of `length` bytes fits. */
export function hasMappingRoom(length: number): boolean {
  mostMappings ??= Math.floor(readMaxMapCount() / 2);
  return mappings < mostMappings && bytes + length <= MOST_BYTES;
}

/**
 * Takes room for a mapping of `length` bytes, to be given back with {@link releaseMapping}.
 * @throws VfioError ENOMEM when there is none
 */
export function reserveMapping(length: number): void {
  if (!hasMappingRoom(length)) {
    const message = `${mappings} mappings of ${bytes} bytes are there`;
    throw new VfioError('ENOMEM', { operation: 'DMA_MAP', field: 'size', message });
  }
  mappings++;
  bytes += length;
}

/** Gives room back. */
export function releaseMapping(length: number): void {
  mappings--;
  bytes -= length;
}

function readMaxMapCount(): number {
  try {
    return Number(readFileSync('/proc/sys/vm/max_map_count', 'utf8')) || DEFAULT_MAX_MAP_COUNT;
  } catch {
    return DEFAULT_MAX_MAP_COUNT;
  }
}
