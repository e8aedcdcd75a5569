import { viewOf } from '../../uapi/index.js';
import type { ErrorLog } from './error-log.js';
import { COMPOSITE_TEMPERATURE, type Features } from './features.js';
import { FIRMWARE_REVISION } from './identify.js';
import { AdminOpcode, NvmOpcode } from './opcodes.js';
import type { NvmeStatistics } from './statistics.js';

/** Log page identifiers (NVMe 1.4, section 5.14.1). */
export const LogPage = {
  ERROR_INFORMATION: 0x01,
  HEALTH: 0x02,
  FIRMWARE_SLOT: 0x03,
  COMMAND_EFFECTS: 0x05,
} as const;

/** Bytes of a data unit: SMART counts thousands of 512-byte blocks. */
const DATA_UNIT = 512_000;
const COMMAND_SUPPORTED = 0x1;
const CHANGES_DATA = 0x2;
const CHANGING_COMMANDS: ReadonlySet<number> = new Set([
  NvmOpcode.WRITE,
  NvmOpcode.WRITE_ZEROES,
  NvmOpcode.DATASET_MANAGEMENT,
]);

/** The log pages of a controller. */
export class LogPages {
  readonly #errors: ErrorLog;
  readonly #features: Features;
  readonly #statistics: NvmeStatistics;

  constructor(errors: ErrorLog, features: Features, statistics: NvmeStatistics) {
    this.#errors = errors;
    this.#features = features;
    this.#statistics = statistics;
  }

  /** A whole log page; `undefined` for one that there is not. */
  page(id: number): Uint8Array | undefined {
    switch (id) {
      case LogPage.ERROR_INFORMATION:
        return this.#errors.page();
      case LogPage.HEALTH:
        return this.#health();
      case LogPage.FIRMWARE_SLOT:
        return firmwareSlot();
      case LogPage.COMMAND_EFFECTS:
        return commandEffects();
      default:
        return undefined;
    }
  }

  /** SMART / health information (section 5.14.1.2). There are no wear and no clock here, so that what they would tell is 0. */
  #health(): Uint8Array {
    const page = new Uint8Array(512);
    const view = viewOf(page);
    const statistics = this.#statistics;
    page[0] = this.#features.criticalWarning;
    view.setUint16(1, COMPOSITE_TEMPERATURE, true);
    // Available spare and the threshold that it must not fall below, percent.
    page[3] = 100;
    page[4] = 10;
    setCount(view, 32, Math.ceil(statistics.bytesRead / DATA_UNIT));
    setCount(view, 48, Math.ceil(statistics.bytesWritten / DATA_UNIT));
    setCount(view, 64, statistics.readCommands);
    setCount(view, 80, statistics.writeCommands);
    setCount(view, 112, 1);
    setCount(view, 160, statistics.mediaErrors);
    setCount(view, 176, this.#errors.count);
    return page;
  }
}

/** A 16-byte counter. */
function setCount(view: DataView, offset: number, count: number): void {
  view.setBigUint64(offset, BigInt(count), true);
}

/** Firmware slot information (section 5.14.1.3): slot 1 is active, and there is no other. */
function firmwareSlot(): Uint8Array {
  const page = new Uint8Array(512);
  page[0] = 1;
  page.set(new TextEncoder().encode(FIRMWARE_REVISION.padEnd(8)), 8);
  return page;
}

/** Commands supported and effects (section 5.14.1.5): a dword for each admin opcode, then one for each I/O opcode. */
function commandEffects(): Uint8Array {
  const page = new Uint8Array(4096);
  const view = viewOf(page);
  for (const opcode of Object.values(AdminOpcode)) view.setUint32(4 * opcode, COMMAND_SUPPORTED, true);
  for (const opcode of Object.values(NvmOpcode)) {
    const effects = CHANGING_COMMANDS.has(opcode) ? COMMAND_SUPPORTED | CHANGES_DATA : COMMAND_SUPPORTED;
    view.setUint32(1024 + 4 * opcode, effects, true);
  }
  return page;
}
