import { type AsyncEventsState, isAsyncEventsState } from './async-events.js';
import { readContent, writeContent } from './disk-content.js';
import { ERROR_ENTRY_SIZE, ERROR_LOG_ENTRIES, type ErrorLogState, isErrorLogState } from './error-log.js';
import { type Features, type FeaturesState, SCALAR_FEATURES } from './features.js';
import { isSerial, SERIAL_SIZE } from './identity.js';
import type { Namespace } from './namespace.js';
import { CompletionQueue, QueueSet, SubmissionQueue } from './queues.js';
import { NvmeRegisterBlock } from './register-block.js';
import { MAX_ADMIN_QUEUE_ENTRIES, MAX_QUEUE_ENTRIES, REGISTERS_SIZE } from './registers.js';
import { invalidState, StateReader, StateWriter } from './state-bytes.js';
import { type NvmeStatistics, STATISTICS_NAMES } from './statistics.js';

/*
 * The controller's migrating state. Little-endian; a list is a u16 count and its items.
 *
 *   u64 disk's bytes · u32 block's bytes · u16 whether the content is part of the state · 20 bytes serial number, filled up with spaces
 *   registers 0x00 to 0x3f as they read
 *   features: u32 each of SCALAR_FEATURES · u32 over and u32 under temperature threshold · list of u16 vectors without coalescing
 *   events: list of u16 command ids that wait · list of u16 command ids that were aborted · u16 pending · u16 masked
 *   error log: u64 errors so far · list of entries, 64 bytes each, newest first
 *   statistics: u64 each of STATISTICS_NAMES
 *   list of completion queues: u16 id · u64 address · u16 entries · u16 head · u16 tail · u16 phase · u16 vector · u16 interrupts enabled
 *   list of submission queues: u16 id · u64 address · u16 entries · u16 head · u16 tail · u16 completion queue's id
 *   the disk's content, where it is in this process (disk-content.ts)
 *
 * A stopped controller has no command in flight: what it has not fetched lies in the queues in guest memory, and is fetched where it runs next.
 * The serial number moves along, so that the guest sees the same disk. That it is the same is for those to see to who gave the destination its
 * disk: only the sizes are compared.
 */

/** What a controller is, as far as its state is concerned. */
export interface ControllerParts {
  namespace: Namespace;
  serial: string;
  registers: NvmeRegisterBlock;
  features: FeaturesState;
  events: AsyncEventsState;
  errors: ErrorLogState;
  statistics: NvmeStatistics;
  queues: QueueSet;
}

/** What {@link decodeState} gives: checked, and not yet in force. */
export interface LoadedState extends Omit<ControllerParts, 'namespace'> {
  /** Puts the disk's content in its place. */
  putContent(): void;
}

/** The controller's state as bytes. */
export function encodeState(parts: ControllerParts): Uint8Array {
  const writer = new StateWriter();
  writeHead(writer, parts);
  writeContent(writer, parts.namespace.disk.content);
  return writer.finish();
}

/** At most how many bytes {@link encodeState} gives: the disk's content is counted whole. */
export function stateSize(parts: ControllerParts): number {
  const writer = new StateWriter();
  writeHead(writer, parts);
  const content = parts.namespace.disk.content?.length ?? 0;
  return writer.finish().length + 4 + content + 4 * Math.ceil(content / 65536);
}

