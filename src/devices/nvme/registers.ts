/*
 * The controller's registers (NVMe 1.4, section 3.1): BAR 0, little-endian.
 *
 *  offset size access  register
 *  0x00    8   R       CAP     what the controller can do
 *  0x08    4   R       VS      version: 1.4
 *  0x0c    4   W1S     INTMS   interrupt vectors masked (pin interrupts only)
 *  0x10    4   W1C     INTMC   the same, to unmask
 *  0x14    4   RW      CC      enable, page size, queue entry sizes, shutdown
 *  0x1c    4   R       CSTS    ready, fatal, shutdown's progress
 *  0x24    4   RW      AQA     entries of the admin queues
 *  0x28    8   RW      ASQ     address of the admin submission queue
 *  0x30    8   RW      ACQ     address of the admin completion queue
 *  0x1000  4   W       doorbells: submission queue 0's tail, completion queue 0's head, submission queue 1's tail, …
 *
 * Everything else reads 0: no subsystem reset, boot partition, controller memory buffer or persistent memory region.
 */

/** Offsets of the registers. */
export const NvmeRegister = {
  CAP: 0x00,
  VS: 0x08,
  INTMS: 0x0c,
  INTMC: 0x10,
  CC: 0x14,
  CSTS: 0x1c,
  AQA: 0x24,
  ASQ: 0x28,
  ACQ: 0x30,
} as const;

/** Where the doorbells begin. */
export const NVME_DOORBELLS = 0x1000;

/** What VS reads, and identify says: 1.4.0. */
export const NVME_VERSION = 0x0001_0400;

/** Bytes that the registers before the doorbells take. */
export const REGISTERS_SIZE = 0x40;

/** CC bits and fields (section 3.1.5). */
export const ControllerConfiguration = {
  ENABLE: 0x1,
  /** Bits 6:4: the command set; 0 is NVM. */
  COMMAND_SET: 0x70,
  /** Bits 10:7: the memory page size is 2^(12 + n). */
  PAGE_SIZE_SHIFT: 7,
  PAGE_SIZE_MASK: 0xf,
  /** Bits 13:11: arbitration; 0 is round robin. */
  ARBITRATION: 0x3800,
  /** Bits 15:14: shutdown notification. */
  SHUTDOWN: 0xc000,
  /** Bits 19:16: a submission queue entry has 2^n bytes. */
  SUBMISSION_ENTRY_SHIFT: 16,
  /** Bits 23:20: a completion queue entry has 2^n bytes. */
  COMPLETION_ENTRY_SHIFT: 20,
  ENTRY_MASK: 0xf,
  /** All bits that are not reserved. */
  WRITABLE: 0x00ff_fff1,
  /** Of these, the ones that may change while the controller is enabled: not command set, page size and arbitration. */
  WRITABLE_ENABLED: 0x00ff_c001,
} as const;

/** CSTS bits (section 3.1.6). */
export const ControllerStatus = {
  READY: 0x1,
  FATAL: 0x2,
  SHUTDOWN_MASK: 0xc,
  SHUTDOWN_OCCURRING: 0x4,
  SHUTDOWN_COMPLETE: 0x8,
} as const;

/** A submission queue entry has 2^6 bytes. */
export const SUBMISSION_ENTRY_SIZE = 64;
/** A completion queue entry has 2^4 bytes. */
export const COMPLETION_ENTRY_SIZE = 16;
/** Most entries of an I/O queue. CAP.MQES says one less. */
export const MAX_QUEUE_ENTRIES = 1024;
/** Most entries of an admin queue: AQA has 12 bits for one less. */
export const MAX_ADMIN_QUEUE_ENTRIES = 4096;
/** Largest CC.MPS, smallest 0: memory pages of 4 to 64 KiB. */
export const MAX_PAGE_SIZE_EXPONENT = 4;
/** Most bytes of one command's data, as a power of two of the smallest memory page (identify's MDTS): 512 KiB. */
export const MAX_TRANSFER_EXPONENT = 7;
/** The same in bytes. */
export const MAX_TRANSFER_SIZE = 4096 << MAX_TRANSFER_EXPONENT;

/** Longest that enabling, disabling and shutting down may take, in units of 500 ms (CAP.TO). */
const READY_TIMEOUT = 40;

/** CAP (section 3.1.1): MQES, CQR, TO, NVM command set, MPSMAX; doorbell stride and MPSMIN 0. */
export const CAPABILITIES =
  BigInt(MAX_QUEUE_ENTRIES - 1) |
  (1n << 16n) |
  (BigInt(READY_TIMEOUT) << 24n) |
  (1n << 37n) |
  (BigInt(MAX_PAGE_SIZE_EXPONENT) << 52n);
