import { describe, expect, it } from 'vitest';
import type { ReceiveEvent } from '../../src/migration/index.js';
import { move, twoHosts } from './two-hosts.js';

const PAGES = 512;

describe('a receiver', () => {
  it.each([1, 2])('tells where the machine is, and what each pass brought, over %i connections', async connections => {
    const hosts = await twoHosts(PAGES);
    const events: ReceiveEvent[] = [];
    const onEvent = (event: ReceiveEvent) => void events.push(event);
    const { report } = await move(hosts, { connections, receive: { onEvent, connections } });
    expect(report.outcome).toBe('moved');
    const steps = events.filter(({ event }) => event === 'phase' || event === 'pass');
    expect(steps).toEqual([
      { event: 'phase', phase: 'pre-copy' },
      ...report.passes.map(({ pass, pagesSent }) => ({ event: 'pass', pass, pagesReceived: pagesSent })),
      { event: 'phase', phase: 'load' },
      { event: 'phase', phase: 'ready' },
    ]);
    await hosts.close();
  });

  it('tells how much has come while a pass takes its time', async () => {
    const hosts = await twoHosts(PAGES);
    const events: ReceiveEvent[] = [];
    const onEvent = (event: ReceiveEvent) => void events.push(event);
    await move(hosts, { bandwidth: PAGES * 4096, receive: { onEvent } });
    const progress = events.filter(event => event.event === 'progress');
    expect(progress.length).toBeGreaterThan(0);
    for (const { pagesReceived, pagesPerSecond } of progress) {
      expect(pagesReceived).toBeLessThanOrEqual(PAGES);
      expect(pagesPerSecond).toBeGreaterThan(0);
    }
    await hosts.close();
  });
});
