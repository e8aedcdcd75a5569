import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  ftruncateSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { GuestMemory } from '../../src/memory/index.js';
import { isShrinkSealed } from '../../src/native/index.js';
import { errnoOf, expectNoFdLeak } from '../native/helpers.js';

expectNoFdLeak();

const folder = mkdtempSync(join(tmpdir(), 'dmalog-memory-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function fileOf(size: number, mode = 0o600): string {
  const path = join(folder, `memory-${size}-${mode.toString(8)}`);
  writeFileSync(path, 'guest');
  truncateSync(path, size);
  chmodSync(path, mode);
  return path;
}

describe('guest memory in a file that is there already', () => {
  it('is the whole file, with what is in it, and writes reach it', () => {
    const path = fileOf(8192);
    using memory = GuestMemory.open(path);
    expect(memory.size).toBe(8192n);
    const bytes = new Uint8Array(5);
    memory.read(0, bytes);
    expect(Buffer.from(bytes).toString()).toBe('guest');
    memory.write(8187, Buffer.from('hello'));
    expect(readFileSync(path).subarray(8187).toString()).toBe('hello');
  });

  it('is sealed against shrinking where it is a memory file, and stays so for its owner', () => {
    using owner = GuestMemory.create(4096);
    using memory = GuestMemory.open(`/proc/self/fd/${owner.fd}`);
    owner.write(10, Buffer.from('shared'));
    expect(Buffer.from(memory.view(10, 6)).toString()).toBe('shared');
    expect(isShrinkSealed(memory.fd)).toBe(true);
  });

  it('is another process’s memory file, which is sealed by it', async () => {
    const script =
      'import os, sys; fd = os.memfd_create("ram", os.MFD_ALLOW_SEALING); os.ftruncate(fd, 4096); print(fd, flush=True); sys.stdin.read(); os.ftruncate(fd, 0)';
    const child = spawn('python3', ['-c', script], { stdio: ['pipe', 'pipe', 'ignore'] });
    const [fd] = await once(child.stdout, 'data');
    using memory = GuestMemory.open(`/proc/${child.pid}/fd/${String(fd).trim()}`);
    expect(isShrinkSealed(memory.fd)).toBe(true);
    expect(() => ftruncateSync(memory.fd, 0)).toThrow('EPERM');
    child.stdin.end();
    // Its own truncation fails.
    expect((await once(child, 'exit'))[0]).toBe(1);
    memory.view(0, 4096).fill(7);
  });

  it.each([
    ['nothing there', () => join(folder, 'none'), 'ENOENT'],
    ['a folder', () => folder, 'EINVAL'],
    ['a device', () => '/dev/zero', 'EINVAL'],
    ['an empty file', () => fileOf(0), 'EINVAL'],
    ['a file that is not whole pages', () => fileOf(4097), 'EINVAL'],
    ['a file that its group may shrink', () => fileOf(4096, 0o620), 'EPERM'],
    ['a file that everybody may shrink', () => fileOf(4096, 0o602), 'EPERM'],
  ])('is refused for %s', (_, path, errno) => {
    expect(errnoOf(() => GuestMemory.open(path()))).toBe(errno);
  });

  it('is found behind a link, whose own rights say nothing', () => {
    symlinkSync(fileOf(4096), join(folder, 'link'));
    GuestMemory.open(join(folder, 'link')).close();
    symlinkSync(fileOf(4096, 0o666), join(folder, 'open-link'));
    expect(errnoOf(() => GuestMemory.open(join(folder, 'open-link')))).toBe('EPERM');
  });
});
