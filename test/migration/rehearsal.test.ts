import { afterEach, describe, expect, it } from 'vitest';
import {
  FrameChannel,
  FrameType,
  MigrationReceiver,
  type RehearseOptions,
  rehearse,
} from '../../src/migration/index.js';
import { dialTo } from '../../src/migration/link/dial.js';
import { encodeHello, STREAM_VERSIONS } from '../../src/migration/stream/stream-format.js';
import { MIGRATION_STOP_COPY, MigrationState, VfioError } from '../../src/uapi/index.js';
import { type Host, hashOf, host, move, tamperedLink, twoHosts } from './two-hosts.js';

const opened: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const each of opened.splice(0)) await each.close();
});

async function pair(pages: number) {
  const hosts = await twoHosts(pages);
  opened.push(hosts);
  return hosts;
}

async function receiverOf(side: Host): Promise<MigrationReceiver> {
  const receiver = await MigrationReceiver.listen({ memory: side.machine, devices: [side.handle], timeoutMs: 5000 });
  opened.push(receiver);
  return receiver;
}

function rehearsalOf(side: Host, options: Partial<RehearseOptions>) {
  return rehearse({ memory: side.machine, devices: [side.handle], timeoutMs: 5000, ...options });
}

function expectUntouched(side: Host): void {
  expect(side.device.migration!.state).toBe(MigrationState.RUNNING);
  expect(side.device.runs).toBe(true);
  expect(side.device.dma.log.active).toBe(false);
}

