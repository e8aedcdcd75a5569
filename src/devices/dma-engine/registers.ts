/*
 * The DMA engine's register interface, version 1: BAR 0, 4 KiB, little-endian.
 *
 * Reads of any size and alignment work. Writes take effect as aligned words of 4 bytes (an 8-byte write is two, the lower first); a write of
 * another size or alignment has no effect, as on a bus that drops it. What is not in the table reads 0. Access: R read only, RW read and write,
 * W1C write ones to clear; "C" is write-protected while a command runs, "A" while the workload is armed.
 *
 *  offset size access  register
 *  0x000   4   R       MAGIC                "DMAE"
 *  0x004   4   R       VERSION              1
 *  0x008   4   W1C     INTERRUPT_STATUS     bit 0 a command ended (vector 0), bit 1 first bad page (vector 1); INTx while any is set
 *
 *  0x010   8   RW C    SOURCE               COPY: IOVA to read; SCATTER: IOVA of the list
 *  0x018   8   RW C    DESTINATION          COPY, FILL: IOVA to write
 *  0x020   8   RW C    LENGTH               COPY, FILL: bytes; SCATTER: entries
 *  0x028   8   RW C    PATTERN              FILL: 8 bytes, repeated from DESTINATION on
 *  0x030   4   RW C    COMMAND              writing starts it: 1 COPY, 2 FILL, 3 SCATTER, 4 VERIFY
 *  0x034   4   R       COMMAND_STATUS       bit 31 busy; bits 0-15 the errno that the last command ended with, 0 success
 *  0x038   8   R       COMMAND_DONE         progress: bytes (COPY, FILL), entries (SCATTER), pages (VERIFY)
 *  0x040   4   R       COMPLETIONS          commands ended so far, well or not
 *  0x044   4   R       REFUSED_COMMANDS     writes to COMMAND while one was running; they do nothing else
 *
 *  0x080   4   RW      WORKLOAD_CONTROL     0 disarmed; 2 (ARM) armed, at rest; 3 (ARM | RUN) writes pages
 *  0x084   4   R       WORKLOAD_STATUS      0, or the errno why it could not be armed or why it stopped
 *  0x088   4   RW A    WORKLOAD_KIND        0 sequential, 1 uniform random, 2 hot set (Zipf), 3 rings
 *  0x08c   4   RW A    WORKLOAD_PAGE_SIZE   bytes of one write, power of two, 64 to 65536; 4096
 *  0x090   8   RW A    WORKLOAD_BASE        IOVA, 8-byte aligned
 *  0x098   8   RW A    WORKLOAD_LENGTH      bytes, a multiple of the page size; at most 2^26 pages; base + length at most 2^53
 *  0x0a0   4   RW      WORKLOAD_RATE        pages per second; 0 none. May change at any time
 *  0x0a4   4   RW A    WORKLOAD_SEED        of the random numbers, and the run's id in every page
 *  0x0a8   4   RW A    WORKLOAD_EXPONENT    hot set: Zipf's exponent, 16.16 fixed point, 0 to 8; 1.0
 *  0x0ac   4   RW A    WORKLOAD_RINGS       rings: how many, 1 to 256; 4
 *  0x0b0   4   RW A    WORKLOAD_BURST       rings: most buffers written in one burst, 1 to 65536; 32
 *  0x0b4   4   RW      CHECK_INTERVAL       every n-th write first checks what is in the page; 0 never; 1. May change at any time
 *  0x0c0   8   R       PAGES_WRITTEN        since armed
 *  0x0c8   8   R       PAGES_CHECKED        since armed
 *  0x0d0   8   R       CHECK_ERRORS         since armed
 *  0x0d8   4   R       FIRST_BAD_PAGE       index in the workload's area; 0xffffffff none
 *  0x0dc   4   R       FIRST_BAD_FAULT      what was wrong with it: PageFault
 *  0x0e0   4   R       FIRST_BAD_EXPECTED   the generation that should have been there
 *  0x0e4   4   R       FIRST_BAD_FOUND      the generation that its header names
 *
 *  0x100   8   R       VERIFY_CHECKED       pages that the last VERIFY compared
 *  0x108   8   R       VERIFY_BAD           of these, wrong ones
 *  0x110   8   R       VERIFY_STALE         of the wrong ones, those that hold an older generation or none: what a lost dirty page looks like
 *  0x118   4   R       VERIFY_FIRST_BAD     index of the first wrong one; 0xffffffff none
 *
 * SCATTER's list: entries of 16 bytes { u64 iova, u32 length, u32 value }: `length` bytes (at most 65536) at `iova` are written with the
 * four bytes of `value`, repeated from `iova` on.
 */

export { NO_PAGE, PageFault, WORKLOAD_MAX_PAGES, WorkloadKind } from '../workload/index.js';

