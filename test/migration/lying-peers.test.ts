import { randomBytes } from 'node:crypto';
import { createServer } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { GuestMemory } from '../../src/memory/index.js';
import {
  decodeHello,
  encodeMemoryMap,
  FrameChannel,
  FrameType,
  MachineMemory,
  MigrationReceiver,
  PageList,
} from '../../src/migration/index.js';
import { encodeLanePorts } from '../../src/migration/lane/lane-ports.js';
import { dialTo } from '../../src/migration/link/dial.js';
import { MemoryLanes } from '../../src/migration/source/memory-lanes.js';
import { checkHello } from '../../src/migration/stream/hello.js';
import { encodeHello, type Hello } from '../../src/migration/stream/stream-format.js';
import type { VfioError } from '../../src/uapi/index.js';
import { host, move } from './two-hosts.js';

const opened: { close(): unknown }[] = [];
afterEach(async () => {
  for (const each of opened.splice(0).reverse()) await each.close();
});

/** A destination that says what a test wants, once HELLO was exchanged. */
async function lyingDestination(connections: number, lie: (channel: FrameChannel) => Promise<void>) {
  const server = createServer(async socket => {
    const channel = new FrameChannel({ timeoutMs: 2000 });
    opened.push({ close: () => channel.destroy() });
    channel.begin(socket);
    const theirs = decodeHello(await channel.expect(FrameType.HELLO));
    await channel.send(FrameType.HELLO, encodeHello({ ...theirs, connections, token: randomBytes(16) }));
    await lie(channel);
  });
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', () => resolve()));
  opened.push(server);
  const { port } = server.address() as { port: number };
  return { host: '127.0.0.1', port };
}

async function hostOf(pages: number) {
  const side = await host(pages);
  opened.push(side);
  return side;
}

describe('a destination that lies', () => {
  it('cannot make the source connect to more lanes than were agreed on', async () => {
    const [source, destination] = [await hostOf(4), await hostOf(4)];
    const to = await lyingDestination(2, async channel => {
      await channel.send(FrameType.LANES, encodeLanePorts(new Array(16).fill(1)));
    });
    const { report } = await move({ source, destination }, { connections: 2, to });
    expect(report).toMatchObject({ outcome: 'failed', runningAt: 'source', error: { errno: 'EBADMSG' } });
    expect(report.error!.message).toMatch(/LANES.*16.*2 lanes/);
  });

  it('cannot keep the source waiting for a lane longer than it waits for anything', async () => {
    let connections = 0;
    const silent = createServer(socket => {
      connections++;
      opened.push({ close: () => socket.destroy() });
    });
    await new Promise<void>(resolve => silent.listen(0, '127.0.0.1', () => resolve()));
    opened.push(silent);
    const { port } = silent.address() as { port: number };
    const { machine } = await hostOf(4);
    const shared = { host: '127.0.0.1', tls: undefined, token: randomBytes(16), timeoutMs: 300, peerTimeoutMs: 300 };
    const lanes = await MemoryLanes.start({ ...shared, compression: 'off', ports: [port], memory: machine });
    opened.push(lanes);
    await expect(lanes.joined()).rejects.toMatchObject({ errno: 'ETIMEDOUT' });
    expect(connections).toBe(1);
  });

  it('is quoted in few words', () => {
    const ours: Hello = {
      versions: [2, 2],
      features: [],
      requires: [],
      pageSize: 4096,
      memory: [{ iova: 0n, length: 4096n }],
      devices: [],
      timeoutMs: 1000,
    };
    const theirs = { ...ours, memory: Array.from({ length: 50_000 }, () => ({ iova: 1n, length: 1n })) };
    const refusal = (() => {
      try {
        return checkHello(ours, theirs);
      } catch (error) {
        return error as VfioError;
      }
    })() as VfioError;
    expect(refusal.errno).toBe('EINVAL');
    expect(refusal.message.length).toBeLessThan(2000);
  });
});

describe('a source that lies', () => {
  /** A source that has come as far as its lanes, by what a test makes of them. */
  async function sourceWithLanes(receiver: MigrationReceiver, machine: MachineMemory) {
    const { address } = receiver;
    const channel = new FrameChannel({ timeoutMs: 2000, dial: dialTo(address) });
    opened.push({ close: () => channel.destroy() });
    await channel.connect();
    const ours = { versions: [2, 2], features: [], requires: [], pageSize: 4096, timeoutMs: 2000 } as const;
    const hi = { ...ours, memory: machine.ranges, devices: [], connections: 2 };
    await channel.send(FrameType.HELLO, encodeHello(hi));
    const { token } = decodeHello(await channel.expect(FrameType.HELLO));
    channel.token = token!;
    const ports = await channel.expect(FrameType.LANES);
    const lanes = await MemoryLanes.start({
      host: address.host,
      tls: undefined,
      ports: [ports[0]! + 256 * ports[1]!, ports[2]! + 256 * ports[3]!],
      token: token!,
      memory: machine,
      compression: 'off',
      timeoutMs: 2000,
      peerTimeoutMs: 2000,
    });
    opened.push(lanes);
    await lanes.joined();
    return { channel, lanes };
  }

  function machineOf(ranges: number): MachineMemory {
    const slots = Array.from({ length: ranges }, (_, range) => {
      const memory = GuestMemory.create(4096);
      opened.push(memory);
      return { iova: BigInt(range) * 0x10000n, length: 4096n, memory };
    });
    return new MachineMemory(slots);
  }

  it('cannot write memory by a lane once it has said that it is gone', async () => {
    const [source, destination] = [machineOf(2), machineOf(2)];
    const [, gone] = destination.slots;
    let attempt: Promise<unknown> = Promise.resolve();
    let isGivenBack = false;
    const receiver = await MigrationReceiver.listen({
      memory: destination,
      devices: [],
      connections: 2,
      timeoutMs: 2000,
      async memoryGone() {
        isGivenBack = true;
        attempt = write();
        attempt.catch(() => {});
        await delay(300);
      },
    });
    opened.push(receiver);
    const { channel, lanes } = await sourceWithLanes(receiver, source);
    source.write(1, 0, new Uint8Array(4096).fill(7));
    async function write() {
      const list = new PageList();
      list.add(1, 0, 1);
      await lanes.send(list);
      return lanes.flush();
    }
    const refused = receiver.finished().catch((error: VfioError) => error);
    await channel.send(FrameType.MEMORY_MAP, encodeMemoryMap(source.ranges.slice(0, 1)));
    expect(await refused).toMatchObject({ message: expect.stringMatching(/range 1 do not exist|closed/) });
    expect(isGivenBack).toBe(true);
    await expect(attempt).rejects.toThrow();
    const bytes = new Uint8Array(4096);
    gone!.memory.read(0, bytes);
    expect(bytes.every(byte => byte === 0)).toBe(true);
  });
});

describe('a receiver', () => {
  it.each([0, -1, 1.5, Number.NaN])('refuses %d connections before it listens', async connections => {
    const memory = new MachineMemory([]);
    await expect(MigrationReceiver.listen({ memory, devices: [], connections })).rejects.toMatchObject({
      errno: 'EINVAL',
      field: 'connections',
    });
  });
});