describe('a rehearsal', () => {
  it('agrees with the destination and measures the link, and leaves both ends as they were', async () => {
    const { source, destination } = await pair(300);
    const receiver = await receiverOf(destination);
    const before = hashOf(destination);
    const report = await rehearsalOf(source, { to: receiver.address });
    expect(report).toMatchObject({ wouldMove: true, stoppedBy: 'fits', link: { source: 'measured' }, pagesSent: 300 });
    expect(report.link.bytesPerSecond).toBeGreaterThan(0);
    expect(report.link.roundTripMs).toBeGreaterThan(0);
    expect(report.stateBytes).toBeGreaterThan(0);
    expect(hashOf(destination)).toBe(before);
    expectUntouched(source);
    expectUntouched(destination);
  });

  it('may come any number of times, and a migration after it', async () => {
    const hosts = await pair(50);
    const receiver = await receiverOf(hosts.destination);
    await rehearsalOf(hosts.source, { to: receiver.address });
    await rehearsalOf(hosts.source, { to: receiver.address });
    await receiver.close();
    const { report } = await move(hosts, { verify: 'abort' });
    expect(report.outcome).toBe('moved');
  });

  it('needs no destination where the link is told', async () => {
    const { source } = await pair(200);
    const report = await rehearsalOf(source, { bandwidth: 1e9 });
    expect(report.link).toEqual({ bytesPerSecond: 1e9, source: 'given', roundTripMs: 0 });
    expect(report.wouldMove).toBe(true);
  });

  it('takes the slower one of the link and what may be used of it', async () => {
    const { source, destination } = await pair(20);
    const receiver = await receiverOf(destination);
    const report = await rehearsalOf(source, { to: receiver.address, bandwidth: 200_000 });
    expect(report.link).toMatchObject({ bytesPerSecond: 200_000, source: 'given' });
  });

  it('lets a pass take as long as the link would, and counts what is written meanwhile', async () => {
    const { source } = await pair(100);
    let toWrite = [[1, 2, 3], [4], []];
    const report = await rehearsalOf(source, {
      bandwidth: 4_096_000,
      downtimeLimitMs: 0.5,
      onEvent(event) {
        if (event.event !== 'progress') return;
        for (const page of toWrite[0] ?? []) void source.touch(page);
        toWrite = toWrite.slice(1);
      },
    });
    expect(report.passes[0]!.durationMs).toBeGreaterThanOrEqual(99);
    expect(report.passes[0]!.pagesSent).toBe(100);
    // Whatever was written in a pass is sent in the next, and nothing is forgotten.
    const sentLater = report.passes.slice(1).reduce((sum, { pagesSent }) => sum + pagesSent, 0);
    expect(sentLater + report.passes.at(-1)!.dirtyPages).toBe(4);
  });

  it.each([
    ['passes', { maxPasses: 3 }],
    ['time', { maxMs: 1, maxPasses: 1000 }],
    ['bytes', { maxBytes: 100 * 4096, maxPasses: 1000 }],
  ] as const)('says by which limit it would not move: %s', async (stoppedBy, limits) => {
    const { source } = await pair(100);
    const report = await rehearsalOf(source, {
      bandwidth: 1e8,
      downtimeLimitMs: 1e-6,
      ...limits,
      onEvent: () => void source.touch(7),
    });
    expect(report).toMatchObject({ wouldMove: false, stoppedBy });
    if (stoppedBy === 'passes') expect(report.passes).toHaveLength(3);
    else expect(report.passes).toHaveLength(1);
    expectUntouched(source);
  });

  it('fails as a migration would where both ends do not fit, and the destination goes on waiting', async () => {
    const { source, destination } = await pair(30);
    const other = await host(31);
    opened.push(other);
    const receiver = await receiverOf(destination);
    await expect(rehearsalOf(other, { to: receiver.address })).rejects.toMatchObject({ errno: 'ECONNABORTED' });
    expect((await rehearsalOf(source, { to: receiver.address })).wouldMove).toBe(true);
    expectUntouched(other);
  });

  it('fails when the link breaks while it is measured', async () => {
    const { source, destination } = await pair(30);
    const receiver = await receiverOf(destination);
    const link = await tamperedLink(receiver.address, (piece, offset) => (offset > 300_000 ? undefined : piece));
    opened.push(link);
    await expect(rehearsalOf(source, { to: link.address })).rejects.toBeInstanceOf(VfioError);
    expectUntouched(source);
    expectUntouched(destination);
  });

  it.each(['connect', 'progress'])('ends at once when it is given up at %s', async when => {
    const { source, destination } = await pair(100);
    const receiver = await receiverOf(destination);
    const giveUp = new AbortController();
    const rehearsal = rehearsalOf(source, {
      to: receiver.address,
      bandwidth: 1000,
      signal: giveUp.signal,
      onEvent(event) {
        if (event.event === when || (event.event === 'phase' && event.phase === when)) giveUp.abort();
      },
    });
    await expect(rehearsal).rejects.toMatchObject({ errno: 'ECANCELED' });
    expectUntouched(source);
  });

  it('does not take over a log that somebody else uses', async () => {
    const { source } = await pair(30);
    await source.handle.features.startLogging(4096n, [{ iova: source.iova, length: 4096n }]);
    await expect(rehearsalOf(source, { bandwidth: 1e9 })).rejects.toMatchObject({ errno: 'EINVAL' });
    expect(source.device.dma.log.active).toBe(true);
  });

  it('leaves a device alone that does not run, or cannot migrate', async () => {
    const { source } = await pair(30);
    await source.handle.features.setMigrationState(MigrationState.STOP);
    await expect(rehearsalOf(source, { bandwidth: 1e9 })).rejects.toMatchObject({ errno: 'EINVAL' });
    const fixed = await host(10, { migrationFlags: 0 });
    opened.push(fixed);
    await expect(rehearsalOf(fixed, { bandwidth: 1e9 })).rejects.toMatchObject({ errno: 'ENOTTY' });
    const plain = await host(10, { migrationFlags: MIGRATION_STOP_COPY });
    opened.push(plain);
    expect((await rehearsalOf(plain, { bandwidth: 1e9 })).wouldMove).toBe(true);
  });

  it.each([
    ['bandwidth', {}],
    ['bandwidth', { bandwidth: 0 }],
    ['downtimeLimitMs', { bandwidth: 1, downtimeLimitMs: 0 }],
    ['maxPasses', { bandwidth: 1, maxPasses: 1.5 }],
  ])('refuses a wrong %s', async (field, options) => {
    const { source } = await pair(1);
    await expect(rehearsalOf(source, options)).rejects.toMatchObject({ errno: 'EINVAL', field });
  });
});

describe('the destination of a rehearsal', () => {
  it('refuses anything but probes, and goes on waiting', async () => {
    const { source, destination } = await pair(10);
    const receiver = await receiverOf(destination);
    const channel = new FrameChannel({ timeoutMs: 5000, dial: dialTo(receiver.address) });
    await channel.connect();
    const flags = await source.handle.features.migrationFlags();
    const { ranges: memory } = source.machine;
    const hello = {
      versions: STREAM_VERSIONS,
      features: [],
      requires: [],
      pageSize: 4096,
      memory,
      devices: [flags],
      timeoutMs: 5000,
      purpose: 'rehearsal' as const,
    };
    await channel.send(FrameType.HELLO, encodeHello(hello));
    await channel.expect(FrameType.HELLO);
    await channel.send(FrameType.GO);
    await expect(channel.next()).rejects.toMatchObject({ errno: 'ECONNABORTED' });
    channel.destroy();
    expectUntouched(destination);
    expect((await rehearsalOf(source, { to: receiver.address })).wouldMove).toBe(true);
  });
});
