import { expect, onTestFinished, test } from 'vitest';
import { createMemoryFile, Mapping, PlacedMapping } from '../../src/native/index.js';
import { errnoOf, expectNoFdLeak, pattern } from './helpers.js';

expectNoFdLeak();

const PAGE = 4096;

/** A memory file of `pages` pages, as this process sees it. */
function mappedFile(pages: number) {
  const file = createMemoryFile('placed', pages * PAGE);
  const mapping = Mapping.map(file.fd, 0, pages * PAGE, { read: true, write: true });
  onTestFinished(() => {
    mapping.close();
    file.close();
  });
  return { file, bytes: mapping.view(0, pages * PAGE) };
}

function wasmBytes(): Uint8Array {
  const memory = new WebAssembly.Memory({ initial: 2, maximum: 2, shared: true });
  return new Uint8Array(memory.buffer);
}

test('a place shows the file from its offset on, both ways, and leaves what is around it alone', () => {
  const { file, bytes } = mappedFile(3);
  const memory = wasmBytes().fill(0xee);
  const place = memory.subarray(2 * PAGE, 4 * PAGE);
  bytes.set(pattern(PAGE), PAGE);
  const placed = new PlacedMapping(place, file.fd, BigInt(PAGE));
  onTestFinished(() => placed.close());
  expect(place.subarray(0, PAGE)).toEqual(pattern(PAGE));
  place[PAGE + 5] = 77;
  expect(bytes[2 * PAGE + 5]).toBe(77);
  expect(memory[2 * PAGE - 1]).toBe(0xee);
  expect(memory[4 * PAGE]).toBe(0xee);
});

test('a place that is closed shows zeros, and leads nowhere', () => {
  const { file, bytes } = mappedFile(1);
  const place = wasmBytes().subarray(0, PAGE);
  bytes[0] = 1;
  const placed = new PlacedMapping(place, file.fd, 0n);
  placed.close();
  placed.close();
  expect(place[0]).toBe(0);
  place[0] = 9;
  expect(bytes[0]).toBe(1);
});

test('what cannot be mapped leaves the place as it was', () => {
  const { file } = mappedFile(1);
  const memory = wasmBytes().fill(0xee);
  const refuse = (place: Uint8Array, fd: number, offset: bigint) => errnoOf(() => new PlacedMapping(place, fd, offset));
  expect(refuse(memory.subarray(8, PAGE), file.fd, 0n)).toBe('EINVAL');
  expect(refuse(memory.subarray(0, PAGE), file.fd, 8n)).toBe('EINVAL');
  expect(refuse(memory.subarray(0, 0), file.fd, 0n)).toBe('EINVAL');
  expect(refuse(memory.subarray(0, PAGE), -1, 0n)).toBe('EBADF');
  expect(memory.every(byte => byte === 0xee)).toBe(true);
});
