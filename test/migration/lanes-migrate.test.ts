import { readdirSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { afterEach, describe, expect, it } from 'vitest';
import { isRunning } from '../../src/device/index.js';
import { VfioError } from '../../src/uapi/index.js';
import { temporaryFolder } from '../native/helpers.js';
import { Authority } from './certificates.js';
import { type Host, hashOf, type Link, move, tamperedLink, twoHosts } from './two-hosts.js';

const path = temporaryFolder();

const opened: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const each of opened.splice(0)) await each.close();
});

async function pair(pages: number) {
  const hosts = await twoHosts(pages);
  opened.push(hosts);
  return hosts;
}

function runs(side: Host): boolean {
  return isRunning(side.device.migration!.state) && side.device.runs;
}

function threadCount(): number {
  return readdirSync('/proc/self/task').length;
}

function fdCount(): number {
  return readdirSync('/proc/self/fd').length;
}

/** A port of which the next few are free as well, most likely. */
async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise(resolve => server.close(resolve));
  return port > 65_000 ? port - 1000 : port;
}

describe('a migration by several connections', () => {
  it.each([1, 2, 4])('moves memory and device by %i', async connections => {
    const hosts = await pair(2000);
    const { report, refusal } = await move(hosts, { connections, verify: 'abort' });
    expect(report.error).toBeUndefined();
    expect(report).toMatchObject({ outcome: 'moved', runningAt: 'destination', verified: true, pagesSent: 2000 });
    expect(report.bytesSent).toBeGreaterThan(2000 * 4096);
    expect(refusal).toBeUndefined();
    expect(hashOf(hosts.destination)).toBe(hashOf(hosts.source));
    expect(runs(hosts.source)).toBe(false);
    expect(runs(hosts.destination)).toBe(true);
  });

  it('takes as few as the destination does', async () => {
    const hosts = await pair(100);
    const before = threadCount();
    let most = 0;
    const onEvent = () => {
      most = Math.max(most, threadCount() - before);
    };
    const { report } = await move(hosts, { connections: 8, verify: 'abort', receive: { connections: 1 }, onEvent });
    expect(report.outcome).toBe('moved');
    expect(most).toBe(0);
  });

  it('sends again what the device writes meanwhile, never older over newer', async () => {
    const hosts = await pair(1500);
    let turn = 0;
    const { report } = await move(hosts, {
      connections: 3,
      verify: 'report',
      downtimeLimitMs: 20,
      onStall: 'stop',
      onEvent(event) {
        const runs = event.event === 'pass' ? event.estimatedDowntimeMs !== undefined : event.event === 'progress';
        if (!runs || turn > 20) return;
        turn++;
        for (let page = 0; page < 1500; page += 7) void hosts.source.touch(page, turn);
      },
    });
    expect(report.error).toBeUndefined();
    expect(report).toMatchObject({ outcome: 'moved', verified: true, stalePages: 0 });
    expect(report.pagesSent).toBeGreaterThan(1500);
  });

  it('uses the ports that follow the one where the destination listens', async () => {
    const hosts = await pair(300);
    const port = await freePort();
    const found: boolean[] = [];
    const { report } = await move(hosts, {
      connections: 2,
      receive: { listen: { host: '127.0.0.1', port } },
      onEvent: event => {
        if (event.event !== 'phase' || event.phase !== 'pre-copy') return;
        for (const lane of [1, 2]) {
          const socket = connect(port + lane, '127.0.0.1');
          socket.once('connect', () => found.push(true)).once('error', () => found.push(false));
          socket.unref().once('connect', () => socket.destroy());
        }
      },
    });
    expect(report.outcome).toBe('moved');
    expect(found).toEqual([true, true]);
  });

  it('ends with the machine at the source when a port of the lanes is taken', async () => {
    const hosts = await pair(300);
    const port = await freePort();
    const other = createServer();
    await new Promise<void>(resolve => other.listen(port + 2, '127.0.0.1', resolve));
    const receive = { listen: { host: '127.0.0.1', port } };
    const { report, refusal } = await move(hosts, { connections: 2, receive });
    await new Promise(resolve => other.close(resolve));
    expect(report).toMatchObject({ outcome: 'failed', runningAt: 'source' });
    expect(report.error!.message).toMatch(/bind: 127\.0\.0\.1:\d+ \(EADDRINUSE\)/);
    expect(refusal).toMatchObject({ errno: 'EADDRINUSE' });
    expect(runs(hosts.source)).toBe(true);
  });

  it('leaves no thread and no descriptor behind when it is given up in any phase', async () => {
    const hosts = await pair(3000);
    await move(hosts, { connections: 2, signal: AbortSignal.abort() });
    const before = { threads: threadCount(), fds: fdCount() };
    for (const moment of ['connect', 'pre-copy', 'progress', 'pass', 'stop-and-copy']) {
      const controller = new AbortController();
      const { report, refusal } = await move(hosts, {
        connections: 2,
        signal: controller.signal,
        onEvent: event => {
          if (event.event === moment || (event.event === 'phase' && event.phase === moment)) controller.abort();
        },
      });
      if (!controller.signal.aborted) expect(moment).toBe('progress');
      else
        expect(report, moment).toMatchObject({ outcome: 'failed', runningAt: 'source', error: { errno: 'ECANCELED' } });
      if (report.outcome === 'moved') return;
      expect(refusal, moment).toBeInstanceOf(VfioError);
      expect(runs(hosts.source), moment).toBe(true);
      expect({ threads: threadCount(), fds: fdCount() }, moment).toEqual(before);
    }
  });

  it('goes on when connections of lanes are cut, and says that they were', async () => {
    const hosts = await pair(3000);
    const port = await freePort();
    // The lanes' ports are the same on another address of this host, where a link that is cut once leads to each.
    const links: Link[] = [];
    for (const offset of [0, 1, 2]) {
      let isCut = offset === 0;
      const link = await tamperedLink(
        { host: '127.0.0.1', port: port + offset },
        (piece, place) => {
          if (isCut || place < 1_500_000) return piece;
          isCut = true;
          return undefined;
        },
        undefined,
        { host: '127.0.0.2', port: port + offset },
      );
      links.push(link);
      opened.push(link);
    }
    const lost: number[] = [];
    const { report } = await move(hosts, {
      connections: 2,
      verify: 'abort',
      to: { host: '127.0.0.2', port },
      receive: { listen: { host: '127.0.0.1', port } },
      onEvent: event => event.event === 'link-lost' && lost.push(event.channel),
    });
    expect(report.error).toBeUndefined();
    expect(report).toMatchObject({ outcome: 'moved', verified: true });
    expect(lost.sort()).toEqual([1, 2]);
  });

  it('moves the machine over TLS, and lets nobody else speak to a lane', async () => {
    const authority = new Authority(path, 'fleet');
    const hosts = await pair(600);
    const { report, refusal } = await move(hosts, {
      connections: 2,
      verify: 'abort',
      tls: authority.identity('host-a'),
      receive: { tls: authority.identity('host-b') },
    });
    expect(report.error).toBeUndefined();
    expect(report).toMatchObject({ outcome: 'moved', verified: true });
    expect(refusal).toBeUndefined();
  });
});
