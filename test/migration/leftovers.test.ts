import { readdirSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, describe, expect, it } from 'vitest';
import { type MigrateOptions, type MigrationEvent, MigrationReceiver, migrate } from '../../src/migration/index.js';
import { type Link, tamperedLink, twoHosts } from './two-hosts.js';

const opened: { close(): unknown }[] = [];
afterEach(async () => {
  for (const each of opened.splice(0).reverse()) await each.close();
});

type Hosts = Awaited<ReturnType<typeof twoHosts>>;

/** What the process has, by kind, when what is on its way out has gone: also the test runner's own words. */
async function belongings() {
  await delay(50);
  const timers = process.getActiveResourcesInfo().filter(kind => kind === 'Timeout' || kind === 'Worker');
  return {
    threads: readdirSync('/proc/self/task').length,
    descriptors: readdirSync('/proc/self/fd').length,
    timers: timers.length,
  };
}

/** One end by its hand, at a moment. */
type End = (parts: { receiver: MigrationReceiver; source: AbortController; link: Link }) => void;

const ends: readonly (readonly [string, End])[] = [
  ['the source gives up', ({ source }) => source.abort()],
  ['the destination is closed', ({ receiver }) => void receiver.close()],
  ['the link is gone for good', ({ link }) => void link.close()],
  ['the link is gone, and the source gives up', ({ link, source }) => void link.close().then(() => source.abort())],
];

const moments = ['connect', 'pre-copy', 'pass', 'stop-and-copy', 'verify', 'switch'] as const;

function isMoment(event: MigrationEvent, moment: string): boolean {
  return event.event === moment || (event.event === 'phase' && event.phase === moment);
}

/** Moves a machine, ends that at a moment, and waits until both sides have said how it ended. */
async function moveAndEnd(hosts: Hosts, moment: string, end: End, options: Partial<MigrateOptions>) {
  const { source, destination } = hosts;
  const receiver = await MigrationReceiver.listen({
    memory: destination.machine,
    devices: [destination.handle],
    timeoutMs: 400,
  });
  const link = await tamperedLink(receiver.address, piece => piece);
  const received = receiver.finished().catch(() => {});
  const controller = new AbortController();
  let isEnded = false;
  await migrate({
    to: link.address,
    memory: source.machine,
    devices: [source.handle],
    timeoutMs: 400,
    verify: 'report',
    signal: controller.signal,
    onEvent: event => {
      if (isEnded || !isMoment(event, moment)) return;
      isEnded = true;
      end({ receiver, source: controller, link });
    },
    ...options,
  });
  await receiver.close();
  await received;
  await link.close();
  expect(isEnded, moment).toBe(true);
}

describe('after a migration that ended in any phase', () => {
  describe.each([1, 2])('by %i connections', connections => {
    it.each(ends)('because %s, nothing of it is left', async (_, end) => {
      const hosts = await twoHosts(600);
      opened.push(hosts);
      await moveAndEnd(hosts, 'pre-copy', ends[0]![1], { connections });
      const before = { ...(await belongings()), timers: 0 };
      for (const moment of moments) {
        const fresh = await twoHosts(600);
        await moveAndEnd(fresh, moment, end, { connections });
        // Nobody holds the memory any more: it could be removed and closed.
        for (const { machine } of [fresh.source, fresh.destination]) await machine.remove(machine.ranges[0]!);
        await fresh.close();
        expect(await belongings(), moment).toEqual(before);
      }
    });
  });
});
