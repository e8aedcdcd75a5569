import { crc32 } from 'node:zlib';
import { type IovaRange, VfioError, viewOf } from '../../uapi/index.js';
import { decodeRecord, encodeRecord, type OwnershipRecord, requireName } from '../ownership/index.js';
import { CHECKSUM_SIZE, payloadChecksum } from './payload-checksum.js';

/*
 * The migration stream: frames over a channel, which is one TCP connection after another, in both directions. All integers are little-endian.
 *
 *   0 u32 magic "DMLG" · 4 u16 type · 6 u16 0 · 8 u32 length of the payload · 12 u32 sequence, from 0, by direction ·
 *   16 8 bytes xxHash64 of the payload · 24 u32 0 · 28 u32 CRC-32 of bytes 0 to 27
 *
 * The header has a checksum of its own, so that a broken length is never believed; the sequence finds frames that were lost, doubled or
 * brought from another stream. It runs on over all connections of a channel: what was sent on one that broke and had not arrived is sent
 * again on the next. Frames that speak of one connection, or end all, have none: KEEP_ALIVE, ACK, RESUME, ABORT; theirs is 0.
 *
 * Worked example, the empty GO frame as the fourth of its direction: 44 4d 4c 47 · 06 00 · 00 00 · 00 00 00 00 · 03 00 00 00 ·
 * ef 46 db 37 51 d8 e9 99 (xxHash64 of nothing) · 00 00 00 00 · CRC-32 of those 28 bytes.
 *
 * The header and HELLO are the same in every version from 2 on: they are how two releases find out which one they both speak. What follows may
 * differ. Version 1 had a header of 24 bytes.
 *
 * Source to destination:  HELLO, { MEMORY… DEVICE_STATE… PASS [INITIAL_DATA_SENT] [MEMORY_MAP] [RESTART] }…, MEMORY…, DEVICE_STATE…, SWITCH,
 *                         [VERIFY…], GO, [OWNER]
 * Destination to source:  HELLO, [LANES], [INITIAL_DATA_LOADED], [MEMORY_MAPPED…], READY, [DIGEST…], [SETTLE], RESUMED
 * A rehearsal, both ways: HELLO, PROBE…
 * Either way, at any time: KEEP_ALIVE, ACK; and instead of anything: ABORT. A connection that goes on where a lost one ended begins with
 * RESUME from either end instead of HELLO.
 */

/** The lowest and the highest version of the stream that this release speaks. */
export const STREAM_VERSIONS: readonly [lowest: number, highest: number] = [2, 2];
/** Size of a frame's header in bytes. */
export const FRAME_HEADER_SIZE = 32;
/** Most bytes of guest memory in one MEMORY frame, and of a device's state in one DEVICE_STATE frame. */
export const BLOCK_SIZE = 1 << 20;
/** Most extents in one MEMORY frame: as many as a block has pages of 4 KiB. */
export const MAX_EXTENTS = BLOCK_SIZE / 4096;
/** Most bytes of payload in any frame: a block with all its extents. */
export const MAX_PAYLOAD = BLOCK_SIZE + 16 + MAX_EXTENTS * 16;
/** Most bytes of payload in a frame without a sequence. */
export const MAX_CONTROL_PAYLOAD = 16 * 1024;

const MAGIC = 0x474c4d44;
const CHECKSUM_AT = 16;

/** What a frame is. */
export const FrameType = {
  /** JSON: {@link Hello}. */
  HELLO: 1,
  /** Guest memory and the extents that name it: see memory-block.ts. */
  MEMORY: 2,
  /** u32 index of the device, u32 0, then a part of its migration data. */
  DEVICE_STATE: 3,
  /** u32 number of the pass that ends here. */
  PASS: 4,
  /** The source has sent everything and its devices are stopped. Empty. */
  SWITCH: 5,
  /** The machine is the destination's from here on; where there is an ownership record, as soon as the destination is in it. Empty. */
  GO: 6,
  /** The destination has loaded everything. JSON: { loadMs }, or empty. */
  READY: 7,
  /** The destination's devices run. JSON: { resumeMs }, or empty. */
  RESUMED: 8,
  /** The source asks for a digest of all memory. u32 kind: {@link DigestKind}. */
  VERIFY: 9,
  /** A part of the digest asked for. */
  DIGEST: 10,
  /** The sender gives up. JSON: { errno, message, mayRun }; see {@link Abort}. */
  ABORT: 11,
  /** The devices' states that came so far are void: the source lets its devices run again. Empty. */
  RESTART: 12,
  /** The sender is there, and busy. Empty. */
  KEEP_ALIVE: 13,
  /** The destination cannot find out whether the ownership record names it: the source shall. Empty. */
  SETTLE: 14,
  /** The ownership record names the destination. The record. */
  OWNER: 15,
  /** u32: the sender has applied all frames before this sequence. */
  ACK: 16,
  /** A connection goes on where a lost one ended: see {@link Resume}. */
  RESUME: 17,
  /** A connection is a lane, and the answer that it is taken: see join.ts. */
  JOIN: 18,
  /** The machine's memory is this from now on: see memory-map.ts. Everything sent before was of the memory before. */
  MEMORY_MAP: 20,
  /** A rehearsal's bytes, to be thrown away; an empty one is answered by an empty one. */
  PROBE: 22,
  /** The devices' initial pre-copy data has been sent (linux/vfio.h, `initial_bytes` of struct vfio_precopy_info). Empty. */
  INITIAL_DATA_SENT: 23,
  /** The destination's devices have taken it. Empty. */
  INITIAL_DATA_LOADED: 24,
  /** The destination has the memory that MEMORY_MAP said. Empty. */
  MEMORY_MAPPED: 30,
  /** Where the destination waits for lanes: see lane-ports.ts. */
  LANES: 31,
} as const;

