import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { createServer } from 'node:net';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { MigrationState, VfioUserClient } from '../../src/index.js';
import { FileOwnershipStore } from '../../src/migration/index.js';
import { Authority } from '../migration/certificates.js';
import { tamperedLink } from '../migration/two-hosts.js';
import { Hosts, MEMORY_BYTES } from './machines.js';

const BUSY = ['--workload', 'hot-set', '--rate', '2000'];
/** However busy the computer is that the test runs on. */
const UNHURRIED = ['--downtime-limit', '60s'];
/** Passes enough to act upon, however fast the machine is. */
const NEVER = ['--downtime-limit', '1ms', '--max-passes', '100000', '--on-stall', 'wait'];

let hosts: Hosts;
beforeEach(() => {
  hosts = new Hosts();
});
afterEach(() => hosts.close());

const isPhase = (name: string) => (event: { event: string; phase?: string }) =>
  event.event === 'phase' && event.phase === name;
const isPass = ({ event }: { event: string }) => event === 'pass';

/** The device at a host runs, as if nobody had ever tried to move it. */
async function expectUntouched(name: string): Promise<void> {
  expect(await hosts.inspect(name)).toMatchObject({ state: MigrationState.RUNNING, isLogging: false });
}

describe('dmalog migrate and receive', () => {
  it('move a machine at work, and both end with 0', async () => {
    await Promise.all([hosts.engine('a', ...BUSY), hosts.engine('b')]);
    const { receiver, to } = await hosts.receive('b');
    const { code, stderr, result } = await hosts.migrate('a', to, '--verify', 'abort', ...UNHURRIED).end();
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(result).toMatchObject({ event: 'result', exitCode: 0, outcome: 'moved', runningAt: 'destination' });
    expect(result).toMatchObject({ verified: true, stalePages: 0 });
    expect(result.pagesSent).toBeGreaterThanOrEqual(MEMORY_BYTES / 4096);
    expect(result.passes.length).toBeGreaterThanOrEqual(2);
    expect(result.downtimeMs).toBeGreaterThan(0);
    await receiver.event(({ event }) => event === 'running');
    const phases = receiver.events.filter(({ event }) => event === 'phase').map(({ phase }) => phase);
    expect(phases).toEqual(['pre-copy', 'load', 'ready']);
    const arrived = receiver.events.filter(isPass).map(({ pagesReceived }) => pagesReceived);
    expect(arrived).toEqual(result.passes.map(({ pagesSent }: { pagesSent: number }) => pagesSent));
    receiver.child.kill('SIGINT');
    const received = await receiver.end();
    expect(received).toMatchObject({ code: 0, stderr: '', result: { event: 'result', outcome: 'received' } });
    expect((await hosts.inspect('a')).state).toBe(MigrationState.STOP);
    const { state, statistics, verify } = await hosts.inspect('b');
    expect(state).toBe(MigrationState.RUNNING);
    expect(statistics.pagesWritten).toBeGreaterThan(0);
    expect(verify).toMatchObject({ bad: 0, stale: 0 });
    expect(verify!.checked).toBeGreaterThan(0);
  });

  it('tell people where the machine is, which passes there were, and how long it stood still', async () => {
    await Promise.all([hosts.engine('a', ...BUSY), hosts.engine('b')]);
    const { receiver, to } = await hosts.receive('b', '--exit');
    const { code, stdout } = await hosts.run('migrate', ...hosts.machine('a'), '--to', to).finished;
    expect(code).toBe(0);
    expect(stdout).toMatch(/dmalog migrate.* to 127\.0\.0\.1:\d+: 8 MiB of memory, vfio-user:/);
    expect(stdout).toMatch(/0 \(all\)/);
    expect(stdout).toMatch(/stopped/);
    expect(stdout).toMatch(/downtime +.*\(expected .*, limit 300 ms\)/);
    expect(stdout).toContain(`The machine runs at ${to}.`);
    expect((await receiver.end()).result).toMatchObject({ outcome: 'received', exitCode: 0 });
  });

  it('move a machine on from beside its host', async () => {
    await Promise.all([hosts.engine('a', ...BUSY), hosts.engine('b'), hosts.engine('c')]);
    const first = await hosts.receive('b');
    expect((await hosts.migrate('a', first.to).end()).code).toBe(0);
    await first.receiver.event(({ event }) => event === 'running');
    const second = await hosts.receive('c', '--exit');
    const { code, result } = await hosts.migrate('b', second.to, '--beside', '--verify', 'abort').end();
    expect({ code, verified: result?.verified }).toEqual({ code: 0, verified: true });
    await second.receiver.end();
    expect(first.receiver.child.exitCode).toBeNull();
    expect((await hosts.inspect('c')).verify).toMatchObject({ bad: 0 });
  });

  it('end with 3 and 1 when the machine does not converge; it stays at the source', async () => {
    await Promise.all([hosts.engine('a', '--workload', 'uniform', '--rate', '100000'), hosts.engine('b')]);
    const { receiver, to } = await hosts.receive('b');
    const limits = ['--downtime-limit', '1ms', '--max-passes', '2'];
    const { code, result } = await hosts.migrate('a', to, ...limits).end();
    expect({ code, outcome: result.outcome, runningAt: result.runningAt }).toEqual({
      code: 3,
      outcome: 'not-converged',
      runningAt: 'source',
    });
    const received = await receiver.end();
    expect(received).toMatchObject({ code: 1, result: { outcome: 'failed', exitCode: 1 } });
    expect(received.stderr).toMatch(/^dmalog: .*did not converge.*\n$/);
    await Promise.all([expectUntouched('a'), expectUntouched('b')]);
  });

  it.each([
    ['report', { code: 4, outcome: 'moved', runningAt: 'destination' }],
    ['abort', { code: 5, outcome: 'failed', runningAt: 'source' }],
  ] as const)('with --verify %s find what no tracker sees', async (verify, expected) => {
    await Promise.all([hosts.engine('a'), hosts.engine('b')]);
    writeFileSync(hosts.path('a.mem'), randomBytes(MEMORY_BYTES));
    const { receiver, to } = await hosts.receive('b', '--exit');
    const file = openSync(hosts.path('a.mem'), 'r+');
    const [host, port] = to.split(':');
    const link = await tamperedLink({ host: host!, port: Number(port) }, (piece, offset) => {
      // A CPU of another process writes page 1, which has gone by.
      if (offset > 2 ** 21) writeSync(file, 'written behind', 4096);
      return piece;
    });
    const migration = hosts.migrate('a', `${link.address.host}:${link.address.port}`, '--verify', verify);
    const { code, result } = await migration.end();
    await link.close();
    closeSync(file);
    const { outcome, runningAt } = result;
    expect({ code, outcome, runningAt }).toEqual(expected);
    expect(result).toMatchObject({ verified: false, stalePages: 1 });
    await receiver.end();
  });
});

