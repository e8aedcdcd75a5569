import { MAX_MESSAGE_FDS } from '../../native/index.js';
import { requireBytes, VfioError, viewOf } from '../../uapi/index.js';
import { DMA_PAGE_SIZE, EXTENSION_VERSION, PROTOCOL_VERSION } from './constants.js';
import { LEAST_DATA_TRANSFER, PROTOCOL_LIMITS, type VfioUserLimits } from './limits.js';

/*
 * VERSION, the first message of a connection (vfio-user 0.9.x, "VERSION"): u16 major, u16 minor, and JSON with a NUL behind it, as in
 *   {"capabilities":{"max_msg_fds":16,"max_data_xfer_size":1048576,"max_dma_maps":65535,"pgsizes":4096}}
 * All of the JSON may be left out. What is left out has the protocol's default; keys that nobody knows are ignored. What a server can do
 * besides it says only to a client that has named it: "twin_socket":{"supported":true} is answered with the index of the descriptor that
 * came along, "write_multiple":true and "dmalog":{"version":1} with the same.
 */

const OPERATION = 'VERSION';
const HEAD_SIZE = 4;

/** The capabilities that are understood here; what the peer has not said is not there. */
export interface Capabilities {
  maxMessageFds?: number;
  maxDataTransfer?: number;
  maxDmaMaps?: number;
  /** Page sizes of DMA_MAP, one bit each. */
  pageSizes?: bigint;
  /** A socket of their own for the server's commands; `fdIndex` names its descriptor among those of the answer. */
  twinSocket?: { supported: boolean; fdIndex?: number };
  /** REGION_WRITE_MULTI. */
  writeMultiple?: boolean;
  /** This project's own commands. A tracker looks on beside the VMM; without a role the client is the VMM. */
  dmalog?: { version: number; role?: 'tracker' };
}

/** What one side can do beyond what every peer can. */
export interface Features {
  readonly twinSocket: boolean;
  readonly writeMultiple: boolean;
  readonly dmalog: boolean;
}

/** What a server and its client have agreed on besides limits. */
export interface AgreedFeatures extends Features {
  readonly role: 'vmm' | 'tracker';
}

const NO_FEATURES: Features = { twinSocket: false, writeMultiple: false, dmalog: false };

/** VERSION's payload. */
export interface VersionMessage {
  major: number;
  minor: number;
  /** `undefined`: there was no JSON. */
  capabilities: Capabilities | undefined;
}

/** VERSION's payload as bytes. */
export function encodeVersion({ major, minor, capabilities }: VersionMessage): Uint8Array {
  const json = capabilities === undefined ? new Uint8Array(0) : encodeCapabilities(capabilities);
  const bytes = new Uint8Array(HEAD_SIZE + json.length);
  viewOf(bytes).setUint16(0, major, true);
  viewOf(bytes).setUint16(2, minor, true);
  bytes.set(json, HEAD_SIZE);
  return bytes;
}

function encodeCapabilities(capabilities: Capabilities): Uint8Array {
  const { maxMessageFds, maxDataTransfer, maxDmaMaps, pageSizes, twinSocket } = capabilities;
  const known = {
    max_msg_fds: maxMessageFds,
    max_data_xfer_size: maxDataTransfer,
    max_dma_maps: maxDmaMaps,
    pgsizes: pageSizes === undefined ? undefined : Number(pageSizes),
    twin_socket: twinSocket && { supported: twinSocket.supported, fd_index: twinSocket.fdIndex },
    write_multiple: capabilities.writeMultiple,
    dmalog: capabilities.dmalog,
  };
  return new TextEncoder().encode(`${JSON.stringify({ capabilities: known })}\0`);
}

/**
 * Reverse of {@link encodeVersion}.
 * @throws VfioError EINVAL for a short payload, JSON without its NUL, what is no JSON, and a known key with a value of the wrong type.
 */
export function decodeVersion(bytes: Uint8Array): VersionMessage {
  requireBytes(bytes, HEAD_SIZE, OPERATION, 'size');
  const view = viewOf(bytes);
  const json = bytes.subarray(HEAD_SIZE);
  return {
    major: view.getUint16(0, true),
    minor: view.getUint16(2, true),
    capabilities: json.length === 0 ? undefined : decodeCapabilities(parseJson(json)),
  };
}

function parseJson(bytes: Uint8Array): unknown {
  const end = bytes.indexOf(0);
  if (end === -1) throw invalid('JSON', 'has no NUL at its end');
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes.subarray(0, end)));
  } catch (error) {
    throw new VfioError('EINVAL', { operation: OPERATION, field: 'JSON', message: 'is not valid', cause: error });
  }
}

