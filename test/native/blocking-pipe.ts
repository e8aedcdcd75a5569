import { execFileSync } from 'node:child_process';
import { openSync } from 'node:fs';
import { OwnedFd } from '../../src/native/index.js';

/** A pipe that lets its reader wait; one descriptor for both ends. @param path where its name goes */
export function blockingPipe(path: string): OwnedFd {
  execFileSync('mkfifo', [path]);
  return new OwnedFd(openSync(path, 'r+'));
}
