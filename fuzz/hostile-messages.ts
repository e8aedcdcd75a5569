import fc, { type Arbitrary } from 'fast-check';
import { message, QEMU_PROPOSAL, versionPayload, words } from '../test/vfio-user/peer.js';
import { Register } from './fuzz-device.js';
import { FILE_KINDS, type FileKind } from './hostile-files.js';

/*
 * Messages as hostile clients send them: most begin as a valid one, whose fields are drawn from few values, so that maps meet unmaps and
 * STARTs meet STOPs; then bytes are changed, the end is cut off or something added, descriptors of any kind go along.
 */

/** A message with its descriptors. */
export interface HostileMessage {
  readonly bytes: Uint8Array;
  readonly files: readonly FileKind[];
}

/** Gives a value of a list; each call uses up one choice of the message. */
type Pick = <T>(...values: readonly T[]) => T;

type Template = (pick: Pick) => { bytes: Uint8Array; files?: readonly FileKind[] };

const HEADER_SIZE = 16;

/** What a client proposes that wants everything. */
export const FULL_PROPOSAL =
  '{"capabilities":{"max_msg_fds":16,"max_data_xfer_size":1048576,"max_dma_maps":65535,"pgsizes":4096,' +
  '"twin_socket":{"supported":true},"write_multiple":true,"dmalog":{"version":1}}}';
/** What a tracker proposes that comes beside the VMM. */
export const TRACKER_PROPOSAL =
  '{"capabilities":{"max_msg_fds":16,"pgsizes":4096,"dmalog":{"version":1,"role":"tracker"}}}';

// Likely values stand more than once: what is mapped must be met by DMA, by reports and by unmaps.
const iovas = [
  0x10000n,
  0x10000n,
  0x10000n,
  0n,
  0x20000n,
  0x100000n,
  0x11000n,
  0x3ff000n,
  1n << 40n,
  (1n << 64n) - 0x1000n,
];
const lengths = [0x10000n, 0x10000n, 0x10000n, 0x20000n, 0x1000n, 0x40000n, 0n, 0x400000n, 1n << 53n, (1n << 64n) - 1n];
const counts = [8, 4, 1, 2, 3, 64, 4096, 0, 0xffff_ffff];
const featureFlags = [0x10000, 0x20000, 0x40000, 0x50000, 0x60000, 0x30000, 0x70000, 0];

