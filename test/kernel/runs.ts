import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { TestProject } from 'vitest/node';
import { type GuestResult, RESULT_MARK } from './guest/reporter.js';

const project = fileURLToPath(new URL('../..', import.meta.url));
const KERNELS = ['6.1', '6.12'];
const GUEST_PROGRAM = '.cache/kernel/test/kernel/guest';
/** How long a guest may take for all tests, milliseconds: two at once take two minutes without KVM, on two idle cores. */
const RUN_TIMEOUT_MS = 900_000;
/** How long one test may take, milliseconds. */
const TEST_TIMEOUT_MS = 120_000;

/** What all tests gave in a guest with one kernel. */
export interface KernelRun {
  readonly kernel: string;
  readonly results: readonly GuestResult[];
  /** Exit status of the guest's program; 125 when the guest did not get to its end. */
  readonly status: number | null;
  /** What the guest said besides. */
  readonly console: string;
}

declare module 'vitest' {
  interface ProvidedContext {
    kernelRuns: KernelRun[];
  }
}

/**
 * Runs the tests of `guest/` in a guest for each kernel, once for all test files, and says each result as it comes.
 * `DMALOG_KERNELS=6.12` leaves the others out; `DMALOG_GUEST_TESTS='table mtty'` names test files.
 */
export default async function setup({ provide }: TestProject): Promise<void> {
  const run = promisify(execFile);
  await run('npx', ['tsc', '-p', 'test/kernel'], { cwd: project });
  const kernels = process.env.DMALOG_KERNELS?.split(' ') ?? KERNELS;
  const fetched = ['qemu', ...kernels.map(kernel => `kernel-${kernel}`)];
  await run('test/machines/fetch', fetched, { cwd: project });
  const accelerator = (await run('test/machines/accelerator', { cwd: project })).stdout.trim();
  console.log(`guests run with ${accelerator}`);
  provide('kernelRuns', await Promise.all(kernels.map(kernel => runGuest(kernel, accelerator))));
}

async function runGuest(kernel: string, accelerator: string): Promise<KernelRun> {
  const files = process.env.DMALOG_GUEST_TESTS ?? '';
  const options = `--test-timeout=${TEST_TIMEOUT_MS} --test-reporter=./${GUEST_PROGRAM}/reporter.js --test-reporter-destination=stdout`;
  const command = `node ${options} ${GUEST_PROGRAM}/main.js ${files}`;
  // The kernel ends the guest with this process, however that ends (prctl(2) PR_SET_PDEATHSIG).
  const program = ['--pdeathsig', 'KILL', '--', 'test/machines/run-kernel-guest'];
  const guest = spawn('setpriv', [...program, '--accelerator', accelerator, kernel, command], {
    cwd: project,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const results: GuestResult[] = [];
  let said = '';
  guest.stderr.on('data', bytes => (said += bytes));
  createInterface({ input: guest.stdout }).on('line', line => {
    if (line.startsWith(RESULT_MARK)) {
      const result = JSON.parse(line.slice(RESULT_MARK.length)) as GuestResult;
      results.push(result);
      console.log(`Linux ${kernel} ${outcome(result)} ${result.names.join(' > ')}`);
    } else said += `${line}\n`;
  });
  const timeout = setTimeout(() => guest.kill('SIGKILL'), RUN_TIMEOUT_MS);
  const [status] = (await once(guest, 'close')) as [number | null];
  clearTimeout(timeout);
  return { kernel, results, status, console: said };
}

function outcome({ passed, skipped }: GuestResult): string {
  if (skipped) return 'left out';
  return passed ? 'ok' : 'FAILED';
}