/**
 * PCI vendor id. Not registered with the PCI-SIG, like the device id: 0x1234 is what emulators use for devices that exist only in software
 * (QEMU's `edu` is 1234:11e8).
 */
export const DMA_ENGINE_VENDOR_ID = 0x1234;
/** PCI device id; not registered. */
export const DMA_ENGINE_DEVICE_ID = 0xd3a0;
/** PCI class: 0xff, a device that fits no class. */
export const DMA_ENGINE_CLASS_CODE = 0xff0000;
/** The BAR of the registers. */
export const DMA_ENGINE_BAR = 0;
/** Size of that BAR in bytes. */
export const DMA_ENGINE_BAR_SIZE = 4096;
/** Number of MSI-X vectors; the table is in {@link DMA_ENGINE_MSIX_BAR}. */
export const DMA_ENGINE_VECTORS = 2;
/** The BAR of the MSI-X table. */
export const DMA_ENGINE_MSIX_BAR = 4;

/** What MAGIC reads: "DMAE". */
export const DMA_ENGINE_MAGIC = 0x4541_4d44;
/** What VERSION reads. */
export const DMA_ENGINE_VERSION = 1;

/** Offsets of the registers; the table above says what each is. */
export const DmaEngineRegister = {
  MAGIC: 0x000,
  VERSION: 0x004,
  INTERRUPT_STATUS: 0x008,
  SOURCE: 0x010,
  DESTINATION: 0x018,
  LENGTH: 0x020,
  PATTERN: 0x028,
  COMMAND: 0x030,
  COMMAND_STATUS: 0x034,
  COMMAND_DONE: 0x038,
  COMPLETIONS: 0x040,
  REFUSED_COMMANDS: 0x044,
  WORKLOAD_CONTROL: 0x080,
  WORKLOAD_STATUS: 0x084,
  WORKLOAD_KIND: 0x088,
  WORKLOAD_PAGE_SIZE: 0x08c,
  WORKLOAD_BASE: 0x090,
  WORKLOAD_LENGTH: 0x098,
  WORKLOAD_RATE: 0x0a0,
  WORKLOAD_SEED: 0x0a4,
  WORKLOAD_EXPONENT: 0x0a8,
  WORKLOAD_RINGS: 0x0ac,
  WORKLOAD_BURST: 0x0b0,
  CHECK_INTERVAL: 0x0b4,
  PAGES_WRITTEN: 0x0c0,
  PAGES_CHECKED: 0x0c8,
  CHECK_ERRORS: 0x0d0,
  FIRST_BAD_PAGE: 0x0d8,
  FIRST_BAD_FAULT: 0x0dc,
  FIRST_BAD_EXPECTED: 0x0e0,
  FIRST_BAD_FOUND: 0x0e4,
  VERIFY_CHECKED: 0x100,
  VERIFY_BAD: 0x108,
  VERIFY_STALE: 0x110,
  VERIFY_FIRST_BAD: 0x118,
} as const;

/** INTERRUPT_STATUS bits; bit n goes with MSI-X vector n. */
export const DmaEngineInterrupt = { COMMAND: 1, CHECK_ERROR: 2 } as const;

/** Values of COMMAND. */
export const DmaEngineCommand = { COPY: 1, FILL: 2, SCATTER: 3, VERIFY: 4 } as const;

/** COMMAND_STATUS: a command runs. */
export const COMMAND_BUSY = 0x8000_0000;
/** COMMAND_STATUS: the errno of the last command. */
export const COMMAND_ERRNO_MASK = 0xffff;

/** WORKLOAD_CONTROL bits. RUN goes only with ARM. */
export const WorkloadControl = { RUN: 1, ARM: 2 } as const;

/** Bytes that a command moves between two looks at the rest of the world. */
export const COMMAND_CHUNK = 65536;
/** Size of an entry of SCATTER's list, bytes. */
export const SCATTER_ENTRY_SIZE = 16;
/** Most bytes that one entry of SCATTER's list writes. */
export const SCATTER_MAX_LENGTH = COMMAND_CHUNK;

/** Smallest WORKLOAD_PAGE_SIZE, bytes. */
export const WORKLOAD_MIN_PAGE_SIZE = 64;
/** Largest WORKLOAD_PAGE_SIZE, bytes. */
export const WORKLOAD_MAX_PAGE_SIZE = 65536;
/** WORKLOAD_EXPONENT that means 1.0. */
export const EXPONENT_ONE = 0x1_0000;
/** Largest WORKLOAD_EXPONENT. */
export const EXPONENT_MAX = 8 * EXPONENT_ONE;
/** Largest WORKLOAD_RINGS. */
export const RINGS_MAX = 256;
/** Largest WORKLOAD_BURST. */
export const BURST_MAX = 65536;
