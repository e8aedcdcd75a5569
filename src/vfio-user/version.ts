import { MAX_MESSAGE_FDS } from '../native/index.js';
import { requireBytes, VfioError, viewOf } from '../uapi/index.js';
import { DMA_PAGE_SIZE, PROTOCOL_VERSION } from './constants.js';
import { LEAST_DATA_TRANSFER, PROTOCOL_LIMITS, type VfioUserLimits } from './limits.js';

/*
 * VERSION, the first message of a connection (vfio-user 0.9.x, "VERSION"): u16 major, u16 minor, and JSON with a NUL behind it, as in
 *   {"capabilities":{"max_msg_fds":16,"max_data_xfer_size":1048576,"max_dma_maps":65535,"pgsizes":4096}}
 * All of the JSON may be left out. What is left out has the protocol's default; keys that nobody knows are ignored.
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
}

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
  const { maxMessageFds, maxDataTransfer, maxDmaMaps, pageSizes } = capabilities;
  const known = {
    max_msg_fds: maxMessageFds,
    max_data_xfer_size: maxDataTransfer,
    max_dma_maps: maxDmaMaps,
    pgsizes: pageSizes === undefined ? undefined : Number(pageSizes),
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
  requireObject(said, 'migration');
  requireObject(said, 'twin_socket');
  requireBoolean(said, 'write_multiple');
  const capabilities: Capabilities = {};
  const maxMessageFds = integerOf(said, 'max_msg_fds');
  if (maxMessageFds !== undefined) capabilities.maxMessageFds = maxMessageFds;
  const maxDataTransfer = integerOf(said, 'max_data_xfer_size');
  if (maxDataTransfer !== undefined) capabilities.maxDataTransfer = maxDataTransfer;
  const maxDmaMaps = integerOf(said, 'max_dma_maps');
  if (maxDmaMaps !== undefined) capabilities.maxDmaMaps = maxDmaMaps;
  const pageSizes = integerOf(said, 'pgsizes');
  if (pageSizes !== undefined) capabilities.pageSizes = BigInt(pageSizes);
  return capabilities;
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

function requireBoolean(object: Record<string, unknown>, key: string): void {
  if (object[key] !== undefined && typeof object[key] !== 'boolean') throw invalid(key, 'is not true or false');
}

function requireObject(object: Record<string, unknown>, key: string): void {
  if (object[key] !== undefined && !isObject(object[key])) throw invalid(key, 'is not an object');
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** What a client says first. */
export function proposeVersion(own: VfioUserLimits): VersionMessage {
  return { ...PROTOCOL_VERSION, capabilities: { ...own, pageSizes: DMA_PAGE_SIZE } };
}

/**
 * What a server answers to a proposal, and the limits that hold from then on.
 *
 * QEMU refuses an answer that is larger than its request, or has a limit above its own. So a limit is answered as the smaller of both,
 * and only where the client named it, or where the server takes less than the protocol's default.
 * @throws VfioError EINVAL for another major version, or no page size in common
 */
export function answerVersion(
  own: VfioUserLimits,
  proposal: VersionMessage,
): { answer: VersionMessage; agreed: VfioUserLimits } {
  requireMajor(proposal);
  const asked = proposal.capabilities ?? {};
  requirePageSize(asked);
  const answered: Capabilities = asked.pageSizes === undefined ? {} : { pageSizes: DMA_PAGE_SIZE };
  const agreed = { ...own };
  for (const key of ['maxMessageFds', 'maxDataTransfer', 'maxDmaMaps'] as const) {
    agreed[key] = Math.min(own[key], asked[key] ?? PROTOCOL_LIMITS[key]);
    if (asked[key] !== undefined || own[key] < PROTOCOL_LIMITS[key]) answered[key] = agreed[key];
  }
  const isNothing = proposal.capabilities === undefined && Object.keys(answered).length === 0;
  const minor = Math.min(proposal.minor, PROTOCOL_VERSION.minor);
  return {
    answer: { major: PROTOCOL_VERSION.major, minor, capabilities: isNothing ? undefined : answered },
    agreed,
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

function requireMajor({ major }: VersionMessage): void {
  if (major !== PROTOCOL_VERSION.major) throw invalid('major', `${major} is not spoken here`);
}

function requirePageSize({ pageSizes = DMA_PAGE_SIZE }: Capabilities): void {
  if ((pageSizes & DMA_PAGE_SIZE) === 0n) throw invalid('pgsizes', `${pageSizes} does not hold ${DMA_PAGE_SIZE}`);
}

function invalid(field: string, message: string): VfioError {
  return new VfioError('EINVAL', { operation: OPERATION, field, message });
}
