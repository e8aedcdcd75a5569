import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, onTestFinished, test } from 'vitest';
import { temporaryFolder } from '../native/helpers.js';
import { boot } from './guests.js';

const path = temporaryFolder();
const project = fileURLToPath(new URL('../../', import.meta.url));

/** A process that is told what to do by its standard input, and killed after the test at the latest. */
function start(command: string, args: readonly string[], cwd: string): Conversation {
  const child = spawn(command, args, { cwd, stdio: 'pipe' });
  onTestFinished(() => {
    child.kill('SIGKILL');
  });
  return new Conversation(child);
}

class Conversation {
  readonly #child: ChildProcess;
  readonly #exit: Promise<unknown>;
  #said = '';
  #heard = 0;

  constructor(child: ChildProcess) {
    this.#child = child;
    this.#exit = once(child, 'exit');
    for (const stream of [child.stdout!, child.stderr!]) {
      stream.setEncoding('utf8').on('data', text => {
        this.#said += text;
      });
    }
  }

  /** Done when `text` has come after what was waited for before. */
  async hears(text: string): Promise<void> {
    while (!this.#said.includes(text, this.#heard)) {
      if (this.#child.exitCode !== null) throw new Error(`it has ended, without '${text}':\n${this.#said}`);
      await new Promise(resolve => setTimeout(resolve, 50));
    }
    this.#heard = this.#said.indexOf(text, this.#heard) + text.length;
  }

  say(line: string): void {
    this.#child.stdin!.write(`${line}\n`);
  }

  /** @returns the exit code */
  async end(signal?: NodeJS.Signals): Promise<number | null> {
    if (signal !== undefined) this.#child.kill(signal);
    await this.#exit;
    return this.#child.exitCode;
  }
}

const program = join(project, 'dist/cli/main.js');

test('a disk that the command line serves keeps what a guest has written for the next guest', async () => {
  const folder = path('served');
  mkdirSync(folder);
  const socket = join(folder, 'disk.sock');
  const args = ['device', 'nvme', '--file', 'disk.img', '--size', '64M', '--socket', 'disk.sock'];
  const device = start(process.execPath, [program, ...args], folder);
  await device.hears('serves');

  const first = await boot({ devices: [socket] });
  const sum = await first.run(`
    set -e
    mkfs.ext4 -q /dev/nvme0n1
    mount -t ext4 /dev/nvme0n1 /mnt
    head -c 5000000 /dev/urandom > /mnt/file
    sha256sum < /mnt/file
    umount /mnt
  `);
  await first.close();
  const second = await boot({ devices: [socket] });
  expect(await second.run('mount -t ext4 /dev/nvme0n1 /mnt && sha256sum < /mnt/file && umount /mnt')).toBe(sum);
  await second.close();

  expect(await device.end('SIGTERM')).toBe(0);
  expect(existsSync(socket)).toBe(false);
});

test('the lines of the README boot a guest that mounts the disk', async () => {
  const folder = path('readme');
  mkdirSync(folder);
  for (const name of ['dist', 'test']) symlinkSync(join(project, name), join(folder, name));
  const readme = readFileSync(join(project, 'test/machines/README.md'), 'utf8');
  const blocks = [...readme.matchAll(/```sh\n([\s\S]*?)```/g)].map(match => match[1]!);
  const [serve, boots, use] = blocks as [string, string, string];

  const device = start('bash', ['-c', `exec ${serve}`], folder);
  await device.hears('serves');
  const guest = start('bash', ['-c', boots], folder);
  await guest.hears('/ # ');
  for (const line of use.trim().split('\n')) {
    guest.say(line);
    if (line.startsWith('df')) await guest.hears('/mnt\r\n');
    if (!line.startsWith('poweroff')) await guest.hears('/ # ');
  }
  expect(await guest.end()).toBe(0);
  expect(await device.end('SIGTERM')).toBe(0);
});
