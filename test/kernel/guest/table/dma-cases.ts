import { writeSync } from 'node:fs';
import { VfioRequest } from '../../../../src/kernel/vfio-abi.js';
import { NativeBlock } from '../../../../src/native/index.js';
import type { IovaRange } from '../../../../src/uapi/index.js';
import { errnoOf } from '../errno-of.js';
import type { Cases } from './cases.js';
import { Pages } from './pages.js';
import type { Outcome, RawDevice } from './raw-device.js';
import { answer, ask, hex, type ReportSaid, report, start, startMessage, stop } from './requests.js';

const MIB = 0x100000;
const GIB = 2 ** 30;
const TRACKED: IovaRange[] = [
  { iova: 0x100000n, length: 0x40000n },
  { iova: 0x200000n, length: 0x20000n },
];
/** Flags of a command of vdlog: it really writes memory; it reads. */
const REALLY = 1;
const READ = 2;

/** Rows E: vdlog does DMA, and the kernel's own bitmap tells of it. */
export function dmaCases(device: RawDevice): Cases {
  const bitmap = new Pages(1);
  const large = new Pages(512);
  const memory = new Pages(16);

  const dma = (iova: number, length: number, flags = 0, fill = 0): Outcome =>
    command(device, iova, length, flags, fill);
  /** REPORT, and the first words of the bitmap. */
  const bits = (count: number, said: ReportSaid = {}, before = 0n, shift = 0): Outcome => {
    bitmap.bytes.fill(0);
    bitmap.view.setBigUint64(0, before, true);
    const outcome = report(device, { pointer: bitmap.address + shift, ...said });
    const words = Array.from({ length: count }, (_, word) => bitmap.view.getBigUint64(8 * word, true).toString(16));
    return `${outcome} (bitmap ${words.join(' ')})`;
  };
  const restart = (pageSize: bigint, ...ranges: IovaRange[]): Outcome => {
    stop(device);
    return start(device, { pageSize, ranges });
  };
  const after = (outcome: Outcome, wanted: Outcome): void => {
    if (outcome !== wanted) throw new Error(`the step before gave ${outcome}, not ${wanted}`);
  };
  /** A page is dirty before the request that fails. */
  const failing = (said: ReportSaid): Outcome => {
    after(dma(MIB, 1), '24');
    return report(device, said);
  };
  return {
    E01: () => dma(MIB, 1),
    E02: () => start(device, { ranges: TRACKED }),
    E03: () => bits(1),
    E04: () => dma(MIB, 1),
    E05: () => dma(MIB + 0x3fff, 2),
    E06: () => dma(MIB + 0x3f000, 0x2000),
    E07: () => dma(MIB + 0x9000, 1, READ),
    E08: () => dma(8 * MIB, 0x1000),
    E09: () => dma(2 * MIB + 0x1f000, 0x1000),
    E10: () => bits(2),
    E11: () => bits(2),
    E12: () => bits(2, { iova: 0x200000n, length: 0x20000n }, 0xf00n),
    E13: () => {
      after(dma(MIB, 1), '24');
      after(dma(MIB + 0x5000, 1), '24');
      return bits(1, { pageSize: 0x4000n });
    },
    E14: () => {
      after(dma(MIB, 1), '24');
      after(dma(MIB + 0x38000, 1), '24');
      return bits(1, { length: 0x20000n });
    },
    E15: () => bits(1),
    E16: () => {
      after(dma(MIB + 0x4000, 1), '24');
      return bits(1, { iova: 0x104000n, length: 0x1000n }, 0n, 3);
    },
    E17: () => {
      after(dma(MIB, 0x40000), '24');
      return bits(2);
    },
    E18: () => {
      after(dma(MIB + 0x4000, 1), '24');
      return bits(1, { iova: 0x103800n, length: 0x1800n });
    },
    E19: () => {
      after(dma(MIB, 1), '24');
      after(dma(2 * MIB, 1), '24');
      return bits(5, { length: 0x120000n });
    },
    E20: () => failing({ pageSize: 2048n }),
    E21: () => bits(1),
    E22: () => failing({ pointer: 0 }),
    E23: () => bits(1),
    E24: () => {
      after(dma(MIB, 1), '24');
      const outcome = ask(device, startMessage({}));
      return `${outcome} (ps ${hex(answer().getBigUint64(0, true))})`;
    },
    E25: () => bits(1),
    E26: () => restart(BigInt(MIB), { iova: 0x100000n, length: 0x100000n }),
    E27: () => {
      after(dma(MIB + 0x12345, 1), '24');
      return bits(4, { length: 0x100000n });
    },
    E28: () => {
      after(dma(MIB + 0x12345, 1), '24');
      return bits(1, { iova: 0x110000n, length: 0x1000n });
    },
    E29: () => bits(1, { length: 0x100000n, pageSize: 0x10000n }),
    E30: () => restart(512n, { iova: 0x100000n, length: 0x10000n }),
    E31: () => restart(4096n, { iova: BigInt(4 * GIB), length: BigInt(64 * GIB) }),
    E32: () => {
      after(dma(4 * GIB, 1), '24');
      after(dma(36 * GIB + 0x7000, 1), '24');
      after(dma(68 * GIB - 1, 1), '24');
      const said = { iova: BigInt(4 * GIB), length: BigInt(64 * GIB), pointer: large.address };
      return `${report(device, said)} (${summary(large.view)})`;
    },
    E33: () => {
      after(restart(4096n, { iova: 0n, length: 0x10000n }), '0 (ps 0x1000)');
      after(device.mapDma(0, memory.address, memory.bytes.length), '0');
      return dma(0x5000, 0x1000, REALLY, 0xab);
    },
    E34: () =>
      `0 (mem ${[0x4fff, 0x5000, 0x5fff].map(at => memory.bytes[at]!.toString(16).padStart(2, '0')).join(' ')})`,
    E35: () => bits(1, { iova: 0n, length: 0x10000n }),
    E36: () => dma(16 * MIB, 0x1000, REALLY, 1),
    E37: () => dma(0x5000, 0x1000, REALLY | READ),
    E38: () => attempt(() => writeSync(device.fd, new Uint8Array(23), 0, 23, 0)),
    E39: () => {
      const block = NativeBlock.from(new Uint8Array(new Uint32Array([16, 0, 0, 0]).buffer));
      const outcome = device.call(VfioRequest.DEVICE_GET_INFO, block);
      const [flags, regions, irqs] = [4, 8, 12].map(at => block.view.getUint32(at, true));
      return `${outcome} (flags ${hex(flags!)} regions ${regions} irqs ${irqs})`;
    },
    E40: () => regionInfo(device, 0),
    E41: () => {
      stop(device);
      return regionInfo(device, 1).replace(/ .*/, '');
    },
  };
}

