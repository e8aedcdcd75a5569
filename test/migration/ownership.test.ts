import { connect, createServer } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, describe, expect, it, vi } from 'vitest';
import {
  decodeHello,
  encodeAbort,
  encodeHello,
  FrameChannel,
  FrameType,
  MigrationReceiver,
  migrate,
} from '../../src/migration/index.js';
import { MigrationState, VfioError } from '../../src/uapi/index.js';
import { type Host, move, tamperedLink, twoHosts } from './two-hosts.js';

const opened: { close(): Promise<void> }[] = [];
afterEach(async () => {
  for (const each of opened.splice(0)) await each.close();
});

async function pair(...parameters: Parameters<typeof twoHosts>) {
  const hosts = await twoHosts(...parameters);
  opened.push(hosts);
  return hosts;
}

function stateOf(side: Host): MigrationState {
  return side.device.migration!.state;
}

/** A destination that plays its part by hand, from its HELLO on. */
async function handMadeDestination(play: (channel: FrameChannel) => Promise<void>) {
  const server = createServer(async socket => {
    const channel = new FrameChannel({ timeoutMs: 3000 });
    channel.begin(socket);
    try {
      const hello = decodeHello(await channel.expect(FrameType.HELLO));
      await channel.send(FrameType.HELLO, encodeHello(hello));
      await play(channel);
    } catch {
      // The source has left.
    }
  });
  await new Promise<void>(resolve => server.listen({ host: '127.0.0.1', port: 0 }, () => resolve()));
  opened.push({
    async close() {
      server.close();
    },
  });
  const { address, port } = server.address() as { address: string; port: number };
  return { host: address, port };
}

/** Holds every piece of the stream up, at most 64 KiB, and with it the whole process. */
function afterMilliseconds(milliseconds: number) {
  const never = new Int32Array(new SharedArrayBuffer(4));
  return (piece: Buffer) => {
    Atomics.wait(never, 0, 0, milliseconds);
    return piece;
  };
}

/** As a destination whose devices take whatever comes. */
async function untilFrame(channel: FrameChannel, type: FrameType): Promise<void> {
  while (true) {
    const frame = await channel.next();
    if (frame.type === type) return;
    if (frame.type === FrameType.INITIAL_DATA_SENT) await channel.send(FrameType.INITIAL_DATA_LOADED);
  }
}

const abort = (mayRun: boolean) => encodeAbort({ error: new VfioError('EIO', { operation: 'test' }), mayRun });

describe('the source', () => {
  it('does not start a machine again that was moved away, when it is asked to move it once more', async () => {
    const hosts = await pair(20);
    expect((await move(hosts)).report.outcome).toBe('moved');
    const again = await migrate({
      to: { host: '127.0.0.1', port: 1 },
      memory: hosts.source.machine,
      devices: [hosts.source.handle],
    });
    expect(again).toMatchObject({ outcome: 'failed', runningAt: 'unknown', error: { errno: 'EINVAL' } });
    expect(again.error!.message).toContain('does not run here: it is in state STOP');
    expect(stateOf(hosts.source)).toBe(MigrationState.STOP);
  });

  it('refuses a second migration of a device, which does nothing to the first', async () => {
    const hosts = await pair(200);
    let second: Promise<Awaited<ReturnType<typeof migrate>>> | undefined;
    const { report } = await move(hosts, {
      verify: 'abort',
      onEvent(event) {
        if (event.event !== 'phase' || event.phase !== 'stop-and-copy') return;
        second = migrate({
          to: { host: '127.0.0.1', port: 1 },
          memory: hosts.source.machine,
          devices: [hosts.source.handle],
        });
      },
    });
    expect(await second).toMatchObject({ outcome: 'failed', error: { errno: 'EBUSY' } });
    expect(report).toMatchObject({ outcome: 'moved', verified: true });
    expect(stateOf(hosts.source)).toBe(MigrationState.STOP);
  });

  it('takes one of two migrations that are asked for at once', async () => {
    const hosts = await pair(50);
    const receiver = await MigrationReceiver.listen({
      memory: hosts.destination.machine,
      devices: [hosts.destination.handle],
    });
    const options = { to: receiver.address, memory: hosts.source.machine, devices: [hosts.source.handle] };
    const reports = await Promise.all([migrate(options), migrate(options)]);
    expect(reports.map(report => report.outcome).sort()).toEqual(['failed', 'moved']);
    expect(reports.find(report => report.outcome === 'failed')!.error!.errno).toBe('EBUSY');
    expect(stateOf(hosts.source)).toBe(MigrationState.STOP);
  });

  it('hears a destination that gives up after READY, before it says GO', async () => {
    const { source } = await pair(20);
    const to = await handMadeDestination(async channel => {
      await untilFrame(channel, FrameType.SWITCH);
      void channel.send(FrameType.READY);
      void channel.send(FrameType.ABORT, abort(false));
    });
    const report = await migrate({ to, memory: source.machine, devices: [source.handle] });
    expect(report).toMatchObject({ outcome: 'failed', runningAt: 'source', error: { errno: 'ECONNABORTED' } });
    expect(stateOf(source)).toBe(MigrationState.RUNNING);
  });

  it.each([
    [false, 'source', MigrationState.RUNNING],
    [true, 'unknown', MigrationState.STOP_COPY],
  ])(
    'told to give up after GO by a destination that may run it: %s, says it runs at: %s',
    async (mayRun, runningAt, state) => {
      const { source } = await pair(20);
      const to = await handMadeDestination(async channel => {
        await untilFrame(channel, FrameType.SWITCH);
        await channel.send(FrameType.READY);
        await untilFrame(channel, FrameType.GO);
        await channel.send(FrameType.ABORT, abort(mayRun));
      });
      const report = await migrate({ to, memory: source.machine, devices: [source.handle] });
      expect(report).toMatchObject({ outcome: 'failed', runningAt, error: { errno: 'ECONNABORTED' } });
      expect(stateOf(source)).toBe(state);
    },
  );

  it('starts the machine again when it is given up while stopped, and only then tells the destination', async () => {
    const { source } = await pair(20);
    const controller = new AbortController();
    let whenTold: MigrationState | undefined;
    const to = await handMadeDestination(async channel => {
      await untilFrame(channel, FrameType.SWITCH);
      controller.abort();
      await channel.next().catch(() => {});
      whenTold = stateOf(source);
    });
    const report = await migrate({
      to,
      memory: source.machine,
      devices: [source.handle],
      timeoutMs: 3000,
      signal: controller.signal,
    });
    expect(report).toMatchObject({ outcome: 'failed', runningAt: 'source', error: { errno: 'ECANCELED' } });
    await vi.waitFor(() => expect(whenTold).toBe(MigrationState.RUNNING), 3000);
  });

  it('settles when the destination cannot be reached', async () => {
    const { source } = await pair(4);
    const unreachable = { host: '192.0.2.1', port: 9 };
    const report = await migrate({ to: unreachable, memory: source.machine, devices: [source.handle], timeoutMs: 300 });
    expect(report).toMatchObject({ outcome: 'failed', runningAt: 'source', phase: 'connect' });
    expect(stateOf(source)).toBe(MigrationState.RUNNING);
  });

  it('lets the machine run again when the last reading of the log brings far more than was expected', async () => {
    // 40 MB take far longer than the limit on this link, and the rest of an idle device far less, also on a busy machine.
    const hosts = await pair(10_000);
    let isLost = false;
    let stops = 0;
    const { report } = await move(hosts, {
      verify: 'abort',
      downtimeLimitMs: 250,
      through: to => tamperedLink(to, afterMilliseconds(1)),
      onEvent(event) {
        if (event.event !== 'phase' || event.phase !== 'stop-and-copy') return;
        stops++;
        if (isLost) return;
        isLost = true;
        hosts.source.device.dma.log.stop();
      },
    });
    expect(report.error).toBeUndefined();
    expect(report).toMatchObject({ outcome: 'moved', verified: true, stalePages: 0 });
    expect(stops).toBeGreaterThan(1);
    expect(Buffer.from(hosts.destination.device.state).toString()).toBe('the state of the device');
  });
});

