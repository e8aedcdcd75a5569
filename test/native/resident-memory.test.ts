import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { ResidentMemory } from '../../src/native/index.js';
import { errnoOf } from './helpers.js';
import { lockedBytes, withMemoryLockLimit } from './memory-lock-limit.js';

/** The lines of /proc/self/smaps about the mapping that has an address. */
function mappingAt(address: number): string | undefined {
  const mappings = readFileSync('/proc/self/smaps', 'utf8').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  return mappings.find(text => {
    const [start, end] = text
      .split(' ')[0]!
      .split('-')
      .map(part => Number.parseInt(part, 16));
    return start! <= address && address < end!;
  });
}

test('all of it is there, locked, left out of forks and not merged from the start', () => {
  const memory = new ResidentMemory(1 << 20);
  const mapping = mappingAt(memory.address)!;
  const flags = /VmFlags: (.*)/.exec(mapping)![1]!.trim().split(' ');
  expect(flags).toEqual(expect.arrayContaining(['rd', 'wr', 'lo', 'dc']));
  expect(flags).not.toContain('mg');
  expect(flags).not.toContain('sh');
  expect(/Locked: +(\d+) kB/.exec(mapping)![1]).toBe(/Rss: +(\d+) kB/.exec(mapping)![1]);
  memory.close();
});

test('it is whole pages, all zeros, and what is written stays while children come and go', () => {
  const memory = new ResidentMemory(5000);
  expect(memory.bytes.length).toBe(8192);
  expect(memory.address % 4096).toBe(0);
  expect(memory.bytes.every(byte => byte === 0)).toBe(true);
  memory.bytes.fill(7);
  execFileSync('true');
  expect(memory.bytes.every(byte => byte === 7)).toBe(true);
  memory.close();
});

test('closing gives it back, and a second close takes nobody else his memory', () => {
  const memory = new ResidentMemory(1 << 20);
  const { address } = memory;
  expect(mappingAt(address)).toMatch(/^Locked: +[1-9]/m);
  memory.close();
  expect(mappingAt(address) ?? '').not.toMatch(/^Locked: +[1-9]/m);
  memory.close();
});

test('without the right to lock it there is none: ENOMEM, and nothing stays behind', () => {
  const before = lockedBytes();
  withMemoryLockLimit(65536, () => {
    expect(errnoOf(() => new ResidentMemory(1 << 20))).toBe('ENOMEM');
    expect(() => new ResidentMemory(1 << 20)).toThrow(/raise it \(ulimit -l/);
  });
  expect(lockedBytes()).toBe(before);
});

test('the largest that may be locked is found by halving', () => {
  const locked = lockedBytes();
  withMemoryLockLimit(locked + 300_000, () => {
    const memory = ResidentMemory.largest(2 ** 21);
    expect(memory.bytes.length).toBe(2 ** 18);
    memory.close();
  });
  const memory = ResidentMemory.largest(2 ** 21);
  expect(memory.bytes.length).toBe(2 ** 21);
  memory.close();
});

test('where not even one page may be locked, the largest throws', () => {
  withMemoryLockLimit(lockedBytes(), () => {
    expect(errnoOf(() => ResidentMemory.largest(2 ** 21))).toMatch(/ENOMEM|EAGAIN|EPERM/);
  });
});
