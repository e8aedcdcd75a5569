/** Commands of the protocol (vfio-user 0.9.x, "Commands"). */
export const Command = {
  VERSION: 1,
  DMA_MAP: 2,
  DMA_UNMAP: 3,
  DEVICE_GET_INFO: 4,
  DEVICE_GET_REGION_INFO: 5,
  DEVICE_GET_REGION_IO_FDS: 6,
  DEVICE_GET_IRQ_INFO: 7,
  DEVICE_SET_IRQS: 8,
  REGION_READ: 9,
  REGION_WRITE: 10,
  DMA_READ: 11,
  DMA_WRITE: 12,
  DEVICE_RESET: 13,
  REGION_WRITE_MULTI: 15,
  DEVICE_FEATURE: 16,
  MIG_DATA_READ: 17,
  MIG_DATA_WRITE: 18,
} as const;

/** Bits of a header's flags. The low four are the message's type. */
export const HeaderFlag = { TYPE_MASK: 0xf, NO_REPLY: 0x10, ERROR: 0x20 } as const;

/** A message's type, the low four bits of a header's flags. */
export const MessageType = { COMMAND: 0, REPLY: 1 } as const;

/** Flags of DMA_MAP. The two last are an extension that some clients send; they only say how the region may be reached. */
export const DmaMapFlag = { READ: 1, WRITE: 2, MMAP: 4, FILE_IO: 8 } as const;

/** Flags of DMA_UNMAP. */
export const DmaUnmapFlag = { GET_DIRTY_BITMAP: 1, ALL: 2 } as const;

/** Page size of DMA_MAP and DMA_UNMAP, bytes: the one bit of `pgsizes` that is spoken here. */
export const DMA_PAGE_SIZE = 4096n;

/** The protocol's version that is spoken here. An answer's minor is at most the one proposed. */
export const PROTOCOL_VERSION = { major: 0, minor: 1 } as const;

/** A payload of no bytes. */
export const NO_BYTES: Uint8Array = new Uint8Array(0);

const names = new Map<number, string>(Object.entries(Command).map(([name, number]) => [number, name]));

/** The name of a command, as error messages use it: `'REGION_READ'`, `'command 99'`. */
export function commandName(command: number): string {
  return names.get(command) ?? `command ${command}`;
}
