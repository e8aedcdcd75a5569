import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { EtcdOwnershipStore } from '../../src/migration/index.js';
import { run } from '../cli/run-cli.js';
import { EtcdServer } from '../migration/ownership/etcd-server.js';

const guide = readFileSync(new URL('../../docs/guides/migrate.md', import.meta.url), 'utf8');
const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const blocks = [...guide.matchAll(/^```sh\n([\s\S]*?)^```$/gm)].map(match => match[1]!);

describe('the guide to migration', () => {
  it('names every option of both commands, and none that does not exist', async () => {
    const [migrate, receive] = await Promise.all([run('migrate', '--help'), run('receive', '--help')]);
    const optionsOf = (text: string) => new Set(text.match(/--[a-z]+(-[a-z]+)*/g));
    const table = optionsOf(guide.slice(guide.indexOf('## Options'), guide.indexOf('## When something breaks')));
    const help = optionsOf(`${migrate.stdout.match(/^ {2}-.*/gm)}${receive.stdout.match(/^ {2}-.*/gm)}`);
    help.delete('--help');
    expect([...help].filter(option => !table.has(option))).toEqual([]);
    expect([...table].filter(option => !help.has(option))).toEqual([]);
  });
});

describe('the commands of the guide, both hosts on this machine', () => {
  const folder = mkdtempSync(join(tmpdir(), 'dmalog-migrate-guide-'));
  const terminals: { child: ChildProcess; ended: Promise<unknown> }[] = [];
  let etcd: EtcdServer;
  let ports: Record<string, number>;

  beforeAll(async () => {
    etcd = await EtcdServer.start('https');
    copyFileSync(join(etcd.folder, 'fixtures/client/cert.pem'), join(folder, 'etcd-ca.pem'));
    for (const name of ['run', 'shm', 'bin']) mkdirSync(join(folder, name));
    writeFileSync(join(folder, 'bin/dmalog'), `#!/bin/sh\nexec ${process.execPath} ${main} "$@"\n`, { mode: 0o755 });
    ports = { 'host-a': await freePort(), 'host-b': await freePort() };
  }, 300_000);
  afterAll(async () => {
    for (const { child } of terminals) child.kill('SIGKILL');
    await Promise.all(terminals.map(({ ended }) => ended));
    await etcd?.stop();
    rmSync(folder, { recursive: true, force: true });
  });

  const options = () => ({
    cwd: folder,
    env: { ...process.env, PATH: `${join(folder, 'bin')}:${process.env['PATH']}`, FORCE_COLOR: '', CI: 'true' },
  });

  /** The command as it is, but that both hosts and etcd are this machine, which is busy, and folders are the test's. */
  function here(block: string): string {
    return block
      .replace(/^dmalog migrate \S+/m, '$& --downtime-limit 5s')
      .replaceAll(/--to (host-[ab]):7007/g, (_, host) => `--to 127.0.0.1:${ports[host]} --tls-name ${host}`)
      .replaceAll(/--listen (host-[ab]):7007/g, (_, host) => `--listen 127.0.0.1:${ports[host]}`)
      .replaceAll(/https:\/\/etcd-\S+/g, etcd.endpoint)
      .replaceAll('/dev/shm/', `${folder}/shm/`)
      .replaceAll('/run/', `${folder}/run/`);
  }

  async function inTerminal(block: string): Promise<void> {
    const command = here(block).replace(/^dmalog/m, 'exec dmalog');
    const child = spawn('bash', ['-c', command], { ...options(), stdio: ['ignore', 'pipe', 'pipe'] });
    let errors = '';
    child.stderr.on('data', text => {
      errors += text;
    });
    const ended = once(child, 'exit');
    terminals.push({ child, ended });
    let output = '';
    const ready = new Promise<void>(resolve => {
      child.stdout.on('data', text => {
        output += text;
        if (/serves|waiting for a machine/.test(output)) resolve();
      });
    });
    await Promise.race([ready, ended.then(() => Promise.reject(new Error(`${block}\nended: ${output}${errors}`)))]);
  }

  /** @throws what it printed, when it ends with another code than 0 */
  async function atPrompt(block: string): Promise<string> {
    try {
      return (await promisify(execFile)('bash', ['-e', '-c', here(block)], options())).stdout;
    } catch (error) {
      const { code, stdout, stderr } = error as { code: number; stdout: string; stderr: string };
      throw new Error(`${block}\nended with ${code}: ${stdout}${stderr}`);
    }
  }

  it('move the machine there and back, one after the other', async () => {
    const printed: string[] = [];
    for (const block of blocks) {
      if (block.includes('in a terminal of its own')) await inTerminal(block);
      else printed.push(await atPrompt(block));
    }
    const [measured, given, there, back] = printed.filter(text => text.includes('dmalog migrate'));
    for (const rehearsal of [measured, given])
      expect(rehearsal).toContain('Nothing was sent, and nothing was stopped.');
    for (const migration of [there, back]) expect(migration).toContain('The machine runs at 127.0.0.1:');
    const store = new EtcdOwnershipStore({
      endpoints: [etcd.endpoint],
      tls: { ca: readFileSync(join(folder, 'etcd-ca.pem')) },
    });
    expect(await store.read('vm7')).toMatchObject({ owner: 'host-a' });
  }, 120_000);
});

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  await new Promise(resolve => server.close(resolve));
  return port;
}