/** A {@link FrameType}'s number. */
export type FrameType = (typeof FrameType)[keyof typeof FrameType];

const frameNames = new Map<number, string>(Object.entries(FrameType).map(([name, type]) => [type, name]));

const withoutSequence: ReadonlySet<number> = new Set([
  FrameType.ABORT,
  FrameType.KEEP_ALIVE,
  FrameType.ACK,
  FrameType.RESUME,
  FrameType.JOIN,
]);

/** Whether frames of a type are counted, and sent again when they are lost with their connection. */
export function isSequenced(type: number): boolean {
  return !withoutSequence.has(type);
}

/** The name of a frame type, for messages. */
export function frameName(type: number): string {
  return frameNames.get(type) ?? `frame ${type}`;
}

/** What VERIFY asks for. */
export const DigestKind = {
  /** SHA-256 of all memory, 32 bytes. */
  MEMORY: 1,
  /** CRC-32 of every page, u32 each, in order. */
  PAGES: 2,
} as const;

/** Most features that a HELLO may name. */
const MOST_FEATURES = 256;

/** What an end knows of the machine's owner. */
export interface HelloOwnership {
  /** This end's name. */
  self: string;
  /** The record as this end's store has it; `undefined` where it has none. */
  record: OwnershipRecord | undefined;
}

/** What each end says first. Members that are not known here are left out of account. */
export interface Hello {
  /** The lowest and the highest version of the stream that this end speaks. */
  versions: readonly [lowest: number, highest: number];
  /** What this end can do beyond its version. Names that the other end does not know mean nothing to it. */
  features: readonly string[];
  /** Those of them without which it will not migrate. */
  requires: readonly string[];
  /** Bytes of a page in the stream. */
  pageSize: number;
  /** The machine's memory. Both ends must have the same. */
  memory: IovaRange[];
  /** MIGRATION flags of each device, in order. Both ends must have as many. */
  devices: number[];
  /** How long this end waits for a sign of life, milliseconds. */
  timeoutMs: number;
  /** The session's secret, by which a source that comes again is known: in the destination's HELLO, 16 random bytes. */
  token?: Uint8Array | undefined;
  /** How many connections memory may take at a time; 1, or not said: the migration's own. The fewer of both ends count. */
  connections?: number | undefined;
  /** Where the owner is recorded outside the two ends. Both must have it, or neither. */
  ownership?: HelloOwnership | undefined;
  /** The source wants to know how a migration would be, and moves nothing. */
  purpose?: 'rehearsal' | undefined;
  /** In the destination's HELLO: how long its devices took to answer a request, milliseconds. What is none, or negative, counts as not said. */
  requestMs?: number | undefined;
}

/** A frame's header, taken apart. */
export interface FrameHeader {
  type: number;
  length: number;
  sequence: number;
  /** xxHash64 of the payload, 8 bytes; valid as long as the header's bytes. */
  checksum: Uint8Array;
}

/** Writes the header of a frame whose payload is `payload` into the first 32 bytes of `into`. @param sequence 0 for a frame that has none */
export function encodeFrameHeader(into: Uint8Array, type: FrameType, sequence: number, payload: Uint8Array): void {
  const view = viewOf(into);
  view.setUint32(0, MAGIC, true);
  view.setUint32(4, type, true);
  view.setUint32(8, payload.length, true);
  view.setUint32(12, sequence, true);
  into.set(payloadChecksum(payload), CHECKSUM_AT);
  view.setUint32(24, 0, true);
  view.setUint32(28, crc32(into.subarray(0, 28)), true);
}