describe('the destination', () => {
  it('tells the source when its device does not start after GO, and both end at once', async () => {
    const hosts = await pair(20);
    hosts.destination.device['onRun'] = () => {
      throw new Error('broken hardware');
    };
    const { report, refusal } = await move(hosts, { timeoutMs: 30_000 });
    expect(report).toMatchObject({ outcome: 'failed', runningAt: 'unknown', error: { errno: 'ECONNABORTED' } });
    expect(refusal).toBeInstanceOf(VfioError);
    expect(stateOf(hosts.source)).toBe(MigrationState.STOP_COPY);
    expect(report.totalMs).toBeLessThan(30_000);
  });

  it('may take longer than its peer would wait in silence', async () => {
    const hosts = await pair(20);
    const { features } = hosts.destination.handle;
    const setState = features.setMigrationState.bind(features);
    features.setMigrationState = async state => {
      if (state === MigrationState.STOP) await delay(900);
      await setState(state);
    };
    const { report } = await move(hosts, { timeoutMs: 300 });
    expect(report).toMatchObject({ outcome: 'moved', runningAt: 'destination' });
  });

  it('is not held up by connections that say nothing, and lets go of them when the machine has come', async () => {
    const hosts = await pair(20);
    const receiver = await MigrationReceiver.listen({
      memory: hosts.destination.machine,
      devices: [hosts.destination.handle],
    });
    const idle = Array.from({ length: 5 }, () => connect(receiver.address));
    const ended = Promise.all(
      idle.map(
        socket =>
          new Promise(resolve =>
            socket
              .on('close', resolve)
              .on('error', () => {})
              .resume(),
          ),
      ),
    );
    await Promise.all(idle.map(socket => new Promise(resolve => socket.once('connect', resolve))));
    const report = await migrate({
      to: receiver.address,
      memory: hosts.source.machine,
      devices: [hosts.source.handle],
    });
    expect(report.outcome).toBe('moved');
    await ended;
    await receiver.close();
  });

  it('keeps the machine that it has taken when it is closed', async () => {
    const hosts = await pair(20);
    const receiver = await MigrationReceiver.listen({
      memory: hosts.destination.machine,
      devices: [hosts.destination.handle],
    });
    const run = hosts.destination.device['onRun'].bind(hosts.destination.device);
    hosts.destination.device['onRun'] = () => {
      void receiver.close();
      run();
    };
    const report = await migrate({
      to: receiver.address,
      memory: hosts.source.machine,
      devices: [hosts.source.handle],
    });
    expect(report).toMatchObject({ outcome: 'moved', runningAt: 'destination' });
    await receiver.finished();
  });
});
