import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';

/*
 * QEMU's own migration of a guest that never ran, between two QEMU processes on this machine. What is measured is what QEMU says: `total-time`
 * without `setup-time`, and the bytes of memory that it transferred.
 */

/**
 * @param qemu the program
 * @param memoryPath a memory file, filled, of `mebibytes`; the source maps it shared
 * @param channels connections by multifd; 0: QEMU's default, one connection
 * @param backing the destination's memory: `memfd`, shared, as devices in other processes need it; or `ram`, anonymous
 * @returns bytes and milliseconds
 */
export async function qemuMigrate({ qemu, memoryPath, mebibytes, channels, backing }) {
  const folder = mkdtempSync(join(tmpdir(), 'dmalog-bench-'));
  const size = `size=${mebibytes}M`;
  const backends = { memfd: `memory-backend-memfd,id=ram,${size},share=on`, ram: `memory-backend-ram,id=ram,${size}` };
  const machines = [];
  try {
    const start = async (name, backend, more = []) => {
      const machine = await Machine.start(qemu, join(folder, `${name}.sock`), backend, mebibytes, more);
      machines.push(machine);
      return machine;
    };
    const source = await start('source', `memory-backend-file,id=ram,${size},share=on,mem-path=${memoryPath}`);
    const destination = await start('destination', backends[backing], ['-incoming', 'defer']);
    for (const machine of machines) {
      await machine.ask('migrate-set-parameters', {
        'max-bandwidth': 1e11,
        ...(channels > 0 && { 'multifd-channels': channels }),
      });
      if (channels > 0) {
        await machine.ask('migrate-set-capabilities', { capabilities: [{ capability: 'multifd', state: true }] });
      }
    }
    const uri = `tcp:127.0.0.1:${await freePort()}`;
    await destination.ask('migrate-incoming', { uri });
    await source.ask('migrate', { uri });
    while (true) {
      const answer = await source.ask('query-migrate');
      if (answer.status === 'completed') {
        return { bytes: answer.ram.transferred, milliseconds: answer['total-time'] - answer['setup-time'] };
      }
      if (answer.status === 'failed') throw new Error(`QEMU does not migrate: ${answer['error-desc']}`);
      await delay(20);
    }
  } finally {
    for (const machine of machines) await machine.end();
    rmSync(folder, { recursive: true });
  }
}

/** One QEMU, paused, with nothing but memory, and its QMP connection. */
class Machine {
  #process;
  #socket;
  #lines;

  static async start(qemu, path, backend, mebibytes, more) {
    const machine = new Machine();
    const common = ['-M', 'q35,memory-backend=ram', '-accel', 'tcg', '-S', '-nodefaults', '-display', 'none'];
    const own = ['-m', `${mebibytes}`, '-object', backend, '-qmp', `unix:${path},server=on,wait=off`];
    machine.#process = spawn(qemu, [...common, ...own, ...more], { stdio: ['ignore', 'ignore', 'inherit'] });
    machine.#socket = await machine.#connect(path);
    machine.#lines = createInterface({ input: machine.#socket })[Symbol.asyncIterator]();
    await machine.#lines.next();
    await machine.ask('qmp_capabilities');
    return machine;
  }

  async #connect(path) {
    while (this.#process.exitCode === null) {
      const socket = connect(path);
      const failed = await once(socket, 'connect').then(
        () => false,
        () => true,
      );
      if (!failed) return socket;
      await delay(50);
    }
    throw new Error(`QEMU ended with ${this.#process.exitCode}`);
  }

  /** QMP: events that come in between are not waited for. */
  async ask(execute, parameters = {}) {
    this.#socket.write(`${JSON.stringify({ execute, arguments: parameters })}\n`);
    while (true) {
      const { value, done } = await this.#lines.next();
      if (done) throw new Error('QEMU has ended');
      const answer = JSON.parse(value);
      if ('error' in answer) throw new Error(`${execute}: ${answer.error.desc}`);
      if ('return' in answer) return answer.return;
    }
  }

  async end() {
    this.#socket?.destroy();
    if (this.#process.exitCode !== null) return;
    this.#process.kill('SIGKILL');
    await once(this.#process, 'exit');
  }
}

async function freePort() {
  const server = createServer();
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const { port } = server.address();
  await new Promise(resolve => server.close(resolve));
  return port;
}