/** A whole frame that has no sequence. */
export function encodeControlFrame(type: FrameType, payload: Uint8Array): Uint8Array {
  const frame = new Uint8Array(FRAME_HEADER_SIZE + payload.length);
  frame.set(payload, FRAME_HEADER_SIZE);
  encodeFrameHeader(frame, type, 0, payload);
  return frame;
}

/**
 * Takes a header apart.
 * @param expectedSequence the sequence that is next in this direction
 * @throws VfioError EBADMSG for anything but the next frame of this stream, or one without a sequence; EPROTO for a type that does not exist;
 *   EMSGSIZE for a payload beyond {@link MAX_PAYLOAD}, without a sequence beyond {@link MAX_CONTROL_PAYLOAD}
 */
export function decodeFrameHeader(header: Uint8Array, expectedSequence: number): FrameHeader {
  const view = viewOf(header);
  if (view.getUint32(0, true) !== MAGIC) throw badFrame('magic', 'this is no dmalog migration stream');
  if (view.getUint32(28, true) !== crc32(header.subarray(0, 28)))
    throw badFrame('header', `the checksum of that of frame ${expectedSequence} is wrong`);
  const type = view.getUint32(4, true);
  const length = view.getUint32(8, true);
  const sequence = view.getUint32(12, true);
  const due = isSequenced(type) ? expectedSequence : 0;
  if (sequence !== due) throw badFrame('sequence', `${sequence} came where ${due} was due`);
  if (!frameNames.has(type)) {
    throw new VfioError('EPROTO', {
      operation: 'migration stream',
      field: 'type',
      message: `${type} (frame ${sequence}) does not exist`,
    });
  }
  if (length > (isSequenced(type) ? MAX_PAYLOAD : MAX_CONTROL_PAYLOAD)) {
    throw new VfioError('EMSGSIZE', {
      operation: 'migration stream',
      field: 'length',
      message: `${length} bytes for ${frameName(type)} (frame ${sequence})`,
    });
  }
  return { type, length, sequence, checksum: header.subarray(CHECKSUM_AT, CHECKSUM_AT + CHECKSUM_SIZE) };
}

/** @throws VfioError EBADMSG when a payload is not what its header's checksum says */
export function checkPayload(header: FrameHeader, payload: Uint8Array): void {
  if (Buffer.compare(payloadChecksum(payload), header.checksum) !== 0) {
    throw badFrame('payload', `the checksum of ${frameName(header.type)} (frame ${header.sequence}) is wrong`);
  }
}

/** HELLO's payload. */
export function encodeHello(hello: Hello): Uint8Array {
  const memory = hello.memory.map(({ iova, length }) => [`0x${iova.toString(16)}`, `0x${length.toString(16)}`]);
  const ownership = hello.ownership && {
    self: hello.ownership.self,
    record: hello.ownership.record && encodeRecord(hello.ownership.record),
  };
  const token = hello.token && toHex(hello.token);
  return new TextEncoder().encode(JSON.stringify({ ...hello, memory, ownership, token }));
}

/** Reverse of {@link encodeHello}. @throws VfioError EBADMSG */
export function decodeHello(payload: Uint8Array): Hello {
  const value = parseJson(payload) as Partial<Record<keyof Hello, unknown>>;
  const { versions, features, requires, pageSize, memory, devices, timeoutMs } = value;
  const { token, connections, ownership, purpose, requestMs } = value;
  const isNumber = (item: unknown): item is number => Number.isInteger(item);
  if (!isNumber(pageSize) || !Array.isArray(memory) || !Array.isArray(devices)) {
    throw badFrame('HELLO', 'a member is missing or of a wrong type');
  }
  if (!devices.every(isNumber)) throw badFrame('devices', 'flags must be numbers');
  if (!isNumber(timeoutMs) || timeoutMs < 1) throw badFrame('timeoutMs', 'must be a whole number of milliseconds');
  const hello: Hello = {
    versions: decodeVersions(versions),
    features: decodeNames('features', features),
    requires: decodeNames('requires', requires),
    pageSize,
    memory: memory.map(decodeRange),
    devices,
    timeoutMs,
  };
  if (purpose !== undefined) hello.purpose = decodePurpose(purpose);
  if (isDuration(requestMs)) hello.requestMs = requestMs;
  if (connections !== undefined) {
    if (!isNumber(connections) || connections < 1) throw badFrame('connections', 'must be a whole number from 1 on');
    hello.connections = connections;
  }
  if (token !== undefined) hello.token = decodeToken(token);
  if (ownership !== undefined) hello.ownership = decodeOwnership(ownership);
  return hello;
}

/** Times are for reports and estimates alone: nothing is refused for one. */
function isDuration(item: unknown): item is number {
  return typeof item === 'number' && Number.isFinite(item) && item >= 0;
}

