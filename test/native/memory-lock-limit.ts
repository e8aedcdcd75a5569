import { readFileSync } from 'node:fs';
import koffi from 'koffi';

const RLIMIT_MEMLOCK = 8;
const CAP_IPC_LOCK = 14;
const library = koffi.load(null);
const getrlimit = library.func('int getrlimit(int resource, void *limits)');
const setrlimit = library.func('int setrlimit(int resource, const void *limits)');
const capget = library.func('int capget(void *header, void *data)');
const capset = library.func('int capset(void *header, const void *data)');

/** Runs `action` while this thread may lock no more than `bytes` of memory, whoever it runs as. */
export function withMemoryLockLimit<T>(bytes: number, action: () => T): T {
  const limits = new BigUint64Array(2);
  getrlimit(RLIMIT_MEMLOCK, limits);
  const capabilities = new Uint32Array(6);
  capget(capabilityHeader(), capabilities);
  try {
    const fewer = capabilities.slice();
    fewer[0]! &= ~(1 << CAP_IPC_LOCK);
    capset(capabilityHeader(), fewer);
    setrlimit(RLIMIT_MEMLOCK, BigUint64Array.of(BigInt(bytes), limits[1]!));
    return action();
  } finally {
    setrlimit(RLIMIT_MEMLOCK, limits);
    capset(capabilityHeader(), capabilities);
  }
}

/** What this process has locked, bytes. */
export function lockedBytes(): number {
  return Number(/^VmLck:\s+(\d+) kB/m.exec(readFileSync('/proc/self/status', 'utf8'))![1]) * 1024;
}

/** `struct __user_cap_header_struct`: version 3, this thread. The kernel may write into it. */
function capabilityHeader(): Uint32Array {
  return Uint32Array.of(0x20080522, 0);
}