function decodeCapabilities(root: unknown): Capabilities {
  if (!isObject(root)) throw invalid('JSON', 'is not an object');
  const said = root['capabilities'] ?? {};
  if (!isObject(said)) throw invalid('capabilities', 'is not an object');
  objectOf(said, 'migration');
  const capabilities: Capabilities = {};
  const maxMessageFds = integerOf(said, 'max_msg_fds');
  if (maxMessageFds !== undefined) capabilities.maxMessageFds = maxMessageFds;
  const maxDataTransfer = integerOf(said, 'max_data_xfer_size');
  if (maxDataTransfer !== undefined) capabilities.maxDataTransfer = maxDataTransfer;
  const maxDmaMaps = integerOf(said, 'max_dma_maps');
  if (maxDmaMaps !== undefined) capabilities.maxDmaMaps = maxDmaMaps;
  const pageSizes = integerOf(said, 'pgsizes');
  if (pageSizes !== undefined) capabilities.pageSizes = BigInt(pageSizes);
  const writeMultiple = booleanOf(said, 'write_multiple');
  if (writeMultiple !== undefined) capabilities.writeMultiple = writeMultiple;
  const twinSocket = objectOf(said, 'twin_socket');
  if (twinSocket !== undefined) capabilities.twinSocket = decodeTwinSocket(twinSocket);
  const dmalog = objectOf(said, 'dmalog');
  if (dmalog !== undefined) capabilities.dmalog = decodeDmalog(dmalog);
  return capabilities;
}

function decodeTwinSocket(said: Record<string, unknown>): { supported: boolean; fdIndex?: number } {
  const supported = booleanOf(said, 'supported') ?? false;
  const fdIndex = integerOf(said, 'fd_index');
  return fdIndex === undefined ? { supported } : { supported, fdIndex };
}

/** A role that is not known must not be taken for the VMM's. */
function decodeDmalog(said: Record<string, unknown>): { version: number; role?: 'tracker' } {
  const version = integerOf(said, 'version') ?? 0;
  if (version === 0) throw invalid('dmalog', 'has no version from 1 on');
  const { role } = said;
  if (role === undefined) return { version };
  if (role !== 'tracker') throw invalid('role', `${JSON.stringify(role)} is not known`);
  return { version, role };
}

/** A mask such as 0xfffffffffffff000 is beyond 2^53 and still exact in a number, hence no test for a safe integer. */
function integerOf(object: Record<string, unknown>, key: string): number | undefined {
  const value = object[key];
  if (value === undefined) return undefined;
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 0 || value >= 2 ** 64) {
    throw invalid(key, 'is no unsigned 64-bit integer');
  }
  return value;
}

function booleanOf(object: Record<string, unknown>, key: string): boolean | undefined {
  const value = object[key];
  if (value === undefined || typeof value === 'boolean') return value;
  throw invalid(key, 'is not true or false');
}

