import { expect, onTestFinished, test } from 'vitest';
import { LocalDevice, type PciDeviceOptions } from '../../src/device/index.js';
import type { MaybePromise } from '../../src/memory/index.js';
import { openFdCount, signalEventFd } from '../../src/native/index.js';
import { MigrationState } from '../../src/uapi/index.js';
import { errnoOf, expectFdChange, expectNoFdLeak, loopUntil, turnOfLoop } from '../native/helpers.js';
import { TestDevice } from './test-device.js';

expectNoFdLeak();

class DoorbellDevice extends TestDevice {
  readonly rung: number[] = [];
  onRing: (index: number) => MaybePromise<void> = () => {};

  constructor(options: Partial<PciDeviceOptions> = {}) {
    super({
      ioEventFds: [
        { bar: 0, offset: 0x10, size: 4 },
        { bar: 0, offset: 0x14, size: 4, match: 7n },
        { bar: 2, offset: 0, size: 0 },
      ],
      ...options,
    });
    onTestFinished(() => this.close());
  }

  protected override onIoEvent(index: number): MaybePromise<void> {
    this.rung.push(index);
    return this.onRing(index);
  }
}

test("a BAR's eventfds are made when they are asked for, once, and closed when the client goes", () => {
  const device = new DoorbellDevice();
  const fds = openFdCount();
  expect(device.busy).toBe(false);
  const [first, second] = device.regionIoFds(0);
  expect(first).toEqual({ offset: 0x10, size: 4, fd: first!.fd });
  expect(second).toEqual({ offset: 0x14, size: 4, match: 7n, fd: second!.fd });
  expect(device.regionIoFds(0)).toEqual([first, second]);
  expect(openFdCount()).toBe(fds + 2);
  expect(device.busy).toBe(true);
  expect(device.regionIoFds(7)).toEqual([]);
  device.disconnect();
  expect(openFdCount()).toBe(fds);
  expect(device.busy).toBe(false);
});

test('one that is signalled, however often, rings once, and again when it is signalled again', async () => {
  const device = new DoorbellDevice();
  const [first, second] = device.regionIoFds(0).map(event => event.fd);
  for (let count = 0; count < 3; count++) signalEventFd(first!);
  expect(await loopUntil(() => device.rung.length > 0)).toBe(true);
  await turnOfLoop();
  expect(device.rung).toEqual([0]);
  signalEventFd(second!);
  expect(await loopUntil(() => device.rung.length > 1)).toBe(true);
  expect(device.rung).toEqual([0, 1]);
});

test('what the author throws, now or later, is a warning and no more', async () => {
  const device = new DoorbellDevice();
  const warnings: string[] = [];
  const listen = (warning: Error) => warnings.push(warning.message);
  process.on('warning', listen);
  onTestFinished(() => void process.off('warning', listen));
  const [first, second] = device.regionIoFds(0).map(event => event.fd);
  device.onRing = index => {
    if (index === 0) throw new TypeError('at once');
    return Promise.reject(new TypeError('later'));
  };
  signalEventFd(first!);
  signalEventFd(second!);
  expect(await loopUntil(() => warnings.length === 2)).toBe(true);
  expect(warnings.sort()).toEqual(['at once', 'later']);
  signalEventFd(first!);
  expect(await loopUntil(() => device.rung.length === 3)).toBe(true);
});

test('what was rung before the device stops is seen before it stops, and not lost', async () => {
  const device = new DoorbellDevice();
  const [first] = device.regionIoFds(0).map(event => event.fd);
  signalEventFd(first!);
  await new LocalDevice(device).features.setMigrationState(MigrationState.STOP);
  expect(device.rung).toEqual([0]);
  expect(device.calls).toEqual(['quiesce']);
});

test('what was rung before a reset is forgotten by it', async () => {
  const device = new DoorbellDevice();
  const [first] = device.regionIoFds(0).map(event => event.fd);
  signalEventFd(first!);
  await device.reset();
  await turnOfLoop();
  expect(device.rung).toEqual([]);
});

test('an access of no size that a register has is EINVAL', () => {
  for (const size of [3, -1, 16, Number.NaN]) {
    const ioEventFds = [{ bar: 0, offset: 0, size }];
    expectFdChange(0, () => expect(errnoOf(() => new TestDevice({ ioEventFds }))).toBe('EINVAL'));
  }
});
