import { execFileSync } from 'node:child_process';
import { openSync } from 'node:fs';
import { describe, expect, onTestFinished, test } from 'vitest';
import {
  createEventFd,
  createMemoryFile,
  OwnedFd,
  readEventFd,
  receive,
  send,
  signalEventFd,
  socketPair,
  type Watch,
  watch,
} from '../../src/native/index.js';
import {
  collectUntil,
  errnoOf,
  expectFdChange,
  expectNoFdLeak,
  loopUntil,
  pattern,
  temporaryFolder,
  turnOfLoop,
} from './helpers.js';

expectNoFdLeak();
const inFolder = temporaryFolder();

function pair(): [OwnedFd, OwnedFd] {
  const sockets = socketPair();
  onTestFinished(() => {
    for (const socket of sockets) socket.close();
  });
  return sockets;
}

async function someTurns(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await turnOfLoop();
}

describe('a watch', () => {
  test('calls for as long as there is something to read, and no longer', async () => {
    const [left, right] = pair();
    let calls = 0;
    watch(right.fd, { readable: true }, readiness => {
      expect(readiness.readable).toBe(true);
      calls++;
      if (calls >= 3) receive(right.fd, new Uint8Array(10));
    });
    await someTurns();
    expect(calls).toBe(0);
    send(left.fd, pattern(10));
    expect(await loopUntil(() => calls >= 3)).toBe(true);
    await someTurns();
    expect(calls).toBe(3);
  });

  test('waits for what it was last told: writable, nothing, readable', async () => {
    const [left, right] = pair();
    const seen: string[] = [];
    const running = watch(right.fd, { writable: true }, ({ readable, writable }) => {
      seen.push(readable ? 'readable' : writable ? 'writable' : 'nothing');
      running.update({});
    });
    expect(await loopUntil(() => seen.length > 0)).toBe(true);
    send(left.fd, pattern(1));
    await someTurns();
    expect(seen).toEqual(['writable']);
    running.update({ readable: true });
    expect(await loopUntil(() => seen.length > 1)).toBe(true);
    await someTurns();
    expect(seen).toEqual(['writable', 'readable']);
  });

  test('on an eventfd sees every signal', async () => {
    using event = createEventFd();
    let count = 0n;
    watch(event.fd, { readable: true }, () => {
      count += readEventFd(event.fd);
    });
    for (let signal = 1n; signal <= 5n; signal++) {
      signalEventFd(event.fd);
      expect(await loopUntil(() => count === signal)).toBe(true);
    }
  });

  test('survives garbage collection although nobody holds it', async () => {
    const [left, right] = pair();
    let calls = 0;
    (() => {
      watch(right.fd, { readable: true }, () => {
        calls++;
        receive(right.fd, new Uint8Array(10));
      });
    })();
    await collectUntil(() => false);
    send(left.fd, pattern(1));
    expect(await loopUntil(() => calls === 1)).toBe(true);
  });

  test('wakes when the peer is gone', async () => {
    const [left, right] = pair();
    const results: unknown[] = [];
    watch(right.fd, { readable: true }, () => {
      results.push(receive(right.fd, new Uint8Array(10)));
      right.close();
    });
    left.close();
    expect(await loopUntil(() => results.length > 0)).toBe(true);
    await someTurns();
    expect(results).toEqual(['closed']);
  });

  test('wakes until everything is read when the peer reset the connection', async () => {
    const [left, right] = pair();
    const results: unknown[] = [];
    watch(right.fd, { readable: true }, () => {
      const result = receive(right.fd, new Uint8Array(4));
      results.push(typeof result === 'string' ? result : result.bytes);
      if (result === 'closed') right.close();
    });
    send(left.fd, pattern(10));
    send(right.fd, pattern(1));
    left.close();
    expect(await loopUntil(() => right.closed)).toBe(true);
    expect(results).toEqual([4, 4, 2, 'closed']);
  });

  test('does not keep the process running once it is unreferenced', () => {
    const [left, right] = pair();
    const running = watch(right.fd, { readable: true }, () => {});
    const handles = () => process.getActiveResourcesInfo().length;
    const before = handles();
    running.unref();
    running.ref();
    running.unref();
    expect(handles()).toBeLessThanOrEqual(before);
    running.close();
    running.unref();
    running.ref();
    running.update({ readable: true });
    left.close();
  });
});