describe('dmalog migrate and receive over a link that is lost', () => {
  /** A link to a receiver, which breaks once in the middle of the memory. */
  async function brittleLink(to: string) {
    const [host, port] = to.split(':');
    let isBroken = false;
    return await tamperedLink({ host: host!, port: Number(port) }, (piece, offset) => {
      if (isBroken || offset < MEMORY_BYTES / 4) return piece;
      isBroken = true;
      return undefined;
    });
  }

  it('say so, say when it is back, and move the machine', async () => {
    await Promise.all([hosts.engine('a', ...BUSY), hosts.engine('b')]);
    writeFileSync(hosts.path('a.mem'), randomBytes(MEMORY_BYTES));
    const receiver = hosts.run('receive', ...hosts.machine('b'), '--listen', '127.0.0.1:0', '--exit');
    const [greeting] = await once(receiver.child.stdout!, 'data');
    const to = /at (127\.0\.0\.1:\d+)/.exec(greeting)![1]!;
    const link = await brittleLink(to);
    const migration = hosts.run('migrate', ...hosts.machine('a'), '--to', `127.0.0.1:${link.address.port}`);
    const ends = await Promise.all([migration.finished, receiver.finished]);
    await link.close();
    for (const { code, stdout } of ends) {
      expect(code).toBe(0);
      expect(stdout).toMatch(/the link was lost, and is waited for: .*\n +the link is back after .*, and goes on/);
    }
  });

  it('tell programs', async () => {
    await Promise.all([hosts.engine('a', ...BUSY), hosts.engine('b')]);
    writeFileSync(hosts.path('a.mem'), randomBytes(MEMORY_BYTES));
    const { receiver, to } = await hosts.receive('b', '--exit');
    const link = await brittleLink(to);
    const migration = hosts.migrate('a', `127.0.0.1:${link.address.port}`);
    await Promise.all([migration.end(), receiver.end()]);
    await link.close();
    for (const { events } of [migration, receiver]) {
      expect(events).toContainEqual(expect.objectContaining({ event: 'link-lost', channel: 0 }));
      expect(events).toContainEqual(expect.objectContaining({ event: 'link-resumed', channel: 0 }));
    }
  });
});

