import { FEATURE_GET, FEATURE_PROBE, FEATURE_SET } from '../../../../src/uapi/index.js';
import type { Cases } from './cases.js';
import { PAGE, Pages, readOnly, unmapped, untouchable } from './pages.js';
import type { Outcome, RawDevice } from './raw-device.js';
import { type ReportSaid, report, reportMessage, start, stop } from './requests.js';

const END = 1n << 64n;
const KERNEL_ADDRESS = 0xffff888000000000n;
const NO_ADDRESS = 0x8000000000000000n;

/** Rows C: REPORT. What is dirty does not matter in them. */
export function reportCases(device: RawDevice): Cases {
  const ask = (said: ReportSaid = {}): Outcome => report(device, said);
  const pageSize = (size: bigint) => ask({ pageSize: size });
  return {
    C01: () => {
      stop(device);
      return ask();
    },
    C02: () => {
      start(device);
      return ask();
    },
    C03: () => pageSize(0n),
    C04: () => pageSize(1n),
    C05: () => pageSize(3n),
    C06: () => pageSize(0x200n),
    C07: () => pageSize(0x800n),
    C08: () => pageSize(0xfffn),
    C09: () => pageSize(0x1001n),
    C10: () => pageSize(0x1800n),
    C11: () => pageSize(0x2000n),
    C12: () => pageSize(0x3000n),
    C13: () => pageSize(0x10000n),
    C14: () => pageSize(0x200000n),
    C15: () => pageSize(0x10000000000n),
    C16: () => pageSize(1n << 63n),
    C17: () => pageSize(END - 1n),
    C18: () => ask({ iova: 0x100800n }),
    C19: () => ask({ length: 0x1800n }),
    C20: () => ask({ length: 1n }),
    C21: () => ask({ length: 0n }),
    C22: () => ask({ iova: 0n, length: 0n }),
    C23: () => ask({ length: 0n, pointer: 0 }),
    C24: () => ask({ iova: END - 0x1000n, length: 0x2000n }),
    C25: () => ask({ iova: END - 0x1000n, length: 0x1000n }),
    C26: () => ask({ iova: END - 0x2000n, length: 0x1000n }),
    C27: () => ask({ iova: END - 0x1000n, length: 0x2000n, pageSize: 2048n }),
    C28: () => ask({ iova: 0x10000000n }),
    C29: () => ask({ iova: 0n, length: 0x1000000n }),
    C30: () => ask({ iova: 0x104000n, length: 0x2000n }),
    C31: () => ask({ pointer: 0 }),
    C32: () => ask({ pointer: unmapped() }),
    C33: () => ask({ pointer: readOnly(new Uint8Array(8)) }),
    C34: () => ask({ pointer: untouchable() }),
    C35: () => ask({ pointer: KERNEL_ADDRESS }),
    C36: () => ask({ pointer: NO_ADDRESS }),
    C37: () => ask({ pointer: new Pages(1).address + 1 }),
    C38: () => ask({ pointer: new Pages(1).address + 4 }),
    C39: () => ask({ length: 0x10000000n, pointer: new Pages(2).beforeEnd(PAGE) }),
    C40: () => ask({ pointer: new Pages(1).beforeEnd(4) }),
    C41: () => ask({ length: 0x8000n, pointer: new Pages(1).beforeEnd(1) }),
    C42: () => ask({ argsz: 39 }),
    C43: () => ask({ argsz: 8 }),
    C44: () => ask({ argsz: 40 }),
    C45: () => ask({ argsz: 100 }),
    C46: () => ask({ flags: FEATURE_SET }),
    C47: () => ask({ flags: FEATURE_GET | FEATURE_SET }),
    C48: () => ask({ flags: FEATURE_PROBE | FEATURE_GET, pageSize: 0n }),
    C49: () => device.feature(readOnly(reportMessage({}))),
    C50: () => stop(device, 7),
    C51: () => stop(device, 4096),
    C52: () => ask(),
    C53: () => ask({ pageSize: 2048n }),
    C54: () => ask({ pointer: 0 }),
  };
}
