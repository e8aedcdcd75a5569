import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { GuestShell } from './guest-shell.js';
import type { MachineParts } from './parts.js';
import { Qmp } from './qmp.js';

/** What a guest is made of, besides its kernel. */
export interface GuestOptions {
  /** Size of its memory, which lies at guest-physical address 0, MiB; at most 2048 on this chipset. Default 256. */
  memoryMiB?: number;
  /** Default 1. */
  cpus?: number;
  /** Sockets of vfio-user devices, each a PCI device of the guest. */
  devices?: readonly string[];
  /** More for the kernel's command line. */
  kernelArguments?: string;
  /** More for QEMU. */
  qemuArguments?: readonly string[];
}

/** How long a guest may take to boot, milliseconds: without KVM it takes about 8 s on an idle machine. */
const BOOT_TIMEOUT_MS = 180_000;

/**
 * A Linux guest in QEMU. Its memory is a shared memory file, which QEMU hands to its vfio-user devices. It ends with {@link Guest.close}, or with
 * the process that booted it, however that ends.
 */
export class Guest {
  readonly #process: ChildProcess;
  readonly #folder: string;
  readonly #shell: GuestShell;
  readonly #qmp: Qmp;
  readonly #memoryBytes: number;

  private constructor(process: ChildProcess, folder: string, shell: GuestShell, qmp: Qmp, memoryBytes: number) {
    this.#process = process;
    this.#folder = folder;
    this.#shell = shell;
    this.#qmp = qmp;
    this.#memoryBytes = memoryBytes;
  }

  /**
   * Boots a guest, and waits until it takes scripts. The drivers of its devices are loaded then.
   * @throws Error with all that QEMU and the kernel have said, when it does not come so far
   */
  static async boot(parts: MachineParts, options: GuestOptions = {}): Promise<Guest> {
    const memoryMiB = options.memoryMiB ?? 256;
    const folder = mkdtempSync(join(tmpdir(), 'dmalog-guest-'));
    const [commands, control] = await Promise.all([
      listening(join(folder, 'commands')),
      listening(join(folder, 'control')),
    ]);
    const qemu = startQemu(parts, qemuArguments(parts, options, memoryMiB, folder));
    const said = collect(qemu);
    try {
      const [shell, qmp] = await inTime(qemu, async () => {
        const [commandSocket, controlSocket] = await Promise.all([connection(commands), connection(control)]);
        const [shell, qmp] = [new GuestShell(commandSocket), await Qmp.greet(controlSocket)];
        await shell.ready();
        return [shell, qmp] as const;
      });
      return new Guest(qemu, folder, shell, qmp, memoryMiB * 2 ** 20);
    } catch (error) {
      await killed(qemu);
      rmSync(folder, { recursive: true });
      throw new Error(`the guest did not boot: ${(error as Error).message}\n${said()}`);
    } finally {
      commands.close();
      control.close();
    }
  }

  /** Runs a shell script in the guest; see {@link GuestShell.run}. */
  run(script: string): Promise<string> {
    return this.#shell.run(script);
  }

  /** Stops the guest's CPU: nothing in the guest moves any more but its devices. */
  async stopCpu(): Promise<void> {
    await this.#qmp.execute('stop');
  }

  /** Lets the guest's CPU go on. */
  async continueCpu(): Promise<void> {
    await this.#qmp.execute('cont');
  }

  /** All guest memory as QEMU sees it at guest-physical addresses, copied. */
  async readMemory(): Promise<Uint8Array> {
    const path = join(this.#folder, 'memory');
    await this.#qmp.execute('pmemsave', { val: 0, size: this.#memoryBytes, filename: path });
    const memory = readFileSync(path);
    rmSync(path);
    return memory;
  }

  /** Ends the guest as pulling its plug would. Idempotent. */
  async close(): Promise<void> {
    await killed(this.#process);
    this.#shell.close();
    this.#qmp.close();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}

function qemuArguments(parts: MachineParts, options: GuestOptions, memoryMiB: number, folder: string): string[] {
  const devices = (options.devices ?? []).flatMap(path => [
    '-device',
    JSON.stringify({ driver: 'vfio-user-pci', socket: { path, type: 'unix' } }),
  ]);
  return [
    ...['-machine', 'q35,memory-backend=ram', '-m', `${memoryMiB}`],
    ...['-object', `memory-backend-memfd,id=ram,size=${memoryMiB}M,share=on`],
    ...[
      '-accel',
      parts.accelerator,
      '-cpu',
      parts.accelerator === 'kvm' ? 'host' : 'max',
      '-smp',
      `${options.cpus ?? 1}`,
    ],
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
    ...[
      '-serial',
      'stdio',
      '-chardev',
      `socket,id=commands,path=${join(folder, 'commands')}`,
      '-serial',
      'chardev:commands',
    ],
    ...['-qmp', `unix:${join(folder, 'control')}`],
    ...['-kernel', parts.kernel, '-initrd', parts.initrd],
    // On a busy machine without KVM the kernel's check of its timer sees no tick in time, and panics. Its tests of its ciphers take a third of
    // the boot's time there.
    ...['-append', `console=ttyS0 panic=-1 quiet no_timer_check cryptomgr.notests ${options.kernelArguments ?? ''}`],
    ...devices,
    ...(options.qemuArguments ?? []),
  ];
}

/** The kernel kills QEMU when this process ends, also where no handler of this process runs any more (prctl(2) PR_SET_PDEATHSIG). */
function startQemu(parts: MachineParts, args: readonly string[]): ChildProcess {
  return spawn('setpriv', ['--pdeathsig', 'KILL', '--', parts.qemu, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
}

function collect(qemu: ChildProcess): () => string {
  let text = '';
  for (const stream of [qemu.stdout!, qemu.stderr!]) stream.on('data', bytes => (text += bytes));
  return () => text;
}

async function listening(path: string): Promise<Server> {
  const server = createServer().listen(path);
  await once(server, 'listening');
  return server;
}

async function connection(server: Server): Promise<Socket> {
  const [socket] = (await once(server, 'connection')) as [Socket];
  // That QEMU is gone is seen by its exit, or by the end of the stream.
  socket.on('error', () => {});
  return socket;
}

/** What `boot` gives, unless QEMU ends before, or the time is over. */
async function inTime<T>(qemu: ChildProcess, boot: () => Promise<T>): Promise<T> {
  const ended = new AbortController();
  const options = { signal: ended.signal };
  try {
    return await Promise.race([
      boot(),
      once(qemu, 'exit', options).then(([code]) => Promise.reject(new Error(`QEMU has ended with ${code}`))),
      once(AbortSignal.timeout(BOOT_TIMEOUT_MS), 'abort', options).then(() =>
        Promise.reject(new Error('it took too long')),
      ),
    ]);
  } finally {
    ended.abort();
  }
}

async function killed(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'exit');
  child.kill('SIGKILL');
  await gone;
}
