import { readdirSync } from 'node:fs';
import fc from 'fast-check';
import { afterEach, describe, expect, it } from 'vitest';
import { isRunning } from '../../src/device/index.js';
import { FRAME_HEADER_SIZE, FrameType, MigrationReceiver, migrate } from '../../src/migration/index.js';
import { MIGRATION_STOP_COPY, MigrationState, profiles, VfioError } from '../../src/uapi/index.js';
import { hashOf, host, move, tamperedLink, twoHosts } from './two-hosts.js';

const opened: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const each of opened.splice(0)) await each.close();
});

async function pair(...parameters: Parameters<typeof twoHosts>) {
  const hosts = await twoHosts(...parameters);
  opened.push(hosts);
  return hosts;
}

/** Whether a device may work by itself. A destination's does so also while it is blank: there the receiver says whether the machine came. */
function runs(side: { device: { migration: { state: MigrationState } | undefined; runs: boolean } }): boolean {
  return isRunning(side.device.migration!.state) && side.device.runs;
}

describe('migrate', () => {
  it.each(Object.values(profiles))('moves memory and device in the $name profile', async profile => {
    const hosts = await pair(300, { profile });
    const { report, refusal } = await move(hosts, { verify: 'abort' });
    expect(report.error).toBeUndefined();
    expect(report).toMatchObject({ outcome: 'moved', runningAt: 'destination', verified: true, stalePages: 0 });
    expect(refusal).toBeUndefined();
    expect(hashOf(hosts.destination)).toBe(hashOf(hosts.source));
    expect(Buffer.from(hosts.destination.device.state).toString()).toBe('the state of the device');
    expect(runs(hosts.source)).toBe(false);
    expect(runs(hosts.destination)).toBe(true);
    expect(hosts.source.device.dma.log.active).toBe(false);
    expect(report.pagesSent).toBe(300);
    expect(report.downtimeMs).toBeGreaterThan(0);
  });

  it('moves a device that knows neither pre-copy nor P2P', async () => {
    const hosts = await pair(10, { migrationFlags: MIGRATION_STOP_COPY });
    const { report } = await move(hosts, { verify: 'abort' });
    expect(report.outcome).toBe('moved');
    expect(Buffer.from(hosts.destination.device.state).toString()).toBe('the state of the device');
  });

  it('moves memory that does not begin at 0', async () => {
    const hosts = await pair(600, { iova: 0x1_0000_0000n });
    await hosts.source.touch(599);
    const { report } = await move(hosts, { verify: 'abort' });
    expect(report.outcome).toBe('moved');
    expect(hashOf(hosts.destination)).toBe(hashOf(hosts.source));
  });

  it('sends again what the device writes while it runs, up to its last breath', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(fc.record({ page: fc.nat(399), value: fc.integer({ min: 1, max: 255 }) }), { maxLength: 60 }),
        fc.array(fc.nat(399), { maxLength: 10 }),
        async (writes, lastWrites) => {
          const hosts = await twoHosts(400);
          const queue = [...writes];
          hosts.source.device.whenQuiesced = () => {
            for (const page of lastWrites) void hosts.source.touch(page, 77);
          };
          const { report } = await move(hosts, {
            verify: 'report',
            onEvent() {
              for (const { page, value } of queue.splice(0, 5)) void hosts.source.touch(page, value);
            },
          });
          expect(report).toMatchObject({ outcome: 'moved', verified: true, stalePages: 0 });
          expect(hashOf(hosts.destination)).toBe(hashOf(hosts.source));
          await hosts.close();
        },
      ),
      { numRuns: 40 },
    );
  });

  it('loses exactly what the device wrote when no tracker is asked', async () => {
    const hosts = await pair(400);
    let touched = false;
    const { report } = await move(hosts, {
      trackers: [],
      verify: 'report',
      onEvent(event) {
        if (event.event !== 'phase' || event.phase !== 'stop-and-copy' || touched) return;
        touched = true;
        for (const page of [1, 2, 399]) void hosts.source.touch(page);
      },
    });
    expect(report).toMatchObject({ outcome: 'moved', verified: false, stalePages: 3 });
    expect(report.digests!.source).not.toBe(report.digests!.destination);
  });

  it('stays at the source when memory must be verified and is not', async () => {
    const hosts = await pair(50);
    const { report, refusal } = await move(hosts, {
      trackers: [],
      verify: 'abort',
      onEvent: event => {
        if (event.event === 'phase' && event.phase === 'stop-and-copy') void hosts.source.touch(7);
      },
    });
    expect(report).toMatchObject({ outcome: 'failed', runningAt: 'source', phase: 'verify', stalePages: 1 });
    expect(refusal).toMatchObject({ errno: 'ECONNABORTED' });
    expect(runs(hosts.source)).toBe(true);
  });

  it('says that it did not converge, and leaves the machine at the source, when the device is faster than the link', async () => {
    const hosts = await pair(200);
    const { report, refusal } = await move(hosts, {
      downtimeLimitMs: 0.0001,
      maxPasses: 4,
      onEvent: event => {
        if (event.event === 'phase' || event.event === 'pass')
          for (let page = 0; page < 200; page++) void hosts.source.touch(page);
      },
    });
    expect(report).toMatchObject({ outcome: 'not-converged', runningAt: 'source', error: undefined });
    expect(report.passes).toHaveLength(4);
    expect(refusal).toMatchObject({ errno: 'ECONNABORTED' });
    expect(runs(hosts.source)).toBe(true);
    expect(hosts.source.device.dma.log.active).toBe(false);
  });

  it('can be given up, and the machine runs on at the source', async () => {
    const hosts = await pair(3000);
    const controller = new AbortController();
    const { report } = await move(hosts, {
      signal: controller.signal,
      onEvent: event => event.event === 'phase' && event.phase === 'pre-copy' && controller.abort(),
    });
    expect(report).toMatchObject({ outcome: 'failed', runningAt: 'source', error: { errno: 'ECANCELED' } });
    expect(runs(hosts.source)).toBe(true);
  });

  it('marks everything and goes on when a device loses its log', async () => {
    const hosts = await pair(100);
    let lost = false;
    const { report } = await move(hosts, {
      verify: 'abort',
      onEvent(event) {
        if (event.event !== 'phase' || event.phase !== 'stop-and-copy' || lost) return;
        lost = true;
        void hosts.source.touch(5);
        hosts.source.device.dma.log.stop();
      },
    });
    expect(report).toMatchObject({ outcome: 'moved', verified: true });
    expect(report.lostLogs).toMatchObject([{ error: { errno: 'EINVAL' } }]);
    expect(report.pagesSent).toBe(200);
  });

  it('refuses a destination with other memory before the machine is touched', async () => {
    const source = await host(20);
    const destination = await host(30);
    opened.push(source, destination);
    const receiver = await MigrationReceiver.listen({ memory: destination.machine, devices: [destination.handle] });
    const report = await migrate({ to: receiver.address, memory: source.machine, devices: [source.handle] });
    expect(report).toMatchObject({ outcome: 'failed', runningAt: 'source', phase: 'connect' });
    expect(report.error!.message).toMatch(/memory: here 0x0\+0x1e000, at the other end 0x0\+0x14000/);
    expect(source.device.migration!.state).toBe(MigrationState.RUNNING);
    await receiver.close();
  });

  it('waits for the next source when somebody else has connected', async () => {
    const hosts = await pair(20);
    const receiver = await MigrationReceiver.listen({
      memory: hosts.destination.machine,
      devices: [hosts.destination.handle],
    });
    const stranger = await fetch(`http://127.0.0.1:${receiver.address.port}/`).catch((error: unknown) => error);
    expect(stranger).toBeInstanceOf(Error);
    const report = await migrate({
      to: receiver.address,
      memory: hosts.source.machine,
      devices: [hosts.source.handle],
    });
    expect(report.outcome).toBe('moved');
    await receiver.finished();
  });

  it.each([
    ['a destination that is not there', { to: { host: '127.0.0.1', port: 1 } }, 'ECONNREFUSED'],
    ['a downtime limit of 0', { downtimeLimitMs: 0 }, 'EINVAL'],
    ['a pass limit of 0', { maxPasses: 0 }, 'EINVAL'],
  ])('answers %s with %s', async (_, options, errno) => {
    const { source } = await pair(4);
    const outcome = await migrate({
      to: { host: '127.0.0.1', port: 1 },
      memory: source.machine,
      devices: [source.handle],
      ...options,
    }).then(
      report => report.error,
      (error: unknown) => error as VfioError,
    );
    expect(outcome).toBeInstanceOf(VfioError);
    expect(outcome!.errno).toBe(errno);
    expect(runs(source)).toBe(true);
  });
});

