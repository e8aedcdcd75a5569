import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { GuestMemory, LoggingSession, PciRegion, VfioUserClient, viewOf } from '../../src/index.js';

const read = (path: string) => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');
const source = read('examples/greeter.mjs');
const guide = read('docs/guides/write-a-device.md');

describe('the guide to writing a device', () => {
  it('shows the example as it is, from the first line of code to the last', () => {
    const shown = [...guide.matchAll(/^```js\n([\s\S]*?)^```$/gm)].map(match => match[1]!);
    const withoutBlankLines = (text: string) => text.replaceAll(/\n+/g, '\n').trim();
    const code = source.slice(source.indexOf('import '));
    expect(withoutBlankLines(shown.join('\n'))).toBe(withoutBlankLines(code));
  });

  it('keeps its promise of fewer than 80 lines', () => {
    expect(source.trimEnd().split('\n').length).toBeLessThan(80);
  });
});

describe('the device of the guide', () => {
  const folder = mkdtempSync(join(tmpdir(), 'dmalog-guide-'));
  const path = join(folder, 'greeter.sock');
  let greeter: ChildProcess;
  let ended: Promise<number | null>;

  beforeAll(async () => {
    greeter = spawn(process.execPath, [fileURLToPath(new URL('../../examples/greeter.mjs', import.meta.url)), path], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    ended = new Promise(resolve => greeter.once('exit', resolve));
    await new Promise(resolve => greeter.stdout!.once('data', resolve));
  });
  afterAll(() => {
    greeter.kill('SIGKILL');
    rmSync(folder, { recursive: true });
  });

  it('greets where it was told, logs the page, and ends when it is told to', async () => {
    const client = await VfioUserClient.connect(path);
    using memory = GuestMemory.create(1 << 20);
    const range = { iova: 0n, length: memory.size };
    await client.dmaMap({ ...range, readable: true, writable: true }, { fd: memory.fd });
    await client.regionWrite(PciRegion.CONFIG, 0x04, new Uint8Array([0x06, 0x00]));
    const session = new LoggingSession(client.features);
    await session.start([range]);

    const address = new Uint8Array(8);
    viewOf(address).setBigUint64(0, 0x5ff8n, true);
    await client.regionWrite(0, 0, address);
    await client.regionWrite(0, 8, new Uint8Array(4));

    expect(new TextDecoder().decode(memory.view(0x5ff8, 17))).toBe('Hello, guest! (1)');
    expect(await client.regionRead(0, 8, 4)).toEqual(new Uint8Array([1, 0, 0, 0]));
    const reports = session.reports({ intervalMs: 1 });
    const { value } = await reports.next();
    expect([...value!.dirty.runs()]).toEqual([{ iova: 0x5000n, length: 0x2000n }]);
    await reports.return(undefined);
    await session.stop();
    await client.close();
    greeter.kill('SIGTERM');
    expect(await ended).toBe(0);
  });
});