/** Each command of the protocol and this project's own, with fields that it may have. */
const templates: readonly Template[] = [
  pick => ({
    bytes: message(
      2,
      words(32, pick(3, 3, 3, 1, 2, 0, 7, 11), pick(0n, 0n, 0x1000n, 0x10000n), pick(...iovas), pick(...lengths)),
    ),
    files: pick<readonly FileKind[]>(
      ['sealed memory'],
      ['sealed memory'],
      ['memory that may shrink'],
      [],
      [FILE_KINDS[pick(2, 4, 5, 6, 7, 8, 9)]!],
    ),
  }),
  pick => ({ bytes: message(3, words(24, pick(0, 0, 2), pick(...iovas), pick(...lengths))) }),
  () => ({ bytes: message(3, words(24, 2, 0n, 0n)) }),
  pick => ({
    bytes: message(3, words(40, pick(1, 3), pick(...iovas), pick(...lengths), pick(4096n, 65536n), pick(8n, 64n))),
  }),
  () => ({ bytes: message(4, words(16, 0, 0, 0)) }),
  pick => ({ bytes: message(5, words(pick(32, 256, 4096), 0, pick(0, 1, 2, 7, 9), 0, 0n, 0n)) }),
  pick => ({ bytes: message(6, words(pick(16, 56, 4096), 0, pick(0, 1, 2), 0)) }),
  pick => ({ bytes: message(7, words(16, 0, pick(0, 1, 2, 4, 5), 0)) }),
  pick => ({
    bytes: message(8, words(20, 36, pick(0, 2), pick(0, 1, 3), pick(1, 2))),
    files: pick<readonly FileKind[]>(['eventfd'], ['eventfd', 'eventfd'], ['full eventfd'], [], ['pipe to write']),
  }),
  pick => ({ bytes: message(8, words(20, pick(33, 9, 17), pick(0, 2), pick(0, 1), pick(0, 1, 2))) }),
  pick => ({ bytes: message(8, words(24, pick(34, 10, 18), pick(0, 2), 0, pick(4, 1), 0x01010101)) }),
  pick => ({ bytes: message(9, words(BigInt(pick(0, 8, 64, 0, 4095, 0x1000)), pick(0, 0, 7, 1, 2), pick(...counts))) }),
  pick => ({
    bytes: message(10, words(BigInt(Register.IOVA), 0, 12, pick(...iovas), pick(1, 64, 4096, 4097, 0x3000))),
  }),
  pick => ({ bytes: message(10, words(BigInt(pick(...Object.values(Register))), 0, 4, pick(0, 1, 2))) }),
  () => ({ bytes: message(10, words(4n, 7, 4, 6)) }),
  pick => ({ bytes: message(10, words(BigInt(pick(0, 0x1000, 0x1ffc)), pick(0, 1, 2, 7), 4, pick(0, 0xffff_ffff))) }),
  () => ({ bytes: message(13) }),
  pick => ({
    bytes: message(
      15,
      words(pick(2n, 1n, 0n, 1n << 60n), 0n, 0, pick(4, 8, 9), 0n, BigInt(pick(...Object.values(Register))), 0, 4, 1n),
    ),
  }),
  pick => ({
    bytes: message(16, words(40, 0x20006, pick(4096n, 65536n, 0n, 3n), 1, 0, pick(...iovas), pick(...lengths))),
  }),
  () => ({ bytes: message(16, words(24, 0x20006, 4096n, 0, 0)) }),
  pick => ({
    bytes: message(
      16,
      words(
        pick(0x20000, 40, 0xffff_ffff),
        0x10008,
        pick(...iovas),
        pick(...lengths),
        pick(4096n, 512n, 65536n, 2n ** 63n),
      ),
    ),
  }),
  () => ({ bytes: message(16, words(8, 0x20007)) }),
  pick => ({ bytes: message(16, words(16, 0x20002, pick(1, 2, 3, 4, 5, 6, 7, 0, 8), 0xffff_ffff)) }),
  pick => ({ bytes: message(16, words(pick(16, 8), pick(...featureFlags) | pick(1, 2, 3, 6, 7, 8, 9), 0n)) }),
  pick => ({ bytes: message(17, words(4104, pick(4096, 64, 0, 0xffff_ffff))) }),
  pick => ({ bytes: message(18, words(12, pick(4, 0, 5), 0)) }),
  pick => ({
    bytes: message(0xd001, words(24, 0, pick(0n, 0x1000n, 1n), pick(0x1000n, 0x20000n, 1n << 45n))),
    files: pick<readonly FileKind[]>(['sealed memory'], ['memory that may shrink'], [], ['eventfd']),
  }),
  pick => ({ bytes: message(0xd002, words(pick(0, 1, 2))) }),
  pick => ({
    bytes: message(
      0xd003,
      words(pick(0, 1, 2), 0, pick(0n, 8n, 0x1000n), pick(...iovas), pick(...lengths), pick(4096n, 65536n, 3n)),
    ),
  }),
  () => ({ bytes: message(0xd004) }),
];

/** What must have succeeded for the others to matter: memory, the right to write it, DMA, reports. */
const usefulTemplates: readonly Template[] = [
  pick => ({
    bytes: message(2, words(32, 3, 0n, pick(0x10000n, 0x10000n, 0x20000n), 0x10000n)),
    files: [pick('sealed memory', 'memory that may shrink')],
  }),
  () => ({ bytes: message(10, words(4n, 7, 4, 6)) }),
  pick => ({ bytes: message(10, words(BigInt(Register.IOVA), 0, 12, pick(0x10000n, 0x11ff0n), pick(64, 4097))) }),
  () => ({ bytes: message(10, words(BigInt(Register.WRITE), 0, 4, 1)) }),
  pick => ({
    bytes: message(
      16,
      words(4096, 0x10008, pick(0x10000n, 0x11000n, 0n), pick(0x10000n, 0x1000n), pick(4096n, 65536n, 512n)),
    ),
  }),
];

/** What ends most connections, or is refused always. */
const rareTemplates: readonly Template[] = [
  pick => ({ bytes: message(1, versionPayload(pick(QEMU_PROPOSAL, FULL_PROPOSAL, TRACKER_PROPOSAL, undefined))) }),
  pick => ({ bytes: message(11, words(pick(...iovas), 4n), { flags: pick(1, 0, 0x21), id: pick(0, 1, 2, 3) }) }),
  pick => ({ bytes: message(12, words(pick(...iovas), 4n), { flags: pick(1, 0, 0x21), id: pick(0, 1, 2, 3) }) }),
  pick => ({ bytes: message(pick(0, 14, 19, 99, 0xffff), words(1, 2, 3)) }),
];

/** Values that break what counts, adds or shifts. */
const edges = [0, 1, 2, 0xff, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 0x1000, 0xfff, 0x1001];

/** Makes another message of one. */
export type Change = (bytes: Uint8Array) => Uint8Array;

