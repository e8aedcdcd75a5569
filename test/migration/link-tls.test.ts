import { readdirSync } from 'node:fs';
import { connect } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { isRunning } from '../../src/device/index.js';
import { MigrationReceiver, requireOneHost, type TlsIdentity } from '../../src/migration/index.js';
import { temporaryFolder } from '../native/helpers.js';
import { Authority } from './certificates.js';
import { hashOf, move, tamperedLink, twoHosts } from './two-hosts.js';

const path = temporaryFolder();
const authority = new Authority(path, 'fleet');
const stranger = new Authority(path, 'stranger');
const hostA = authority.identity('host-a');
const hostB = authority.identity('host-b');
const PAGES = 100;

const opened: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const each of opened.splice(0)) await each.close();
});

async function pair() {
  const hosts = await twoHosts(PAGES);
  opened.push(hosts);
  return hosts;
}

async function moveBetween(source: TlsIdentity | undefined, destination: TlsIdentity | undefined) {
  const hosts = await pair();
  const { report, refusal } = await move(hosts, {
    timeoutMs: 1500,
    ...(source && { tls: source }),
    receive: destination === undefined ? {} : { tls: destination },
  });
  return { hosts, report, refusal };
}

describe('a migration over TLS', () => {
  it('moves the machine between two ends that trust each other', async () => {
    const { hosts, report, refusal } = await moveBetween(hostA, hostB);
    expect(report.error).toBeUndefined();
    expect(report).toMatchObject({ outcome: 'moved' });
    expect(refusal).toBeUndefined();
    expect(hashOf(hosts.destination)).toBe(hashOf(hosts.source));
  });

  it('compares names where they are given, at both ends', async () => {
    const { report } = await moveBetween({ ...hostA, servername: 'host-b' }, { ...hostB, servername: 'host-a' });
    expect(report).toMatchObject({ outcome: 'moved' });
  });

  it.each<[string, TlsIdentity | undefined, TlsIdentity | undefined]>([
    ['a source of another authority', stranger.identity('host-a'), hostB],
    ['a source that is signed by another authority', { ...stranger.identity('a'), ca: hostA.ca }, hostB],
    ['a destination that is signed by another authority', hostA, { ...stranger.identity('b'), ca: hostB.ca }],
    ['a source without a certificate', { ca: hostA.ca } as TlsIdentity, hostB],
    ['a source without TLS', undefined, hostB],
    ['a destination without TLS', hostA, undefined],
    ['a source whose certificate has run out', authority.identity('old-a', { days: -1 }), hostB],
    ['a destination whose certificate has run out', hostA, authority.identity('old-b', { days: -1 })],
    ['a destination with the name of another', hostA, authority.identity('other', { names: 'DNS:other' })],
    ['a destination with another name than is asked for', { ...hostA, servername: 'host-c' }, hostB],
    ['a source with another name than is asked for', hostA, { ...hostB, servername: 'host-c' }],
  ])('refuses %s, and nothing has happened', async (_, source, destination) => {
    const { hosts, report, refusal } = await moveBetween(source, destination);
    expect(report).toMatchObject({ outcome: 'failed', runningAt: 'source', phase: 'connect' });
    expect(['EACCES', 'ECONNRESET', 'EPIPE', 'ECONNABORTED', 'EBADMSG', 'ETIMEDOUT']).toContain(report.error!.errno);
    // The destination still waits for its source: it is its own close that ends it.
    expect(refusal).toMatchObject({ errno: 'ECANCELED' });
    expect(isRunning(hosts.source.device.migration!.state)).toBe(true);
    expect(hosts.destination.device.state).toHaveLength(0);
  });

  it('says in one line what is wrong with a certificate', async () => {
    const { report } = await moveBetween({ ...hostA, servername: 'host-c' }, hostB);
    expect(report.error).toMatchObject({ errno: 'EACCES', field: 'tls' });
    expect(report.error!.message).toMatch(/host-c/);
  });

  it('goes on over another connection when one is cut', async () => {
    const hosts = await pair();
    let cuts = 0;
    const events: string[] = [];
    const { report, refusal } = await move(hosts, {
      tls: hostA,
      downtimeLimitMs: 60_000,
      receive: { tls: hostB },
      onEvent: ({ event }) => events.push(event),
      through: to =>
        tamperedLink(to, (piece, offset) => {
          if (cuts > 0 || offset + piece.length < 200_000) return piece;
          cuts++;
          return undefined;
        }),
    });
    expect(cuts).toBe(1);
    expect(report.error).toBeUndefined();
    expect(report.outcome).toBe('moved');
    expect(refusal).toBeUndefined();
    expect(events).toEqual(expect.arrayContaining(['link-lost', 'link-resumed']));
    expect(hashOf(hosts.destination)).toBe(hashOf(hosts.source));
  });

  it('leaves no descriptor behind by connections that never finish their handshake', async () => {
    const hosts = await pair();
    const before = readdirSync('/proc/self/fd').length;
    const receiver = await MigrationReceiver.listen({
      memory: hosts.destination.machine,
      devices: [hosts.destination.handle],
      tls: hostB,
    });
    const idle = Array.from({ length: 4 }, () => connect(receiver.address).on('error', () => {}));
    const ended = idle.map(socket => new Promise(resolve => socket.once('close', resolve).resume()));
    await Promise.all(idle.map(socket => new Promise(resolve => socket.once('connect', resolve))));
    await delay(50);
    await receiver.close();
    await Promise.all(ended);
    await delay(20);
    expect(readdirSync('/proc/self/fd').length).toBeLessThanOrEqual(before);
  });
});

describe('a connection without TLS', () => {
  it.each([
    ['127.0.0.1', '127.0.0.1'],
    ['127.0.0.1', '127.0.0.2'],
    ['::1', '::1'],
    ['::ffff:127.0.0.1', '::ffff:127.0.0.1'],
    ['10.0.0.5', '10.0.0.5'],
    ['::ffff:10.0.0.5', '10.0.0.5'],
  ])('from %s to %s is one host', (localAddress, remoteAddress) => {
    expect(() => requireOneHost({ localAddress, remoteAddress })).not.toThrow();
  });

  it.each([
    ['10.0.0.5', '10.0.0.6'],
    ['127.0.0.1', '10.0.0.6'],
    ['fe80::1', 'fe80::2'],
    ['10.0.0.5', undefined],
  ])('from %s to %s is refused, saying what is needed', (localAddress, remoteAddress) => {
    expect(() => requireOneHost({ localAddress, remoteAddress })).toThrow(
      /tls: .* is another host: .* needs tls \(ca, cert and key\) at both ends \(EACCES\)/,
    );
  });
});
