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

/**
 * Commands of this project's own, far away from the protocol's. They exist on a connection only when both sides have named the capability
 * `dmalog` in VERSION; `extension-messages.ts` has their layouts.
 */
export const ExtensionCommand = {
  BITMAP_ATTACH: 0xd001,
  BITMAP_DETACH: 0xd002,
  REPORT_SHARED: 0xd003,
  STATISTICS: 0xd004,
} as const;

/** The version of the own commands that is spoken here: the number in the capability `dmalog`. */
export const EXTENSION_VERSION = 1;

/** Bits of a header's flags. The low four are the message's type. */
export const HeaderFlag = { TYPE_MASK: 0xf, NO_REPLY: 0x10, ERROR: 0x20 } as const;

/** A message's type, the low four bits of a header's flags. */
export const MessageType = { COMMAND: 0, REPLY: 1 } as const;

/** Flags of DMA_MAP. The two last are an extension that some clients send; they only say how the region may be reached. */
export const DmaMapFlag = { READ: 1, WRITE: 2, MMAP: 4, FILE_IO: 8 } as const;

/** Flags of DMA_UNMAP. */
export const DmaUnmapFlag = { GET_DIRTY_BITMAP: 1, ALL: 2 } as const;

/** How a descriptor of GET_REGION_IO_FDS works: `type` of an entry (vfio-user 0.9.x, "VFIO_USER_DEVICE_GET_REGION_IO_FDS"). */
export const IoFdType = { IOEVENTFD: 0, IOREGIONFD: 1, IOEVENTFD_SHADOW: 2 } as const;

/** Flags of an ioeventfd, those of Linux's KVM_IOEVENTFD. */
export const IoEventFdFlag = { DATAMATCH: 1, PIO: 2 } as const;

/** Page size of DMA_MAP and DMA_UNMAP, bytes: the one bit of `pgsizes` that is spoken here. */
export const DMA_PAGE_SIZE = 4096n;

/** The protocol's version that is spoken here. An answer's minor is at most the one proposed. */
export const PROTOCOL_VERSION = { major: 0, minor: 1 } as const;

/** A payload of no bytes. */
export const NO_BYTES: Uint8Array = new Uint8Array(0);

const names = new Map<number, string>(
  Object.entries({ ...Command, ...ExtensionCommand }).map(([name, number]) => [number, name]),
);

/** The name of a command, as error messages use it: `'REGION_READ'`, `'command 99'`. */
export function commandName(command: number): string {
  return names.get(command) ?? `command ${command}`;
}