/** Whether a piece, which begins at a frame's border as small frames do, has such a frame. */
function hasFrame(piece: Buffer, type: number): boolean {
  for (let at = 0; at + FRAME_HEADER_SIZE <= piece.length; at += FRAME_HEADER_SIZE + piece.readUInt32LE(at + 8)) {
    if (piece.readUInt16LE(at + 4) === type) return true;
  }
  return false;
}

describe('a migration on a bad link', () => {
  const PAGES = 40;
  /** Whether it converges is another matter, and a question of how busy the host is. */
  const WHATEVER_IT_TAKES = { downtimeLimitMs: 60_000 };

  async function streamLength(): Promise<number> {
    const hosts = await twoHosts(PAGES);
    let length = 0;
    await move(hosts, {
      through: to =>
        tamperedLink(to, (piece, offset) => {
          length = offset + piece.length;
          return piece;
        }),
    });
    await hosts.close();
    return length;
  }

  function fdCount(): number {
    return readdirSync('/proc/self/fd').length;
  }

  it('heals, or ends with the machine at one place, wherever the link is cut', async () => {
    const length = await streamLength();
    const fdsBefore = fdCount();
    const places = Array.from({ length: 20 }, (_, index) => Math.floor((length * index) / 20));
    for (const place of [...places, length - 1, length - 32, length - 33, length - 64]) {
      const hosts = await twoHosts(PAGES);
      // On every connection anew: a place within the first large frame lets nothing through, ever.
      const { report, refusal } = await move(hosts, {
        timeoutMs: 600,
        ...WHATEVER_IT_TAKES,
        through: to => tamperedLink(to, (piece, offset) => (offset + piece.length > place ? undefined : piece)),
      });
      const where = `cut at byte ${place} of ${length}: ${report.runningAt}`;
      expect(runs(hosts.source) && refusal === undefined, where).toBe(false);
      expect(runs(hosts.source), where).toBe(report.runningAt === 'source');
      if (report.outcome === 'moved') expect(hashOf(hosts.destination), where).toBe(hashOf(hosts.source));
      await hosts.close();
    }
    await new Promise(resolve => setTimeout(resolve, 50));
    expect(fdCount()).toBeLessThanOrEqual(fdsBefore);
  });

  it.each([
    [FrameType.HELLO, 'destination'],
    [FrameType.READY, 'destination'],
    [FrameType.RESUMED, 'unknown'],
  ])('that is cut before word %i from the destination arrives has the machine at: %s', async (lost, runningAt) => {
    const hosts = await pair(PAGES);
    let isCut = false;
    const { report, refusal } = await move(hosts, {
      timeoutMs: 1500,
      ...WHATEVER_IT_TAKES,
      through: to =>
        tamperedLink(
          to,
          piece => piece,
          piece => {
            if (isCut || !hasFrame(piece, lost)) return piece;
            isCut = true;
            return undefined;
          },
        ),
    });
    expect(isCut).toBe(true);
    expect(report.runningAt).toBe(runningAt);
    expect(runs(hosts.source)).toBe(false);
    expect(runs(hosts.destination) && refusal === undefined).toBe(true);
    expect(hashOf(hosts.destination)).toBe(hashOf(hosts.source));
  });

  it('heals when any byte of the stream was changed, and nothing of it was applied', async () => {
    const length = await streamLength();
    await fc.assert(
      fc.asyncProperty(fc.nat(length - 1), fc.integer({ min: 1, max: 255 }), async (place, mask) => {
        const hosts = await twoHosts(PAGES);
        let isChanged = false;
        const { report, refusal } = await move(hosts, {
          timeoutMs: 1500,
          ...WHATEVER_IT_TAKES,
          through: to =>
            tamperedLink(to, (piece, offset) => {
              if (isChanged || place < offset || place >= offset + piece.length) return piece;
              isChanged = true;
              const changed = Buffer.from(piece);
              changed[place - offset]! ^= mask;
              return changed;
            }),
        });
        expect(runs(hosts.source) && refusal === undefined).toBe(false);
        // A word of the switch itself is not said twice.
        if (report.phase === 'switch') expect(['destination', 'unknown']).toContain(report.runningAt);
        else expect(report.outcome).toBe('moved');
        if (refusal === undefined) {
          expect(hashOf(hosts.destination)).toBe(hashOf(hosts.source));
          expect(Buffer.from(hosts.destination.device.state).toString()).toBe('the state of the device');
        }
        await hosts.close();
      }),
      { numRuns: 120 },
    );
  });

  it('gives up a link on which nothing moves any more', async () => {
    const hosts = await pair(PAGES);
    const { report, refusal } = await move(hosts, {
      timeoutMs: 200,
      through: to => tamperedLink(to, (piece, offset) => (offset > 50_000 ? Buffer.alloc(0) : piece)),
    });
    expect(report).toMatchObject({ outcome: 'failed', runningAt: 'source' });
    // Both ends notice, and either may be the first that has had enough.
    expect(['ETIMEDOUT', 'ECONNRESET', 'ECONNABORTED']).toContain(report.error!.errno);
    expect(refusal).toBeInstanceOf(VfioError);
    expect(runs(hosts.source)).toBe(true);
  });
});

describe('a migration with a device that fails', () => {
  it('resets the destination and leaves the machine at the source when the state is not taken', async () => {
    const hosts = await pair(20);
    hosts.destination.device['loadState'] = () => {
      throw new VfioError('EINVAL', { operation: 'test', message: 'not my state' });
    };
    const { report, refusal } = await move(hosts);
    expect(report).toMatchObject({ outcome: 'failed', runningAt: 'source' });
    expect(report.error!.message).toMatch(/not my state/);
    expect(refusal).toBeInstanceOf(VfioError);
    expect(runs(hosts.source)).toBe(true);
  });

  it('says that it runs nowhere when the source cannot be started again', async () => {
    const hosts = await pair(20);
    const { report } = await move(hosts, {
      onEvent: event => {
        if (event.event === 'phase' && event.phase === 'stop-and-copy') {
          hosts.source.device['saveState'] = () => {
            throw new Error('broken hardware');
          };
        }
      },
    });
    expect(report).toMatchObject({ outcome: 'failed', runningAt: 'nowhere' });
    expect(hosts.source.device.migration!.state).toBe(MigrationState.ERROR);
  });
});
