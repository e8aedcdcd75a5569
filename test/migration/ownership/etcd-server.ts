import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const fetchPart = fileURLToPath(new URL('../../machines/fetch', import.meta.url));

/** A real etcd of one member, from Debian's archive, in a folder of its own. */
export class EtcdServer {
  readonly endpoint: string;
  readonly folder: string;
  readonly #process: ChildProcess;

  private constructor(endpoint: string, folder: string, process: ChildProcess) {
    this.endpoint = endpoint;
    this.folder = folder;
    this.#process = process;
  }

  /** Fetches etcd if it is not in the cache, starts it, and waits until it serves. @param scheme `https`: with a certificate of its own making */
  static async start(scheme: 'http' | 'https' = 'http'): Promise<EtcdServer> {
    const { stdout } = await promisify(execFile)(fetchPart, ['etcd']);
    const folder = mkdtempSync(join(tmpdir(), 'dmalog-etcd-'));
    const [client, peer] = [`${scheme}://127.0.0.1:${await freePort()}`, `http://127.0.0.1:${await freePort()}`];
    const process = spawn(
      join(stdout.trim(), 'etcd'),
      [
        ['--data-dir', folder, '--listen-client-urls', client, '--advertise-client-urls', client],
        ['--listen-peer-urls', peer, '--initial-advertise-peer-urls', peer, '--initial-cluster', `default=${peer}`],
        scheme === 'https' ? ['--auto-tls'] : [],
      ].flat(),
      { stdio: ['ignore', 'ignore', 'pipe'] },
    );
    const server = new EtcdServer(client, folder, process);
    const lines: string[] = [];
    for await (const line of createInterface(process.stderr!)) {
      lines.push(line);
      if (line.includes('client requests')) break;
    }
    process.stderr!.resume();
    if (process.exitCode === null && lines.at(-1)?.includes('client requests')) return server;
    await server.stop();
    throw new Error(`etcd did not start: ${lines.slice(-5).join('\n')}`);
  }

  /** It keeps its connections, and answers nothing. */
  freeze(): void {
    this.#process.kill('SIGSTOP');
  }

  thaw(): void {
    this.#process.kill('SIGCONT');
  }

  async stop(): Promise<void> {
    if (this.#process.exitCode === null && this.#process.signalCode === null) {
      this.#process.kill('SIGKILL');
      await once(this.#process, 'exit');
    }
    rmSync(this.folder, { recursive: true, force: true });
  }
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  await new Promise(resolve => server.close(resolve));
  return port;
}