describe('what a callback throws', () => {
  test('goes to the handler, and the watch goes on', async () => {
    const [left, right] = pair();
    const errors: unknown[] = [];
    const ready = () => {
      receive(right.fd, new Uint8Array(10));
      throw new Error('on purpose');
    };
    watch(right.fd, { readable: true }, ready, error => errors.push(error));
    for (let round = 1; round <= 3; round++) {
      send(left.fd, pattern(1));
      expect(await loopUntil(() => errors.length === round)).toBe(true);
    }
    expect(errors.map(String)).toEqual(new Array(3).fill('Error: on purpose'));
  });

  test('is a warning without a handler, or when the handler throws too', async () => {
    const [left, right] = pair();
    const warnings: string[] = [];
    const listener = (warning: Error) => warnings.push(warning.message);
    process.on('warning', listener);
    onTestFinished(() => {
      process.off('warning', listener);
    });
    const ready = () => {
      receive(right.fd, new Uint8Array(10));
      throw new Error('first');
    };
    const running = watch(right.fd, { readable: true }, ready);
    send(left.fd, pattern(1));
    expect(await loopUntil(() => warnings.length === 1)).toBe(true);
    running.close();
    watch(right.fd, { readable: true }, ready, () => {
      throw 'second';
    });
    send(left.fd, pattern(1));
    expect(await loopUntil(() => warnings.length === 2)).toBe(true);
    expect(warnings).toEqual(['first', 'second']);
  });
});

describe('what cannot be watched is refused instead of ending the process', () => {
  test('files, memory files, folders, /dev/null: EPERM', () => {
    const unpollable = [
      new OwnedFd(openSync(inFolder('plain'), 'w+')),
      createMemoryFile('memory', 4096),
      new OwnedFd(openSync('/', 'r')),
      new OwnedFd(openSync('/dev/null', 'r+')),
    ];
    for (const owned of unpollable) {
      expectFdChange(0, () => expect(errnoOf(() => watch(owned.fd, { readable: true }, () => {}))).toBe('EPERM'));
      owned.close();
    }
  });

  test('a closed descriptor: EBADF', () => {
    for (const fd of [-1, 99_999]) {
      expectFdChange(0, () => expect(errnoOf(() => watch(fd, { readable: true }, () => {}))).toBe('EBADF'));
    }
  });

  test('a second watch on one descriptor: EBUSY, until the first is closed', () => {
    const [, right] = pair();
    const first = watch(right.fd, { readable: true }, () => {});
    expect(errnoOf(() => watch(right.fd, { writable: true }, () => {}))).toBe('EBUSY');
    first.close();
    watch(right.fd, { writable: true }, () => {}).close();
  });
});

test('a pipe can be watched', async () => {
  const path = inFolder('fifo');
  execFileSync('mkfifo', [path]);
  using fifo = new OwnedFd(openSync(path, 'r+'));
  let writable = false;
  watch(fifo.fd, { writable: true }, readiness => {
    writable = readiness.writable;
    fifo.close();
  });
  expect(await loopUntil(() => writable)).toBe(true);
});

describe('closing', () => {
  test('closing the owner of a descriptor ends its watch first, so that the next with that number is not confused', async () => {
    let calls = 0;
    for (let round = 1; round <= 50; round++) {
      const [left, right] = socketPair();
      watch(right.fd, { readable: true }, () => {
        calls++;
        right.close();
      });
      send(left.fd, pattern(1));
      expect(await loopUntil(() => calls === round)).toBe(true);
      left.close();
    }
    await someTurns();
    expect(calls).toBe(50);
  });

  test('after close nothing is called, even for what was ready already', async () => {
    const [left, right] = pair();
    let calls = 0;
    const running = watch(right.fd, { readable: true }, () => calls++);
    send(left.fd, pattern(1));
    running.close();
    running.close();
    running[Symbol.dispose]();
    await someTurns();
    expect(calls).toBe(0);
  });

  test('one callback may close the watch of another descriptor that is ready in the same turn', async () => {
    const [left, right] = pair();
    const [otherLeft, otherRight] = pair();
    const called: string[] = [];
    const watches: Watch[] = [];
    const closeBoth = (name: string) => () => {
      called.push(name);
      for (const running of watches) running.close();
    };
    watches.push(watch(right.fd, { readable: true }, closeBoth('one')));
    watches.push(watch(otherRight.fd, { readable: true }, closeBoth('other')));
    send(left.fd, pattern(1));
    send(otherLeft.fd, pattern(1));
    expect(await loopUntil(() => called.length > 0)).toBe(true);
    await someTurns();
    expect(called).toHaveLength(1);
  });
});