function objectOf(object: Record<string, unknown>, key: string): Record<string, unknown> | undefined {
  const value = object[key];
  if (value === undefined || isObject(value)) return value;
  throw invalid(key, 'is not an object');
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** What a client says first. @param role `'tracker'` needs the feature `dmalog` */
export function proposeVersion(
  own: VfioUserLimits,
  features: Features = NO_FEATURES,
  role: 'vmm' | 'tracker' = 'vmm',
): VersionMessage {
  const capabilities: Capabilities = { ...own, pageSizes: DMA_PAGE_SIZE };
  if (features.twinSocket) capabilities.twinSocket = { supported: true };
  if (features.writeMultiple) capabilities.writeMultiple = true;
  if (features.dmalog) capabilities.dmalog = { version: EXTENSION_VERSION, ...(role === 'tracker' && { role }) };
  return { ...PROTOCOL_VERSION, capabilities };
}

/**
 * What a server answers to a proposal, and what holds from then on.
 *
 * QEMU refuses an answer that is larger than its request, or has a limit above its own. So a limit is answered as the smaller of both,
 * and only where the client named it, or where the server takes less than the protocol's default; a feature only where the client named it.
 * @param offered what the server can do. A twin socket is agreed on with a client that takes a descriptor; it is the answer's first one.
 * @throws VfioError EINVAL for another major version, no page size in common, or a role that only `dmalog` has
 */
export function answerVersion(
  own: VfioUserLimits,
  proposal: VersionMessage,
  offered: Features = NO_FEATURES,
): { answer: VersionMessage; agreed: VfioUserLimits; features: AgreedFeatures } {
  requireMajor(proposal);
  const asked = proposal.capabilities ?? {};
  requirePageSize(asked);
  const answered: Capabilities = asked.pageSizes === undefined ? {} : { pageSizes: DMA_PAGE_SIZE };
  const agreed = { ...own };
  for (const key of ['maxMessageFds', 'maxDataTransfer', 'maxDmaMaps'] as const) {
    agreed[key] = Math.min(own[key], asked[key] ?? PROTOCOL_LIMITS[key]);
    if (asked[key] !== undefined || own[key] < PROTOCOL_LIMITS[key]) answered[key] = agreed[key];
  }
  const features = agreeOnFeatures(asked, offered);
  if (features.twinSocket) answered.twinSocket = { supported: true, fdIndex: 0 };
  if (features.writeMultiple) answered.writeMultiple = true;
  if (features.dmalog) answered.dmalog = { version: EXTENSION_VERSION };
  const isNothing = proposal.capabilities === undefined && Object.keys(answered).length === 0;
  const minor = Math.min(proposal.minor, PROTOCOL_VERSION.minor);
  return {
    answer: { major: PROTOCOL_VERSION.major, minor, capabilities: isNothing ? undefined : answered },
    agreed,
    features,
  };
}

function agreeOnFeatures(asked: Capabilities, offered: Features): AgreedFeatures {
  const role = asked.dmalog?.role ?? 'vmm';
  // Served as the VMM, a tracker would take the device from the one that comes after it.
  if (role === 'tracker' && !offered.dmalog) throw invalid('role', 'trackers are not served here');
  const takesFd = (asked.maxMessageFds ?? PROTOCOL_LIMITS.maxMessageFds) > 0;
  return {
    twinSocket: offered.twinSocket && asked.twinSocket?.supported === true && takesFd,
    writeMultiple: offered.writeMultiple && asked.writeMultiple === true,
    dmalog: offered.dmalog && asked.dmalog !== undefined,
    role,
  };
}

/**
 * The limits that hold for a client that has its answer: what the server takes, and for data in either direction the smaller of both.
 * @throws VfioError EINVAL for another major version, a minor above the one proposed, or no page size in common
 */
export function acceptAnswer(own: VfioUserLimits, answer: VersionMessage): VfioUserLimits {
  requireMajor(answer);
  if (answer.minor > PROTOCOL_VERSION.minor) throw invalid('minor', `${answer.minor} was not proposed`);
  const said = answer.capabilities ?? {};
  requirePageSize(said);
  if (said.maxDataTransfer !== undefined && said.maxDataTransfer < LEAST_DATA_TRANSFER) {
    throw invalid('max_data_xfer_size', `${said.maxDataTransfer} is too small to work with`);
  }
  return {
    maxMessageFds: Math.min(MAX_MESSAGE_FDS, Math.max(1, said.maxMessageFds ?? PROTOCOL_LIMITS.maxMessageFds)),
    maxDataTransfer: Math.min(own.maxDataTransfer, said.maxDataTransfer ?? PROTOCOL_LIMITS.maxDataTransfer),
    maxDmaMaps: said.maxDmaMaps ?? PROTOCOL_LIMITS.maxDmaMaps,
  };
}

/**
 * What a client may use that has its answer. `twinSocket` is the index of its descriptor among those of the answer.
 * @throws VfioError EINVAL for a twin socket without a descriptor, or that was not proposed: the server's commands would come where nobody looks
 */
export function acceptFeatures(
  proposed: Features,
  answer: VersionMessage,
): { twinSocket: number | undefined; writeMultiple: boolean; dmalog: boolean } {
  const said = answer.capabilities ?? {};
  let twinSocket: number | undefined;
  if (said.twinSocket?.supported === true) {
    twinSocket = said.twinSocket.fdIndex;
    if (!proposed.twinSocket) throw invalid('twin_socket', 'was not proposed');
    if (twinSocket === undefined) throw invalid('fd_index', 'is missing');
  }
  return {
    twinSocket,
    writeMultiple: proposed.writeMultiple && said.writeMultiple === true,
    dmalog: proposed.dmalog && said.dmalog?.version === EXTENSION_VERSION,
  };
}

function requireMajor({ major }: VersionMessage): void {
  if (major !== PROTOCOL_VERSION.major) throw invalid('major', `${major} is not spoken here`);
}

function requirePageSize({ pageSizes = DMA_PAGE_SIZE }: Capabilities): void {
  if ((pageSizes & DMA_PAGE_SIZE) === 0n) throw invalid('pgsizes', `${pageSizes} does not hold ${DMA_PAGE_SIZE}`);
}

function invalid(field: string, message: string): VfioError {
  return new VfioError('EINVAL', { operation: OPERATION, field, message });
}
