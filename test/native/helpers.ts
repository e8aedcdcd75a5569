import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll, beforeAll, expect } from 'vitest';
import { openFdCount } from '../../src/native/index.js';
import { type ErrnoName, VfioError } from '../../src/uapi/index.js';

/** Fails the test file when it ends with more or fewer descriptors open than it began with. */
export function expectNoFdLeak(): void {
  let before = 0;
  beforeAll(() => {
    before = openFdCount();
  });
  afterAll(() => expect(openFdCount()).toBe(before));
}

/** Runs `action`, which must open or close exactly `change` descriptors. */
export function expectFdChange<T>(change: number, action: () => T): T {
  const before = openFdCount();
  const result = action();
  expect(openFdCount() - before).toBe(change);
  return result;
}

/** The errno that `action` throws; undefined when it throws nothing. Anything but a VfioError fails. */
export function errnoOf(action: () => unknown): ErrnoName | undefined {
  try {
    action();
    return undefined;
  } catch (error) {
    expect(error).toBeInstanceOf(VfioError);
    return (error as VfioError).errno;
  }
}

/** A folder that is gone after the test file. */
export function temporaryFolder(): (name: string) => string {
  const folder = mkdtempSync(join(tmpdir(), 'dmalog-'));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return name => join(folder, name);
}

/** Bytes 1, 2, 3, … that repeat after 251, so that a shift by a page or a window shows. */
export function pattern(length: number, seed = 0): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => ((index + seed) % 251) + 1);
}

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

/** Whether two arrays hold the same bytes: quicker than `toEqual` by far, for properties. */
export function sameBytes(left: Uint8Array, right: Uint8Array): boolean {
  return Buffer.compare(left, right) === 0;
}

/** Collects garbage and lets finalizers run until `done`; false when they never get there. */
export async function collectUntil(done: () => boolean): Promise<boolean> {
  for (let turn = 0; turn < 100; turn++) {
    if (done()) return true;
    collect();
    await turnOfLoop();
  }
  return false;
}

/** Lets the event loop go round once, its poll phase included. */
export async function turnOfLoop(): Promise<void> {
  await new Promise(resolve => setTimeout(resolve, 1));
}

/** Lets the event loop go round until `done`; false when it never is. */
export async function loopUntil(done: () => boolean): Promise<boolean> {
  for (let turn = 0; turn < 5000; turn++) {
    if (done()) return true;
    await turnOfLoop();
  }
  return false;
}

/** Address space of this process, bytes. */
export function addressSpace(): number {
  const kilobytes = /VmSize:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))?.[1];
  return Number(kilobytes) * 1024;
}