function writeHead(writer: StateWriter, parts: ControllerParts): void {
  const { namespace, features, events, errors, queues } = parts;
  writer.u64(namespace.disk.size);
  writer.u32(namespace.blockSize);
  writer.u16(namespace.disk.content === undefined ? 0 : 1);
  writer.bytes(new TextEncoder().encode(parts.serial.padEnd(SERIAL_SIZE)));
  writer.bytes(parts.registers.bytes.slice());
  for (const value of features.scalars) writer.u32(value);
  writer.u32(features.overTemperature);
  writer.u32(features.underTemperature);
  writer.list(features.uncoalesced, vector => writer.u16(vector));
  writer.list(events.waiting, commandId => writer.u16(commandId));
  writer.list(events.aborted, commandId => writer.u16(commandId));
  writer.u16(events.pending);
  writer.u16(events.masked);
  writer.u64(errors.count);
  writer.u16(errors.entries.length / ERROR_ENTRY_SIZE);
  writer.bytes(errors.entries);
  for (const name of STATISTICS_NAMES) writer.u64(parts.statistics[name]);
  writer.list(
    queues.completion.filter(queue => queue !== undefined),
    queue => writeCompletionQueue(writer, queue),
  );
  writer.list(
    queues.submission.filter(queue => queue !== undefined),
    queue => writeSubmissionQueue(writer, queue),
  );
}

function writeCompletionQueue(writer: StateWriter, queue: CompletionQueue): void {
  writer.u16(queue.id);
  writer.u64(queue.base);
  for (const value of [queue.size, queue.head, queue.tail, queue.phase, queue.vector]) writer.u16(value);
  writer.u16(queue.interruptsEnabled ? 1 : 0);
}

function writeSubmissionQueue(writer: StateWriter, queue: SubmissionQueue): void {
  writer.u16(queue.id);
  writer.u64(queue.base);
  for (const value of [queue.size, queue.head, queue.tail, queue.completions.id]) writer.u16(value);
}

/**
 * Reverse of {@link encodeState}, for a controller like `target`; nothing of that changes.
 * @param vectors interrupt vectors that the controller has
 * @throws VfioError EINVAL for a state that such a controller does not have
 */
export function decodeState(
  bytes: Uint8Array,
  target: { namespace: Namespace; features: Features; queues: QueueSet },
  vectors: number,
): LoadedState {
  const reader = new StateReader(bytes);
  checkDisk(reader, target.namespace);
  const serial = readSerial(reader);
  const registers = readRegisters(reader);
  const features = readFeatures(reader, target.features);
  const events = readEvents(reader);
  const errors = readErrors(reader);
  const statistics = readStatistics(reader);
  const queues = readQueues(reader, registers, target.queues.submission.length - 1, vectors);
  const putContent = readContent(reader, target.namespace.disk.content);
  reader.finish();
  return { serial, registers, features, events, errors, statistics, queues, putContent };
}

function demand(holds: boolean, field: string): void {
  if (!holds) throw invalidState(field, 'has a value that no controller gives');
}

function checkDisk(reader: StateReader, namespace: Namespace): void {
  const size = reader.count();
  const blockSize = reader.u32();
  const hasContent = reader.u16();
  if (size !== namespace.disk.size || blockSize !== namespace.blockSize) {
    const own = `${namespace.disk.size} bytes in blocks of ${namespace.blockSize}`;
    throw invalidState('disk', `the disk has ${own}, the state's ${size} in blocks of ${blockSize}`);
  }
  if (hasContent !== (namespace.disk.content === undefined ? 0 : 1)) {
    throw invalidState('disk', 'one of the two disks is in memory, the other is not');
  }
}

function readSerial(reader: StateReader): string {
  const serial = Buffer.from(reader.bytes(SERIAL_SIZE)).toString('latin1').trimEnd();
  demand(isSerial(serial), 'serial');
  return serial;
}

function readRegisters(reader: StateReader): NvmeRegisterBlock {
  const registers = new NvmeRegisterBlock();
  demand(registers.load(reader.bytes(REGISTERS_SIZE)), 'registers');
  return registers;
}

function readFeatures(reader: StateReader, target: Features): FeaturesState {
  const features = {
    scalars: SCALAR_FEATURES.map(() => reader.u32()),
    overTemperature: reader.u32(),
    underTemperature: reader.u32(),
    uncoalesced: reader.list(() => reader.u16()),
  };
  demand(target.accepts(features), 'features');
  return features;
}

