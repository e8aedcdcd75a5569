import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, it } from 'vitest';
import { lockFile } from '../../src/native/index.js';

const folder = mkdtempSync(join(tmpdir(), 'dmalog-lock-'));
afterAll(() => rmSync(folder, { recursive: true }));

const path = join(folder, 'file');
writeFileSync(path, 'content');

const fds: number[] = [];
afterEach(() => {
  for (const fd of fds.splice(0)) closeSync(fd);
});

function open(flags: 'r' | 'r+'): number {
  const fd = openSync(path, flags);
  fds.push(fd);
  return fd;
}

describe('a lock on a file', () => {
  it('that is exclusive excludes every other one', () => {
    lockFile(open('r+'), 'exclusive');
    expect(() => lockFile(open('r+'), 'exclusive')).toThrow(expect.objectContaining({ errno: 'EAGAIN' }));
    expect(() => lockFile(open('r'), 'shared')).toThrow(expect.objectContaining({ errno: 'EAGAIN' }));
  });

  it('that is shared excludes those that are exclusive', () => {
    lockFile(open('r'), 'shared');
    lockFile(open('r'), 'shared');
    expect(() => lockFile(open('r+'), 'exclusive')).toThrow(expect.objectContaining({ errno: 'EAGAIN' }));
  });

  it('ends with its descriptor, and not with another one of the same file', () => {
    const fd = openSync(path, 'r+');
    lockFile(fd, 'exclusive');
    closeSync(openSync(path, 'r'));
    expect(() => lockFile(open('r'), 'shared')).toThrow(expect.objectContaining({ errno: 'EAGAIN' }));
    closeSync(fd);
    lockFile(open('r+'), 'exclusive');
  });

  it('needs the right that it is about', () => {
    expect(() => lockFile(open('r'), 'exclusive')).toThrow(expect.objectContaining({ errno: 'EBADF' }));
    expect(() => lockFile(-1, 'shared')).toThrow(expect.objectContaining({ errno: 'EBADF' }));
  });
});
