import assert from 'node:assert/strict';
import { FEATURE_PROBE, FEATURE_SET, type IovaRange } from '../../../../src/uapi/index.js';
import type { Cases } from './cases.js';
import { readOnly, unmapped } from './pages.js';
import type { Outcome, RawDevice } from './raw-device.js';
import { rangesAtEnd, type StartSaid, start, startMessage, stop } from './requests.js';

const MIB = 0x100000n;
const END = 1n << 64n;

const range = (iova: bigint, length: bigint): IovaRange => ({ iova, length });
const rows = (count: number, step: bigint): IovaRange[] =>
  Array.from({ length: count }, (_, index) => range(MIB + BigInt(index) * step, MIB));

/** Rows B: START. */
export function startCases(device: RawDevice): Cases {
  /** START by itself: what it has started is stopped again. */
  const once = (said: StartSaid = {}): Outcome => {
    const outcome = start(device, said);
    stop(device);
    return outcome;
  };
  const ranges = (...list: IovaRange[]) => once({ ranges: list });
  const pageSize = (size: bigint, iova = MIB, length = 0x10000n) =>
    once({ pageSize: size, ranges: [range(iova, length)] });
  return {
    B01: () => start(device),
    B02: () => start(device),
    B03: () => start(device, { ranges: [] }),
    B04: () => stop(device),
    B05: () => stop(device),
    B06: () => ranges(range(0x400000n, 0x10000n), range(MIB, 0x10000n), range(0x200000n, 0x10000n)),
    B07: () => ranges(range(MIB, 0x10000n), range(MIB + 0x10000n, 0x10000n)),
    B08: () => ranges(),
    B09: () => once({ ranges: [], pointer: 0 }),
    B10: () => once({ ranges: rows(256, 2n * MIB) }),
    B11: () => once({ ranges: rows(257, 2n * MIB) }),
    B12: () => once({ numRanges: 257, pointer: 0 }),
    B13: () => once({ numRanges: 0xffffffff }),
    B14: () => ranges(range(MIB + 0x800n, 0x10000n)),
    B15: () => ranges(range(MIB, 0x10800n)),
    B16: () => ranges(range(MIB, 0x10000n), range(0x200800n, 0x10000n)),
    B17: () => ranges(range(MIB, 0x10000n), range(MIB + 0xf000n, 0x10000n)),
    B18: () => ranges(range(MIB, 0x10000n), range(MIB, 0x10000n)),
    B19: () => ranges(range(MIB, 0x10000n), range(MIB + 0x4000n, 0x1000n)),
    B20: () => ranges(range(END - 0x1000n, 0x2000n)),
    B21: () => ranges(range(END - 0x10000n, 0x10000n)),
    B22: () => ranges(range(END - 0x11000n, 0x10000n)),
    B23: () => ranges(range(0n, END - 0x1000n)),
    B24: () => ranges(range(0n, 1n << 39n)),
    B25: () => ranges(range(END - 0x1000n, 0x1800n)),
    B26: () => ranges(range(MIB, 0n)),
    B27: () => ranges(range(0n, 0n)),
    B28: () => ranges(range(MIB, 0n), range(MIB, 0n)),
    B29: () => ranges(range(MIB, 0x10000n), range(MIB + 0x4000n, 0n)),
    B30: () => pageSize(0n),
    B31: () => pageSize(1n),
    B32: () => pageSize(2n),
    B33: () => pageSize(3n),
    B34: () => pageSize(5n),
    B35: () => pageSize(0x200n),
    B36: () => pageSize(0x800n),
    B37: () => pageSize(0x1800n),
    B38: () => pageSize(0x2000n),
    B39: () => pageSize(0x3000n),
    B40: () => pageSize(0x10000n),
    B41: () => pageSize(MIB),
    B42: () => pageSize(1n << 63n),
    B43: () => pageSize(END - 1n),
    B44: () => pageSize(0n, 0n),
    B45: () => pageSize(0n, 0n, 0n),
    B46: () => pageSize(1n, 0x1001n, 0x2001n),
    B47: () => pageSize(3n, 0x1001n, 0x2001n),
    B48: () => pageSize(2048n, 0x1800n, 0x800n),
    B49: () => pageSize(0x10000n, 0x101000n),
    B50: () => once({ pointer: 0 }),
    B51: () => once({ pointer: unmapped() }),
    B52: () => once({ numRanges: 2, pointer: rangesAtEnd([range(MIB, 0x10000n)], 1) }),
    B53: () => once({ numRanges: 2, pointer: rangesAtEnd([range(MIB + 0x800n, 0x10000n)], 1) }),
    B54: () => once({ reserved: 1 }),
    B55: () => once({ argsz: 31 }),
    B56: () => once({ argsz: 8 }),
    B57: () => once({ argsz: 7 }),
    B58: () => once({ argsz: 32 }),
    B59: () => once({ argsz: 4096 }),
    B60: () => once({ argsz: 31, flags: FEATURE_SET | (1 << 20) }),
    B61: () => {
      const outcome = start(device, { flags: FEATURE_PROBE | FEATURE_SET });
      assert.match(start(device), /^0 /, 'a probe has started the log');
      stop(device);
      return outcome;
    },
    B62: () => {
      const outcome = device.feature(readOnly(startMessage({})));
      assert.match(start(device), /^0 /, 'what failed has left the log started');
      stop(device);
      return outcome;
    },
    B63: () => {
      const outcome = start(device, { ranges: rows(256, MIB) });
      stop(device);
      return outcome;
    },
  };
}
