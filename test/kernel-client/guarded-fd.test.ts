import { expect, test } from 'vitest';
import { Turns } from '../../src/device/index.js';
import { GuardedFd } from '../../src/kernel/guarded-fd.js';
import { createEventFd, fdKind } from '../../src/native/index.js';
import { errnoOf, expectNoFdLeak } from '../native/helpers.js';

expectNoFdLeak();

const pending = () => {
  let settle = () => {};
  const promise = new Promise<void>(resolve => {
    settle = resolve;
  });
  return { promise, settle };
};

test('a descriptor in use stays open until the last user leaves, and nobody new gets in', async () => {
  const owned = createEventFd();
  const number = owned.fd;
  const guarded = new GuardedFd(owned, 'the device');
  const [first, second] = [pending(), pending()];
  const uses = [guarded.use('one', () => first.promise), guarded.use('two', () => second.promise)];
  const closed = guarded.close();
  expect(guarded.closed).toBe(true);
  expect(() => guarded.now('later')).toThrow('later: the device is closed (EBADF)');
  await expect(guarded.use('later', async () => {})).rejects.toThrow('EBADF');
  first.settle();
  await uses[0];
  expect(fdKind(number)).toBe('anonymous');
  second.settle();
  await uses[1];
  await closed;
  expect(owned.closed).toBe(true);
  await guarded.close();
});

test('a user that fails has left', async () => {
  const guarded = new GuardedFd(createEventFd(), 'it');
  const failed = guarded.use('one', async () => {
    throw new Error('no');
  });
  await expect(failed).rejects.toThrow('no');
  await guarded.close();
  expect(errnoOf(() => guarded.now('now'))).toBe('EBADF');
});

test('turns are taken in the order in which they were asked for, failures or not', async () => {
  const turns = new Turns();
  const order: number[] = [];
  const gate = pending();
  const results = [0, 1, 2, 3, 4].map(index =>
    turns.run(async () => {
      if (index === 0) await gate.promise;
      order.push(index);
      if (index % 2 === 1) throw new Error(`turn ${index}`);
      return index;
    }),
  );
  expect(turns.busy).toBe(true);
  expect(order).toEqual([]);
  gate.settle();
  const settled = await Promise.allSettled(results);
  expect(order).toEqual([0, 1, 2, 3, 4]);
  expect(settled.map(result => result.status)).toEqual(['fulfilled', 'rejected', 'fulfilled', 'rejected', 'fulfilled']);
  await new Promise(resolve => setImmediate(resolve));
  expect(turns.busy).toBe(false);
});

test('work that throws at once throws at once when nothing is under way, and leaves the turn to the next', async () => {
  const turns = new Turns();
  const fail = () => {
    throw new Error('no');
  };
  expect(() => turns.run(fail)).toThrow('no');
  expect(turns.busy).toBe(false);
  expect(turns.run(() => 7)).toBe(7);
  const gate = pending();
  const first = turns.run(() => gate.promise);
  const second = turns.run(fail) as unknown as Promise<never>;
  gate.settle();
  await first;
  await expect(second).rejects.toThrow('no');
  expect(await turns.run(() => 8)).toBe(8);
});