describe('dmalog migrate with something that is broken', () => {
  it('says which options go with both ends when one of them speaks TLS and the other does not', async () => {
    await Promise.all([hosts.engine('a'), hosts.engine('b')]);
    new Authority(name => hosts.path(name), 'ca').identity('host-b');
    const tls = Object.entries({ ca: 'ca.pem', cert: 'ca-host-b.pem', key: 'ca-host-b.key' }).flatMap(
      ([what, file]) => [`--tls-${what}`, hosts.path(file)],
    );
    const { to } = await hosts.receive('b', ...tls);
    const { code, stdout } = await hosts.run('migrate', ...hosts.machine('a'), '--to', to).finished;
    expect(code).toBe(5);
    expect(stdout).toMatch(/--tls-ca, --tls-cert and --tls-key go with both, or with none/);
  });

  it('ends with 5 when nobody listens, and has changed nothing', async () => {
    await hosts.engine('a', ...BUSY);
    const { code, stderr, result } = await hosts.migrate('a', '127.0.0.1:1').end();
    expect({ code, stderr }).toEqual({ code: 5, stderr: '' });
    expect(result).toMatchObject({ outcome: 'failed', runningAt: 'source', error: { errno: 'ECONNREFUSED' } });
    await expectUntouched('a');
  });

  it.each(['host', 'device'] as const)(
    'ends with 5 when the destination %s is killed while memory moves',
    async role => {
      await hosts.engine('a', ...BUSY);
      const device = await hosts.engine('b');
      const { receiver, to } = await hosts.receive('b');
      const migration = hosts.migrate('a', to, '--timeout', '2000', ...NEVER);
      await migration.event(isPass);
      (role === 'host' ? receiver.child : device).kill('SIGKILL');
      const { code, result } = await migration.end();
      // A device that is gone shows when something is asked of it: nothing is while memory comes.
      if (role === 'device' && result.runningAt !== 'source') return;
      expect({ code, runningAt: result.runningAt }).toEqual({ code: 5, runningAt: 'source' });
      await expectUntouched('a');
    },
  );

  it('ends with 1 when its own device is killed while memory moves, and the destination with 1', async () => {
    const device = await hosts.engine('a', ...BUSY);
    await hosts.engine('b');
    const { receiver, to } = await hosts.receive('b');
    const migration = hosts.migrate('a', to, ...NEVER);
    await migration.event(isPass);
    device.kill('SIGKILL');
    const { code, result } = await migration.end();
    expect(code).toBe(1);
    expect(['nowhere', 'unknown']).toContain(result.runningAt);
    expect((await receiver.end()).code).toBe(1);
    await expectUntouched('b');
  });

  it('moves the machine when it is repeated after it was killed', async () => {
    await Promise.all([hosts.engine('a', ...BUSY), hosts.engine('b'), hosts.engine('c')]);
    const first = await hosts.receive('b', '--timeout', '2000');
    const killed = hosts.migrate('a', first.to, ...NEVER);
    await killed.event(isPass);
    killed.child.kill('SIGKILL');
    expect((await first.receiver.end()).code).toBe(1);
    const second = await hosts.receive('c', '--exit');
    const { code, result } = await hosts.migrate('a', second.to, '--verify', 'abort').end();
    expect({ code, verified: result.verified }).toEqual({ code: 0, verified: true });
    await expectUntouched('b');
    expect((await hosts.inspect('c')).verify).toMatchObject({ bad: 0 });
  });

  it('ends with 1 and one line for a device that is not there', async () => {
    await hosts.engine('a');
    const parameters = ['vfio-user:/nowhere.sock', ...hosts.machine('a'), '--to', '127.0.0.1:1'];
    const { code, stdout, stderr } = await hosts.run('migrate', ...parameters).finished;
    expect(code).toBe(1);
    expect(stdout).toBe('');
    expect(stderr).toMatch(/^dmalog: vfio-user:\/nowhere\.sock: .*ENOENT\)\n$/);
    await expectUntouched('a');
  });

  it('names the option that connects beside another host when the device has one', async () => {
    await hosts.engine('a');
    await using _host = await VfioUserClient.connect(`${hosts.path('a')}.sock`);
    const migration = hosts.run('migrate', ...hosts.machine('a'), '--to', '127.0.0.1:1', '--timeout', '300ms');
    const { code, stderr } = await migration.finished;
    expect(code).toBe(1);
    expect(stderr).toMatch(/^dmalog: .*--beside.*ETIMEDOUT\)\n$/);
  });
});

