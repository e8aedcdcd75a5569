import { viewOf } from '../../uapi/index.js';
import { type Address, readAddress } from './address.js';
import {
  CAPABILITIES,
  COMPLETION_ENTRY_SIZE,
  ControllerConfiguration,
  ControllerStatus,
  MAX_PAGE_SIZE_EXPONENT,
  NVME_VERSION,
  NvmeRegister,
  REGISTERS_SIZE,
  SUBMISSION_ENTRY_SIZE,
} from './registers.js';

const ADMIN_QUEUE_MASK = 0x0fff_0fff;
/** The low bits of an admin queue's address read 0. */
const ADDRESS_LOW_MASK = 0xffff_f000;

/** The registers before the doorbells, with their reserved bits. Writing has no other effect than what is read afterwards. */
export class NvmeRegisterBlock {
  readonly bytes = new Uint8Array(REGISTERS_SIZE);
  readonly #view = viewOf(this.bytes);

  constructor() {
    this.reset();
  }

  /** As at power-on. */
  reset(): void {
    this.bytes.fill(0);
    this.#view.setBigUint64(NvmeRegister.CAP, CAPABILITIES, true);
    this.#view.setUint32(NvmeRegister.VS, NVME_VERSION, true);
  }

  #u32(register: number): number {
    return this.#view.getUint32(register, true);
  }

  #setU32(register: number, value: number): void {
    this.#view.setUint32(register, value, true);
  }

  /** Writes AQA or a half of ASQ or ACQ; without effect while the controller is enabled. */
  writeAdminQueue(register: number, value: number): void {
    if (this.isEnabled) return;
    if (register === NvmeRegister.AQA) this.#setU32(register, value & ADMIN_QUEUE_MASK);
    else this.#setU32(register, register % 8 === 0 ? value & ADDRESS_LOW_MASK : value);
  }

  /** The interrupt vectors that are masked, a bit each: INTMS and INTMC read the same. */
  get interruptMask(): number {
    return this.#u32(NvmeRegister.INTMS);
  }

  set interruptMask(mask: number) {
    this.#setU32(NvmeRegister.INTMS, mask);
    this.#setU32(NvmeRegister.INTMC, mask);
  }

  get configuration(): number {
    return this.#u32(NvmeRegister.CC);
  }

  /** What must not change while the controller is enabled, and stays so, does not. */
  set configuration(value: number) {
    const { ENABLE, WRITABLE, WRITABLE_ENABLED } = ControllerConfiguration;
    const writable = this.isEnabled && (value & ENABLE) !== 0 ? WRITABLE_ENABLED : WRITABLE;
    this.#setU32(NvmeRegister.CC, (this.configuration & WRITABLE & ~writable) | (value & writable));
  }

  get status(): number {
    return this.#u32(NvmeRegister.CSTS);
  }

  set status(value: number) {
    this.#setU32(NvmeRegister.CSTS, value);
  }

  get isEnabled(): boolean {
    return (this.configuration & ControllerConfiguration.ENABLE) !== 0;
  }

  /** Whether commands are taken. */
  get isReady(): boolean {
    return (this.status & (ControllerStatus.READY | ControllerStatus.FATAL)) === ControllerStatus.READY;
  }

  /** Whether there are queues: from enabling to the end of disabling. */
  get hasQueues(): boolean {
    return (this.status & ControllerStatus.READY) !== 0;
  }

  /** Whether a shutdown has begun, and may be over. */
  get isShutDown(): boolean {
    return (this.status & ControllerStatus.SHUTDOWN_MASK) !== 0;
  }

  /** Whether a shutdown was asked for. */
  get isShutdownAsked(): boolean {
    return (this.configuration & ControllerConfiguration.SHUTDOWN) !== 0;
  }

  /** Memory page size, bytes. */
  get pageSize(): number {
    return 4096 * 2 ** this.#pageSizeExponent;
  }

  get #pageSizeExponent(): number {
    return (this.configuration >>> ControllerConfiguration.PAGE_SIZE_SHIFT) & ControllerConfiguration.PAGE_SIZE_MASK;
  }

  /** Whether I/O queues have entries of the sizes that there are. */
  get hasEntrySizes(): boolean {
    const { SUBMISSION_ENTRY_SHIFT, COMPLETION_ENTRY_SHIFT, ENTRY_MASK } = ControllerConfiguration;
    const sizeAt = (shift: number) => 2 ** ((this.configuration >>> shift) & ENTRY_MASK);
    return (
      sizeAt(SUBMISSION_ENTRY_SHIFT) === SUBMISSION_ENTRY_SIZE &&
      sizeAt(COMPLETION_ENTRY_SHIFT) === COMPLETION_ENTRY_SIZE
    );
  }

  /** Entries of the admin submission queue. */
  get adminSubmissionSize(): number {
    return (this.#u32(NvmeRegister.AQA) & 0xfff) + 1;
  }

  /** Entries of the admin completion queue. */
  get adminCompletionSize(): number {
    return (this.#u32(NvmeRegister.AQA) >>> 16) + 1;
  }

  get adminSubmissionBase(): Address {
    return readAddress(this.#view, NvmeRegister.ASQ);
  }

  get adminCompletionBase(): Address {
    return readAddress(this.#view, NvmeRegister.ACQ);
  }

  /** Whether the controller can be enabled as it is configured: command set, arbitration, page size, admin queues. */
  get canEnable(): boolean {
    const { COMMAND_SET, ARBITRATION } = ControllerConfiguration;
    return (
      (this.configuration & (COMMAND_SET | ARBITRATION)) === 0 &&
      this.#pageSizeExponent <= MAX_PAGE_SIZE_EXPONENT &&
      this.adminSubmissionSize >= 2 &&
      this.adminCompletionSize >= 2 &&
      this.#isPageAligned(NvmeRegister.ASQ) &&
      this.#isPageAligned(NvmeRegister.ACQ)
    );
  }

  #isPageAligned(register: number): boolean {
    return this.#u32(register) % this.pageSize === 0;
  }

  /**
   * Takes the bytes of another controller's registers.
   * @returns false, with nothing changed, for what no stopped controller has
   */
  load(bytes: Uint8Array): boolean {
    const other = new NvmeRegisterBlock();
    const view = viewOf(bytes);
    const { INTMS, INTMC, CC, CSTS, AQA, ASQ, ACQ } = NvmeRegister;
    for (const register of [AQA, ASQ, ASQ + 4, ACQ, ACQ + 4]) {
      other.writeAdminQueue(register, view.getUint32(register, true));
    }
    other.interruptMask = view.getUint32(INTMS, true);
    other.configuration = view.getUint32(CC, true);
    other.status = view.getUint32(CSTS, true);
    const isSame = view.getUint32(INTMC, true) === other.interruptMask && Buffer.compare(other.bytes, bytes) === 0;
    if (!isSame || !other.#isAtRest) return false;
    this.bytes.set(bytes);
    return true;
  }

  /** Whether status and configuration fit together while nothing is under way. */
  get #isAtRest(): boolean {
    const { READY, FATAL, SHUTDOWN_COMPLETE } = ControllerStatus;
    const { status } = this;
    if ((status & ~(READY | FATAL | SHUTDOWN_COMPLETE)) !== 0) return false;
    if ((status & READY) !== 0) return this.isEnabled && this.canEnable;
    return this.isEnabled === ((status & FATAL) !== 0);
  }
}