function readEvents(reader: StateReader): AsyncEventsState {
  const events = {
    waiting: reader.list(() => reader.u16()),
    aborted: reader.list(() => reader.u16()),
    pending: reader.u16(),
    masked: reader.u16(),
  };
  demand(isAsyncEventsState(events), 'events');
  return events;
}

function readErrors(reader: StateReader): ErrorLogState {
  const count = reader.count();
  const entries = reader.u16();
  demand(entries <= ERROR_LOG_ENTRIES, 'errors');
  const errors = { count, entries: reader.bytes(entries * ERROR_ENTRY_SIZE) };
  demand(isErrorLogState(errors), 'errors');
  return errors;
}

function readStatistics(reader: StateReader): NvmeStatistics {
  return Object.fromEntries(STATISTICS_NAMES.map(name => [name, reader.count()])) as unknown as NvmeStatistics;
}

/** A controller has its admin queues exactly while it is ready, and others only besides these. */
function readQueues(reader: StateReader, registers: NvmeRegisterBlock, ioQueues: number, vectors: number): QueueSet {
  const queues = new QueueSet(ioQueues);
  for (const queue of reader.list(() => readCompletionQueue(reader, vectors))) {
    demand(isNew(queues.completion, queue) && isRing(queue, registers.pageSize), 'completion_queues');
    queues.addCompletion(queue);
  }
  for (const queue of reader.list(() => readSubmissionQueue(reader, queues))) {
    demand(isNew(queues.submission, queue) && isRing(queue, registers.pageSize), 'submission_queues');
    demand((queue.id === 0) === (queue.completions.id === 0), 'submission_queues');
    queues.addSubmission(queue);
  }
  const hasAdminQueues = queues.completion[0] !== undefined && queues.submission[0] !== undefined;
  const hasQueues = queues.completion.some(queue => queue !== undefined);
  demand(registers.hasQueues ? hasAdminQueues : !hasQueues, 'queues');
  return queues;
}

function readCompletionQueue(reader: StateReader, vectors: number): CompletionQueue {
  const id = reader.u16();
  const base = readBase(reader);
  const [size, head, tail, phase, vector, interruptsEnabled] = Array.from({ length: 6 }, () => reader.u16());
  demand(phase! <= 1 && vector! < vectors && interruptsEnabled! <= 1, 'completion_queues');
  const queue = new CompletionQueue(id, base, size!, vector!, interruptsEnabled === 1);
  queue.head = head!;
  queue.tail = tail!;
  queue.phase = phase!;
  return queue;
}

function readSubmissionQueue(reader: StateReader, queues: QueueSet): SubmissionQueue {
  const id = reader.u16();
  const base = readBase(reader);
  const [size, head, tail, completionId] = Array.from({ length: 4 }, () => reader.u16());
  const completions = queues.completion[completionId!];
  if (completions === undefined) throw invalidState('submission_queues', `no completion queue ${completionId}`);
  const queue = new SubmissionQueue(id, base, size!, completions);
  queue.head = head!;
  queue.tail = tail!;
  return queue;
}

function readBase(reader: StateReader): number | bigint {
  const base = reader.u64();
  return base <= Number.MAX_SAFE_INTEGER ? Number(base) : base;
}

function isNew(queues: readonly unknown[], queue: { id: number }): boolean {
  return queue.id < queues.length && queues[queue.id] === undefined;
}

function isRing(queue: CompletionQueue | SubmissionQueue, pageSize: number): boolean {
  const most = queue.id === 0 ? MAX_ADMIN_QUEUE_ENTRIES : MAX_QUEUE_ENTRIES;
  const isSizeRight = queue.size >= 2 && queue.size <= most;
  return (
    isSizeRight && queue.head < queue.size && queue.tail < queue.size && BigInt(queue.base) % BigInt(pageSize) === 0n
  );
}