describe('dmalog migrate that is interrupted', () => {
  it('ends with 130 while a device does not answer', async () => {
    await hosts.engine('a');
    const [silent, path] = [createServer(), hosts.path('silent.sock')];
    await new Promise<void>(resolve => silent.listen(path, resolve));
    const migration = hosts.run('migrate', `vfio-user:${path}`, ...hosts.machine('a'), '--to', '127.0.0.1:1', '--json');
    const [socket] = await once(silent, 'connection');
    migration.child.kill('SIGINT');
    const { code, stderr, result } = await migration.end();
    expect({ code, stderr }).toEqual({ code: 130, stderr: '' });
    expect(result).toMatchObject({ event: 'result', exitCode: 130 });
    socket.destroy();
    silent.close();
  });

  it('ends with 130 while the destination does not answer', async () => {
    await hosts.engine('a', ...BUSY);
    const silent = createServer(socket => socket.on('error', () => {}));
    await new Promise<void>(resolve => silent.listen(0, '127.0.0.1', resolve));
    const { port } = silent.address() as { port: number };
    const migration = hosts.migrate('a', `127.0.0.1:${port}`);
    await migration.event(isPhase('connect'));
    migration.child.kill('SIGINT');
    const { code, result } = await migration.end();
    expect({ code, runningAt: result.runningAt }).toEqual({ code: 130, runningAt: 'source' });
    silent.close();
    await expectUntouched('a');
  });

  it('ends with 130 while memory moves, and the machine is at the source', async () => {
    await Promise.all([hosts.engine('a', ...BUSY), hosts.engine('b')]);
    const { receiver, to } = await hosts.receive('b');
    const migration = hosts.migrate('a', to, ...NEVER);
    await migration.event(isPass);
    migration.child.kill('SIGINT');
    const { code, result } = await migration.end();
    expect({ code, runningAt: result.runningAt }).toEqual({ code: 130, runningAt: 'source' });
    expect((await receiver.end()).code).toBe(1);
    await Promise.all([expectUntouched('a'), expectUntouched('b')]);
  });

  it.each(['stop-and-copy', 'verify', 'switch'])(
    'ends in phase %s with the machine at one of the two ends',
    async phase => {
      await Promise.all([hosts.engine('a', ...BUSY), hosts.engine('b')]);
      const { receiver, to } = await hosts.receive('b', '--exit');
      const migration = hosts.migrate('a', to, '--verify', 'abort', ...UNHURRIED);
      await migration.event(isPhase(phase));
      migration.child.kill('SIGTERM');
      const { code, result } = await migration.end();
      const received = await receiver.end();
      if (code === 0) expect(received).toMatchObject({ code: 0, result: { outcome: 'received' } });
      else {
        expect({ code, runningAt: result.runningAt }).toEqual({ code: 130, runningAt: 'source' });
        expect(received.code).toBe(1);
        await expectUntouched('a');
      }
    },
  );
});

