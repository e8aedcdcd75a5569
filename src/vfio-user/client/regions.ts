import type { RegionArea } from '../../device/index.js';
import { PeerMapping } from '../../memory/index.js';
import type { Mapping, OwnedFd } from '../../native/index.js';
import { RegionFlag, understand, VfioError } from '../../uapi/index.js';
import { decodeRegionInfo, encodeRegionInfoRequest } from '../wire/device-messages.js';
import { closeFds } from '../wire/frame-parser.js';
import { decodeRegionIoFds, encodeRegionIoFdsRequest, type IoFdEntry } from '../wire/region-io-fds-messages.js';

/*
 * What a server gives of its regions as descriptors: files to map, and eventfds to signal. Replies whose size is not known before are asked
 * for with room for the usual ones, and once more with the room that the server names.
 */

/** A region's file: what GET_REGION_INFO gives of a region that may be mapped. */
export interface RegionFile {
  /** The caller's, to be closed. */
  readonly file: OwnedFd;
  /** Where the region's byte 0 lies in the file, bytes. */
  readonly offset: bigint;
  /** What of the region may be mapped. */
  readonly areas: readonly RegionArea[];
  /** RegionFlag bits. */
  readonly flags: number;
}

/** An area of a region, mapped here: what is written there reaches the device without a message. */
export interface MappedArea extends RegionArea {
  /** Offset 0 is the area's first byte. */
  readonly mapping: Mapping;
  /** Ends the mapping. A second call does nothing. */
  close(): void;
}

/** An interval of a region where an access is told by a descriptor. */
export interface RegionIoFd extends IoFdEntry {
  /** The caller's, to be closed; several entries may have the same. */
  readonly file: OwnedFd;
  /** IOEVENTFD_SHADOW: the memory file that takes what is written. */
  readonly shadowFile: OwnedFd | undefined;
}

/** Sends a request: gives the reply's payload, and its descriptors into `received`. */
export type Ask = (payload: Uint8Array, received: OwnedFd[]) => Promise<Uint8Array>;

/** Room for a reply at first: sixteen entries of any kind, and more. */
const FIRST_ROOM = 1024;
/** A reply that needs more than this is not one to a question about a region. */
const MOST_ROOM = 64 * 1024;

/**
 * @param ask sends DEVICE_GET_REGION_INFO
 * @returns `undefined` for a region that is not to be mapped
 * @throws VfioError as the server answers; EPROTO for a reply that makes no sense
 */
export async function openRegion(region: number, ask: Ask): Promise<RegionFile | undefined> {
  const { reply, fds } = await askWithRoom(room => encodeRegionInfoRequest(region, room), decodeRegionInfo, ask);
  const { flags, size, fileOffset, areas = [{ offset: 0, size }] } = reply;
  const [file, ...others] = fds;
  closeFds(others);
  if (file === undefined || (flags & RegionFlag.MMAP) === 0) {
    file?.close();
    return undefined;
  }
  return { file, offset: fileOffset, areas: areas.filter(area => area.size > 0), flags };
}

/**
 * Maps the areas of a region's file, and closes the file. A server is a stranger like any other: only a file that can never shrink is mapped.
 * @throws VfioError EINVAL for a file that may shrink or is too short, and for an area that is not page aligned; EACCES, ENOMEM as mmap(2)
 */
export function mapAreas({ file, offset, areas, flags }: RegionFile): MappedArea[] {
  const rights = { read: (flags & RegionFlag.READ) !== 0, write: (flags & RegionFlag.WRITE) !== 0 };
  const mapped: MappedArea[] = [];
  try {
    for (const area of areas) {
      const start = offset + BigInt(area.offset);
      const peer = new PeerMapping(file.duplicate(), start, BigInt(area.size), rights, 'DEVICE_GET_REGION_INFO');
      mapped.push({ ...area, mapping: peer.mapping, close: () => peer.close() });
    }
    return mapped;
  } catch (error) {
    for (const area of mapped) area.close();
    throw error;
  } finally {
    file.close();
  }
}

/**
 * @param ask sends DEVICE_GET_REGION_IO_FDS
 * @param regionSize bytes: an entry beyond it is refused
 * @throws VfioError as the server answers; EPROTO for a reply that makes no sense
 */
export async function openIoFds(region: number, regionSize: number, ask: Ask): Promise<RegionIoFd[]> {
  const { reply, fds } = await askWithRoom(
    room => encodeRegionIoFdsRequest(region, room),
    bytes => decodeRegionIoFds(bytes, region),
    ask,
  );
  try {
    const entries = reply.entries.map(entry => withFiles(entry, fds, regionSize));
    const used = new Set(entries.flatMap(({ file, shadowFile }) => [file, shadowFile]));
    closeFds(fds.filter(fd => !used.has(fd)));
    return entries;
  } catch (error) {
    closeFds(fds);
    throw error;
  }
}

function withFiles(entry: IoFdEntry, fds: readonly OwnedFd[], regionSize: number): RegionIoFd {
  const { offset, size, fdIndex, shadow } = entry;
  if (size > regionSize || offset > regionSize - size)
    throw nonsense('offset', `${size} bytes at ${offset} of ${regionSize}`);
  const file = fds[fdIndex];
  const shadowFile = shadow && fds[shadow.fdIndex];
  if (file === undefined || (shadow !== undefined && shadowFile === undefined)) {
    throw nonsense('fd_index', `${fds.length} descriptors came along`);
  }
  return { ...entry, file, shadowFile };
}

interface Sized {
  /** Bytes that the whole reply has. */
  readonly needed: number;
  /** Whether the reply is whole. */
  readonly whole: boolean;
}

/** Asks, and asks again when the reply says that it needs more room. The descriptors of a reply that is not used are closed. */
async function askWithRoom<T extends Sized>(
  encode: (room: number) => Uint8Array,
  decode: (bytes: Uint8Array) => T,
  ask: Ask,
): Promise<{ reply: T; fds: OwnedFd[] }> {
  const fds: OwnedFd[] = [];
  const exchange = async (room: number) => {
    const payload = await ask(encode(room), fds);
    return understand('DEVICE_GET_REGION', () => decode(payload));
  };
  try {
    let reply = await exchange(FIRST_ROOM);
    if (!reply.whole) {
      closeFds(fds.splice(0));
      if (reply.needed > MOST_ROOM) throw nonsense('argsz', `${reply.needed} bytes for one region`);
      reply = await exchange(reply.needed);
      if (!reply.whole) throw nonsense('argsz', 'the room that the server named is not enough');
    }
    return { reply, fds };
  } catch (error) {
    closeFds(fds);
    throw error;
  }
}

function nonsense(field: string, message: string): VfioError {
  return new VfioError('EPROTO', { operation: 'DEVICE_GET_REGION', field, message });
}