/** Changes of what stands behind the header; the header's size is right again afterwards, so that what follows is understood. */
export const payloadChange: Arbitrary<Change> = fc
  .oneof(
    fc.tuple(fc.nat(160), fc.nat(255)).map(([at, value]) => withByte(at, value)),
    fc.tuple(fc.nat(40), fc.constantFrom(...edges)).map(([at, value]) => withWord(4 * at, value)),
    fc.nat(100).map(length => withLength(length)),
    fc.constantFrom(1, 16, 300, 5000).map(more => withMore(more)),
  )
  .map(change => bytes => framed(bytes.subarray(0, HEADER_SIZE), change(bytes.slice(HEADER_SIZE))));

/** Changes of anything, the header included: what follows is rarely understood. */
export const anyChange: Arbitrary<Change> = fc.oneof(
  fc.tuple(fc.nat(160), fc.nat(255)).map(([at, value]) => withByte(at, value)),
  fc.tuple(fc.constantFrom(4, 8), fc.constantFrom(...edges, 0x10, 0x20)).map(([at, value]) => withWord(at, value)),
  fc.nat(100).map(length => withLength(length)),
);

/** What is done to a message; most stay as they are. */
const changes: Arbitrary<readonly Change[]> = fc.oneof(
  { weight: 12, arbitrary: fc.constant([]) },
  { weight: 5, arbitrary: fc.array(payloadChange, { minLength: 1, maxLength: 3 }) },
  { weight: 1, arbitrary: fc.array(anyChange, { minLength: 1, maxLength: 2 }) },
);

function framed(header: Uint8Array, payload: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(HEADER_SIZE + payload.length);
  bytes.set(header);
  bytes.set(payload, HEADER_SIZE);
  return withWord(4, bytes.length)(bytes);
}

function withByte(at: number, value: number): Change {
  return bytes => {
    if (bytes.length > 0) bytes[at % bytes.length] = value;
    return bytes;
  };
}

function withWord(at: number, value: number): Change {
  return bytes => {
    if (at + 4 <= bytes.length) new DataView(bytes.buffer, bytes.byteOffset).setUint32(at, value, true);
    return bytes;
  };
}

function withLength(length: number): Change {
  return bytes => bytes.slice(0, Math.min(length, bytes.length));
}

function withMore(more: number): Change {
  return bytes => {
    const longer = new Uint8Array(bytes.length + more).fill(0x55);
    longer.set(bytes);
    return longer;
  };
}

// Without fast-check's liking for small and large numbers: a choice is the remainder of one.
const choices = fc.noBias(fc.array(fc.noBias(fc.nat(0xffff)), { minLength: 8, maxLength: 8 }));
const anyFiles = fc.array(fc.constantFrom(...FILE_KINDS), { maxLength: 18 });
/** Descriptors instead of those that belong to the message. */
const extraFiles = fc.oneof({ weight: 12, arbitrary: fc.constant(undefined) }, { weight: 1, arbitrary: anyFiles });

/** Messages from templates, perhaps changed, perhaps with descriptors that nobody expects. */
function from(list: readonly Template[]): Arbitrary<HostileMessage> {
  return fc
    .tuple(fc.nat(list.length - 1), choices, changes, extraFiles, fc.nat(0xffff))
    .map(([which, chosen, change, extra, id]) => {
      let used = 0;
      const { bytes, files = [] } = list[which]!(
        (...values) => values[chosen[used++ % chosen.length]! % values.length]!,
      );
      // A reply to the server's own commands keeps its small number, which may be that of one.
      if (bytes[8] === 0) new DataView(bytes.buffer).setUint16(0, id, true);
      const changed = change.reduce((soFar, apply) => apply(soFar), bytes);
      return { bytes: changed.length === 0 ? bytes : changed, files: extra ?? files };
    });
}

/** Bytes that are no message at all. */
const noise: Arbitrary<HostileMessage> = fc
  .tuple(fc.uint8Array({ minLength: 1, maxLength: 80 }), anyFiles)
  .map(([bytes, files]) => ({ bytes, files: files.slice(0, 2) }));

/** A gigabyte, as its header says; the connection has to end before that is believed. */
const huge: Arbitrary<HostileMessage> = fc
  .constantFrom(2 ** 30, 2 ** 32 - 1, 2 ** 31, 15, 0)
  .map(size => ({ bytes: message(10, words(0n, 0, 4, 1), { size }), files: [] }));

/** Any message of a hostile client. */
export const hostileMessage: Arbitrary<HostileMessage> = fc.oneof(
  { weight: 30, arbitrary: from(usefulTemplates) },
  { weight: 60, arbitrary: from(templates) },
  { weight: 3, arbitrary: from(rareTemplates) },
  { weight: 1, arbitrary: noise },
  { weight: 1, arbitrary: huge },
);