/** Has vdlog do DMA. */
export function command(device: RawDevice, iova: number, length: number, flags: number, fill: number): Outcome {
  const bytes = new Uint8Array(24);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(iova), true);
  view.setBigUint64(8, BigInt(length), true);
  view.setUint32(16, flags, true);
  view.setUint32(20, fill, true);
  return attempt(() => writeSync(device.fd, bytes, 0, bytes.length, 0));
}

function attempt(write: () => number): Outcome {
  try {
    return `${write()}`;
  } catch (error) {
    return errnoOf(error);
  }
}

/** How many bits are set in a large bitmap, and its first, last and middle words. */
function summary(view: DataView): string {
  const words = new BigUint64Array(view.buffer);
  const bitsOf = (word: bigint) => word.toString(2).replaceAll('0', '').length;
  const bits = words.reduce((sum, word) => (word === 0n ? sum : sum + bitsOf(word)), 0);
  const [first, last, middle] = [words[0]!, words.at(-1)!, words[words.length / 2]!];
  return `bits ${bits} first ${first.toString(16)} last ${last.toString(16)} mid ${middle.toString(16)}`;
}

function regionInfo(device: RawDevice, index: number): Outcome {
  const block = NativeBlock.from(new Uint8Array(new Uint32Array([32, 0, index, 0, 0, 0, 0, 0]).buffer));
  const outcome = device.call(VfioRequest.DEVICE_GET_REGION_INFO, block);
  const flags = block.view.getUint32(4, true);
  const [size, offset] = [16, 24].map(at => block.view.getBigUint64(at, true));
  return `${outcome} (flags ${hex(flags)} size ${hex(size!)} offset ${hex(offset!)})`;
}