describe('dmalog migrate --dry-run', () => {
  it('says what a migration would be like, leaves everything as it was, and the destination goes on waiting', async () => {
    await Promise.all([hosts.engine('a', ...BUSY), hosts.engine('b')]);
    const { receiver, to } = await hosts.receive('b', '--exit');
    const { code, stderr, result } = await hosts.migrate('a', to, '--dry-run').end();
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(result).toMatchObject({
      outcome: 'rehearsed',
      wouldMove: true,
      stoppedBy: 'fits',
      link: { source: 'measured' },
    });
    expect(result.link.bytesPerSecond).toBeGreaterThan(0);
    await expectUntouched('a');
    expect(receiver.events.map(({ event }) => event)).toEqual(['listening']);
    expect((await hosts.migrate('a', to).end()).code).toBe(0);
    expect((await receiver.end()).result.outcome).toBe('received');
  });

  it('ends with 3 when the link is too slow, and says why', async () => {
    await hosts.engine('a', '--workload', 'uniform', '--rate', '20000');
    const parameters = [...hosts.machine('a'), '--dry-run', '--bandwidth', '20M', '--max-passes', '2'];
    const { code, stdout } = await hosts.run('migrate', ...parameters, '--downtime-limit', '20ms').finished;
    expect(code).toBe(3);
    expect(stdout).toMatch(/It would not move: after 2 passes in .* the link moves 21 MB\/s\./);
    await expectUntouched('a');
  });

  it('would stop the machine whatever the downtime when it is told to, and says so', async () => {
    await hosts.engine('a', '--workload', 'uniform', '--rate', '20000');
    const parameters = [...hosts.machine('a'), '--dry-run', '--bandwidth', '20M', '--max-passes', '2'];
    const limits = ['--downtime-limit', '20ms', '--on-stall', 'stop'];
    const { code, stdout } = await hosts.run('migrate', ...parameters, ...limits).finished;
    expect(code).toBe(0);
    expect(stdout).toMatch(/It would move after 2 passes in .*, whatever the downtime: 2 passes are done/);
  });

  it('ends with 130 when it is interrupted', async () => {
    await hosts.engine('a', ...BUSY);
    const parameters = [...hosts.machine('a'), '--dry-run', '--bandwidth', '1M', '--json'];
    const rehearsal = hosts.run('migrate', ...parameters);
    await rehearsal.event(({ event }) => event === 'progress');
    rehearsal.child.kill('SIGINT');
    expect((await rehearsal.end()).code).toBe(130);
    await expectUntouched('a');
  });
});

describe('dmalog migrate with an ownership record', () => {
  it('records who runs the machine, and refuses to start it where it is not', async () => {
    await Promise.all([hosts.engine('a', ...BUSY), hosts.engine('b')]);
    const owned = (self: string) => ['--owner-store', hosts.path('owners'), '--machine', 'vm7', '--self', self];
    const { receiver, to } = await hosts.receive('b', '--exit', ...owned('host-b'));
    expect((await hosts.migrate('a', to, ...owned('host-a')).end()).code).toBe(0);
    expect((await receiver.end()).code).toBe(0);
    const record = await new FileOwnershipStore(hosts.path('owners')).read('vm7');
    expect(record).toMatchObject({ owner: 'host-b', epoch: 2 });
    for (const how of [[], ['--dry-run']]) {
      const { code, stderr } = await hosts.migrate('a', to, ...owned('host-a'), ...how).end();
      expect(code).toBe(1);
      expect(stderr).toMatch(/^dmalog: .*vm7 belongs to host-b at epoch 2, not to host-a.*EPERM\)\n$/);
    }
  });
});

describe('dmalog receive', () => {
  it.each(['SIGINT', 'SIGTERM'] as const)('ends with 130 when %s comes before a machine', async signal => {
    await hosts.engine('b');
    const { receiver } = await hosts.receive('b');
    receiver.child.kill(signal);
    const { code, stderr, result } = await receiver.end();
    expect({ code, stderr }).toEqual({ code: 130, stderr: '' });
    expect(result).toMatchObject({ event: 'result', outcome: 'interrupted' });
    await expectUntouched('b');
  });

  it('ends with 1 and one line when its device dies, before a machine has come and after', async () => {
    await Promise.all([hosts.engine('a', ...BUSY)]);
    const early = await hosts.engine('early');
    const waiting = await hosts.receive('early');
    early.kill('SIGKILL');
    expect(await waiting.receiver.end()).toMatchObject({ code: 1, result: { outcome: 'failed' } });
    const late = await hosts.engine('late');
    const { receiver, to } = await hosts.receive('late');
    expect((await hosts.migrate('a', to).end()).code).toBe(0);
    await receiver.event(({ event }) => event === 'running');
    late.kill('SIGKILL');
    const { code, stderr } = await receiver.end();
    expect(code).toBe(1);
    expect(stderr).toMatch(/^dmalog: machine: vfio-user:.*late\.sock is gone: .*\n$/);
  });

  it('ends with 1 and one line when the port is taken', async () => {
    await Promise.all([hosts.engine('a'), hosts.engine('b')]);
    const { to } = await hosts.receive('a');
    const { code, stderr } = await hosts.run('receive', ...hosts.machine('b'), '--listen', to).finished;
    expect(code).toBe(1);
    expect(stderr).toMatch(/^dmalog: .*EADDRINUSE.*\n$/);
    await expectUntouched('b');
  });
});