function decodePurpose(item: unknown): 'rehearsal' {
  if (item !== 'rehearsal') throw badFrame('purpose', 'is not known');
  return item;
}

function decodeVersions(item: unknown): [number, number] {
  const [lowest, highest] = Array.isArray(item) ? item : [];
  const isRange = Number.isInteger(lowest) && Number.isInteger(highest) && lowest >= 0 && lowest <= highest;
  if (!isRange) throw badFrame('versions', 'they must be the lowest and the highest');
  return [lowest, highest];
}

function decodeNames(field: string, item: unknown): string[] {
  const isName = (name: unknown) => typeof name === 'string' && /^[a-z0-9][a-z0-9-]{0,63}$/.test(name);
  const isList = Array.isArray(item) && item.length <= MOST_FEATURES && item.every(isName);
  if (!isList)
    throw badFrame(field, `they must be ${MOST_FEATURES} names at most, of lower-case letters, digits and -`);
  return item;
}

function decodeToken(item: unknown): Uint8Array {
  if (typeof item !== 'string' || !/^[0-9a-f]{32}$/.test(item)) throw badFrame('token', 'it must be 16 bytes');
  return Uint8Array.from(Buffer.from(item, 'hex'));
}

function toHex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}

function decodeOwnership(item: unknown): HelloOwnership {
  const { self, record } = (item ?? {}) as { self?: unknown; record?: unknown };
  if (typeof self !== 'string') throw badFrame('ownership', 'a member is missing or of a wrong type');
  requireName('self', self);
  if (record === undefined) return { self, record };
  if (typeof record !== 'string') throw badFrame('ownership', 'a record must be a text');
  return { self, record: decodeRecord(record, 'HELLO') };
}

function decodeRange(item: unknown): IovaRange {
  const isHex = (text: unknown): text is string => typeof text === 'string' && /^0x[0-9a-f]{1,16}$/.test(text);
  if (!Array.isArray(item) || !isHex(item[0]) || !isHex(item[1]))
    throw badFrame('memory', 'a range is not two numbers');
  return { iova: BigInt(item[0]), length: BigInt(item[1]) };
}

/** What an ABORT says. */
export interface Abort {
  error: VfioError;
  /**
   * Whether the machine may run, or have run, at the sender's end: a destination that had taken GO. Without it the source may run the machine
   * again, because whoever sends ABORT takes no more words.
   */
  mayRun: boolean;
}

/** Most characters of an ABORT's text: it must fit a frame whatever the error quotes. */
const MOST_WORDS = 2000;

/** ABORT's payload. */
export function encodeAbort({ error, mayRun }: Abort): Uint8Array {
  const message = error.message.slice(0, MOST_WORDS);
  return new TextEncoder().encode(JSON.stringify({ errno: error.errno, message, mayRun }));
}

/** Reverse of {@link encodeAbort}; the error is the one to throw here: ECONNABORTED, with the peer's words. @throws VfioError EBADMSG */
export function decodeAbort(payload: Uint8Array): Abort {
  const { message, mayRun } = parseJson(payload) as { message?: unknown; mayRun?: unknown };
  const words = typeof message === 'string' ? message.slice(0, MOST_WORDS) : 'no reason given';
  const error = new VfioError('ECONNABORTED', {
    operation: 'migration stream',
    message: `the other end gave up: ${words}`,
  });
  return { error, mayRun: mayRun !== false };
}

/** How long the destination took, milliseconds: in READY for loading the devices' states, in RESUMED for starting them. */
export interface Times {
  loadMs?: number;
  resumeMs?: number;
}

/** The payload of READY and RESUMED. */
export function encodeTimes(times: Times): Uint8Array {
  return new TextEncoder().encode(JSON.stringify(times));
}

/** Reverse of {@link encodeTimes}. Times are for the report alone: what is none, or negative, counts as not said. @throws VfioError EBADMSG */
export function decodeTimes(payload: Uint8Array): Times {
  if (payload.length === 0) return {};
  const times = parseJson(payload) as Record<keyof Times, unknown>;
  const said: Times = {};
  for (const name of ['loadMs', 'resumeMs'] as const) {
    const value = times[name];
    if (isDuration(value)) said[name] = value;
  }
  return said;
}

function parseJson(payload: Uint8Array): object {
  try {
    const value: unknown = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(payload));
    if (typeof value === 'object' && value !== null) return value;
  } catch {
    // Said below.
  }
  throw badFrame('payload', 'this is no JSON object');
}

function badFrame(field: string, message: string): VfioError {
  return new VfioError('EBADMSG', { operation: 'migration stream', field, message });
}
