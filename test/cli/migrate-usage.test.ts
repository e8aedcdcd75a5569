import { chmodSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { run } from './run-cli.js';

const folder = mkdtempSync(join(tmpdir(), 'dmalog-usage-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** A file of zeros. */
function file(name: string, size: number, mode = 0o600): string {
  const path = join(folder, name);
  writeFileSync(path, '');
  chmodSync(path, mode);
  truncateSync(path, size);
  return path;
}

const memory = file('memory', 1 << 20);
const DEVICE = 'local:dma-engine';
const MEMORY = ['--memory', memory];
const TO = ['--to', 'h:1'];
const LISTEN = ['--listen', 'h:1'];
const migrate = (...parameters: string[]) => ['migrate', DEVICE, ...MEMORY, ...parameters];
const whole = (...parameters: string[]) => migrate(...TO, ...parameters);
const receive = (...parameters: string[]) => ['receive', DEVICE, ...MEMORY, ...parameters];

describe('dmalog migrate and receive', () => {
  it.each(['migrate', 'receive'])('%s --help ends with 0 and says what it needs to know', async command => {
    const { code, stdout, stderr } = await run(command, '--help');
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    for (const words of ['Examples:', '--memory', '--tls-ca', '--owner-store', 'Exit codes:'])
      expect(stdout, words).toContain(words);
    if (command === 'migrate') expect(stdout).toMatch(/does not see what CPUs write/);
  });

  it.each([
    [['migrate', ...MEMORY, ...TO], "missing required argument 'device'"],
    [['migrate', 'floppy', ...MEMORY, ...TO], "'floppy' is no device"],
    [['migrate', DEVICE, DEVICE, ...MEMORY, ...TO], 'is named twice'],
    [['migrate', DEVICE, ...TO], "required option '--memory"],
    [migrate(), "required option '--to <host:port>'"],
    [migrate('--dry-run'), '--dry-run needs a link'],
    [migrate('--to', 'host-b'), 'It takes HOST:PORT'],
    [migrate('--to', 'host-b:0'), 'It takes HOST:PORT'],
    [migrate('--to', 'host-b:65536'), 'It takes HOST:PORT'],
    [migrate('--to', '::1:7007'), 'It takes HOST:PORT'],
    [whole('--memory', '@0'), 'It takes FILE[@IOVA'],
    [whole('--memory', 'ram@lots'), 'It takes FILE[@IOVA'],
    [whole('--memory', 'ram@0+1M+0+0'), 'It takes FILE[@IOVA'],
    [whole('--memory', 'ram@0+0'), 'It takes FILE[@IOVA'],
    [whole('--memory', 'ram@100'), 'multiples of 4096'],
    [whole('--memory', 'ram@0+5000'), 'multiples of 4096'],
    [whole('--downtime-limit', '0'), 'It takes a time'],
    [whole('--downtime-limit', 'soon'), 'It takes a time'],
    [whole('--timeout', '30d'), 'It takes a time'],
    [whole('--max-time', '1000h'), 'It takes a time'],
    [whole('--bandwidth', '0'), 'It takes a size above 0'],
    [whole('--bandwidth', 'fast'), 'It takes a size'],
    [whole('--max-bytes', '-1'), 'It takes a size'],
    [whole('--max-passes', '0'), 'It takes a whole number'],
    [whole('--connections', '0'), 'It takes a whole number'],
    [whole('--connections', '17'), 'It takes a whole number, 1 to 16'],
    [whole('--on-stall', 'cry'), 'It takes one of abort, stop, wait'],
    [whole('--compression', 'zip'), 'It takes one of auto, off, lz4'],
    [whole('--verify', 'maybe'), 'It takes one of off, abort, report'],
    [whole('--tls-ca', 'ca.pem'), '--tls-ca, --tls-cert and --tls-key go together'],
    [whole('--tls-name', 'host-b'), '--tls-name goes with'],
    [whole('--owner-store', 'owners'), '--owner-store needs --machine and --self'],
    [whole('--machine', 'vm7', '--self', 'a'), 'go with --owner-store'],
    [whole('--owner-store', 'owners', '--machine', 'no name', '--self', 'a'), 'is no name'],
    [whole('--owner-store', 'ftp://etcd:2379', '--machine', 'vm7', '--self', 'a'), 'http and https URLs'],
    [whole('--owner-store', 'owners', '--machine', 'm', '--self', 'a', '--etcd-ca', 'x'), '--etcd options go with'],
    [
      whole('--owner-store', 'http://e:1', '--machine', 'm', '--self', 'a', '--etcd-cert', 'x'),
      '--etcd-cert and --etcd-key go together',
    ],
    [whole('--owner-store', 'http://e:1', '--machine', 'm', '--self', 'a', '--etcd-user', 'x'), 'DMALOG_ETCD_PASSWORD'],
    [receive(), "required option '--listen <host:port>'"],
    [receive('--listen', '7007'), 'It takes HOST:PORT'],
    [receive(...LISTEN, '--connections', '17'), 'It takes a whole number, 1 to 16'],
    [receive(...LISTEN, '--to', 'h:1'), 'unknown option'],
    [receive(...LISTEN, '--tls-key', 'x'), 'go together'],
  ])('%j ends with 2 and one helpful line', async (parameters, line) => {
    const { code, stdout, stderr } = await run(...parameters);
    expect(stderr).toContain(line);
    expect(code).toBe(2);
    expect(stdout).toBe('');
    expect(stderr.trim().split('\n').length).toBeLessThanOrEqual(2);
  });

  const pages = file('pages', 5000);
  const open = file('open', 4096, 0o600);
  it.each([
    ['memory that is not there', [`${folder}/none`], 'ENOENT'],
    ['a folder', [folder], 'EISDIR'],
    ['memory that is not whole pages', [pages], 'whole pages of 4096'],
    ['memory that others may shrink', [file('shared', 4096, 0o666)], 'EPERM'],
    ['more than the file has', [`${open}@0+8K`], 'has 4096 bytes'],
    ['a part behind the end', [`${open}@0+4K+4K`], 'has 4096 bytes'],
    ['memory that overlaps', [`${open}@0`, `${memory}@0`], 'overlap at IOVA 0x0'],
  ])('migrate ends with 1 and one line for %s', async (_, files, words) => {
    const named = files.flatMap(each => ['--memory', each]);
    const { code, stdout, stderr } = await run('migrate', DEVICE, ...named, '--to', '127.0.0.1:1');
    expect(stderr).toMatch(/^dmalog: .*\n$/);
    expect(stderr).toContain(words);
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
  });

  it('migrate ends with 1 and one line for a certificate that cannot be read', async () => {
    const tls = ['--tls-ca', `${folder}/ca`, '--tls-cert', `${folder}/cert`, '--tls-key', `${folder}/key`];
    const { code, stderr } = await run(...whole(...tls));
    expect(code).toBe(1);
    expect(stderr).toMatch(/^dmalog: --tls-ca: .*ENOENT.*\n$/);
  });
});
