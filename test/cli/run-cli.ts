import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll } from 'vitest';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
if (!existsSync(main)) throw new Error('the command line is tested as it is built: run `npm run build` first');

/** What a command left behind: exit code, or the signal that ended it, and its words. */
export interface Finished {
  code: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

/** The commands' own folder for temporary files: whatever else runs on this machine leaves nothing here. */
const temporary = mkdtempSync(join(tmpdir(), 'dmalog-'));
afterAll(() => rmSync(temporary, { recursive: true, force: true }));

/** Starts `dmalog` as a user does. */
export function start(
  parameters: readonly string[],
  stdoutTo: number | 'pipe' = 'pipe',
  environment: NodeJS.ProcessEnv = {},
): { child: ChildProcess; finished: Promise<Finished> } {
  const child = spawn(process.execPath, [main, ...parameters], {
    stdio: ['ignore', stdoutTo, 'pipe'],
    // The test runner may force colours on whatever it starts.
    env: { ...process.env, TMPDIR: temporary, FORCE_COLOR: '', CI: 'true', ...environment },
  });
  let stdout = '';
  let stderr = '';
  child.stdout?.setEncoding('utf8').on('data', text => {
    stdout += text;
  });
  child.stderr?.setEncoding('utf8').on('data', text => {
    stderr += text;
  });
  const finished = new Promise<Finished>(resolve => {
    child.on('close', (code, signal) => resolve({ code, signal, stdout, stderr }));
  });
  return { child, finished };
}

/** Runs `dmalog` to its end. */
export function run(...parameters: string[]): Promise<Finished> {
  return start(parameters).finished;
}

/** The objects of a `--json` output. */
// biome-ignore lint/suspicious/noExplicitAny: what the command printed, looked at by its test
export function parseLines(stdout: string): any[] {
  return stdout
    .trim()
    .split('\n')
    .filter(line => line !== '')
    .map(line => JSON.parse(line));
}

/** The demo's folders that are there now. */
export function demoFolders(): string[] {
  return readdirSync(temporary);
}

/** Whether a process is there (and no zombie of this one's). */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

/** Until `holds`, or for five seconds; whether it did. */
export async function eventually(holds: () => boolean): Promise<boolean> {
  for (let waited = 0; waited < 5000; waited += 20) {
    if (holds()) return true;
    await new Promise(resolve => setTimeout(resolve, 20));
  }
  return holds();
}
