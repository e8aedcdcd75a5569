import type { MaybePromise } from '../../memory/index.js';
import { offsetInPage } from './address.js';
import type { AsyncEvents } from './async-events.js';
import { FeatureSelect, type Features, NvmeFeature } from './features.js';
import { andThen, type HostMemory } from './host-memory.js';
import {
  IdentifyStructure,
  identifyActiveNamespaces,
  identifyController,
  identifyDescriptors,
  identifyNamespace,
} from './identify.js';
import type { LogPages } from './log-pages.js';
import { ALL_NAMESPACES, NAMESPACE_ID, type Namespace } from './namespace.js';
import { AdminOpcode } from './opcodes.js';
import { CompletionQueue, type QueueSet, SubmissionQueue } from './queues.js';
import type { NvmeRegisterBlock } from './register-block.js';
import { MAX_QUEUE_ENTRIES, MAX_TRANSFER_SIZE } from './registers.js';
import type { Request } from './request.js';
import { NvmeStatus } from './status.js';

/** What an Asynchronous Event Request ends with for now: it is completed when something happens. */
export const DEFERRED = 'deferred';

/** What a command comes to. */
export type Outcome = NvmeStatus | typeof DEFERRED;

const PHYSICALLY_CONTIGUOUS = 0x1;
const INTERRUPTS_ENABLED = 0x2;
const SAVE = 0x8000_0000;
const RETAIN_EVENT = 0x8000;
/** Ids from here on cannot be followed by another. */
const LAST_NAMESPACE_IDS = 0xffff_fffe;
/** Dword 0 of Abort's completion: the command was not aborted. */
const NOT_ABORTED = 1;

/** What the admin commands work on. */
export interface AdminContext {
  readonly queues: QueueSet;
  readonly namespace: Namespace;
  readonly host: HostMemory;
  readonly features: Features;
  readonly logs: LogPages;
  readonly events: AsyncEvents;
  readonly model: string;
  readonly registers: NvmeRegisterBlock;
  /** Interrupt vectors that the controller has. */
  readonly vectors: number;
  /** A migration brings the serial number along. */
  readonly serial: () => string;
}

/** The admin command set (NVMe 1.4, section 5). Every command gives its status and never throws. */
export class AdminCommands {
  readonly #context: AdminContext;

  constructor(context: AdminContext) {
    this.#context = context;
  }

  /** Does a command that came through the admin queue. */
  execute(request: Request): MaybePromise<Outcome> {
    switch (request.opcode) {
      case AdminOpcode.IDENTIFY:
        return this.#identify(request);
      case AdminOpcode.CREATE_COMPLETION_QUEUE:
        return this.#createCompletionQueue(request);
      case AdminOpcode.CREATE_SUBMISSION_QUEUE:
        return this.#createSubmissionQueue(request);
      case AdminOpcode.DELETE_COMPLETION_QUEUE:
        return this.#deleteCompletionQueue(request);
      case AdminOpcode.DELETE_SUBMISSION_QUEUE:
        return this.#deleteSubmissionQueue(request);
      case AdminOpcode.SET_FEATURES:
        return this.#setFeatures(request);
      case AdminOpcode.GET_FEATURES:
        return this.#getFeatures(request);
      case AdminOpcode.GET_LOG_PAGE:
        return this.#getLogPage(request);
      case AdminOpcode.ABORT:
        return this.#abort(request);
      case AdminOpcode.ASYNC_EVENT_REQUEST:
        return this.#context.events.request(request.commandId) ? DEFERRED : NvmeStatus.ASYNC_EVENT_LIMIT_EXCEEDED;
      default:
        return NvmeStatus.INVALID_OPCODE;
    }
  }

  /** Section 5.15. */
  #identify(request: Request): MaybePromise<NvmeStatus> {
    const { namespace, host, model, serial } = this.#context;
    const { namespaceId } = request;
    switch (request.dword(10) & 0xff) {
      case IdentifyStructure.CONTROLLER:
        return host.give(request, identifyController(serial(), model));
      case IdentifyStructure.NAMESPACE:
        if (namespaceId !== NAMESPACE_ID) return NvmeStatus.INVALID_NAMESPACE;
        return host.give(request, identifyNamespace(namespace));
      case IdentifyStructure.NAMESPACE_DESCRIPTORS:
        if (namespaceId !== NAMESPACE_ID) return NvmeStatus.INVALID_NAMESPACE;
        return host.give(request, identifyDescriptors(serial()));
      case IdentifyStructure.ACTIVE_NAMESPACES:
        if (namespaceId >= LAST_NAMESPACE_IDS) return NvmeStatus.INVALID_NAMESPACE;
        return host.give(request, identifyActiveNamespaces(namespaceId));
      default:
        return NvmeStatus.INVALID_FIELD;
    }
  }

  /** Section 5.3. */
  #createCompletionQueue(request: Request): NvmeStatus {
    const { queues, features, vectors } = this.#context;
    const { id, size } = queueOf(request);
    const flags = request.dword(11);
    const vector = flags >>> 16;
    if (id === 0 || id > features.completionQueues || queues.completion[id]) return NvmeStatus.INVALID_QUEUE_ID;
    const invalid = this.#checkRing(request, size);
    if (invalid !== NvmeStatus.SUCCESS) return invalid;
    if (vector >= vectors) return NvmeStatus.INVALID_INTERRUPT_VECTOR;
    queues.addCompletion(new CompletionQueue(id, request.prp1, size, vector, (flags & INTERRUPTS_ENABLED) !== 0));
    return NvmeStatus.SUCCESS;
  }

  /** Section 5.4. */
  #createSubmissionQueue(request: Request): NvmeStatus {
    const { queues, features } = this.#context;
    const { id, size } = queueOf(request);
    const completionId = request.dword(11) >>> 16;
    if (id === 0 || id > features.submissionQueues || queues.submission[id]) return NvmeStatus.INVALID_QUEUE_ID;
    if (!queues.isIoQueueId(completionId)) return NvmeStatus.INVALID_QUEUE_ID;
    const completions = queues.completion[completionId];
    if (completions === undefined) return NvmeStatus.COMPLETION_QUEUE_INVALID;
    const invalid = this.#checkRing(request, size);
    if (invalid !== NvmeStatus.SUCCESS) return invalid;
    queues.addSubmission(new SubmissionQueue(id, request.prp1, size, completions));
    return NvmeStatus.SUCCESS;
  }

  /** What goes for both kinds of queue: two entries at least, of the sizes that there are, in one piece that begins a memory page. */
  #checkRing(request: Request, size: number): NvmeStatus {
    const isSizeRight = size >= 2 && size <= MAX_QUEUE_ENTRIES && this.#context.registers.hasEntrySizes;
    if (!isSizeRight) return NvmeStatus.INVALID_QUEUE_SIZE;
    if ((request.dword(11) & PHYSICALLY_CONTIGUOUS) === 0) return NvmeStatus.INVALID_FIELD;
    const offset = offsetInPage(request.prp1, this.#context.host.pageSize);
    return offset === 0 ? NvmeStatus.SUCCESS : NvmeStatus.INVALID_PRP_OFFSET;
  }

  /** Section 5.5. */
  #deleteCompletionQueue(request: Request): NvmeStatus {
    const { queues } = this.#context;
    const { id } = queueOf(request);
    const queue = queues.completion[id];
    if (id === 0 || queue === undefined) return NvmeStatus.INVALID_QUEUE_ID;
    if (queue.users > 0) return NvmeStatus.INVALID_QUEUE_DELETION;
    queues.completion[id] = undefined;
    return NvmeStatus.SUCCESS;
  }

  /** Section 5.6: commands that were fetched complete first; those still in the queue are gone with it. */
  #deleteSubmissionQueue(request: Request): MaybePromise<NvmeStatus> {
    const { queues } = this.#context;
    const { id } = queueOf(request);
    const queue = queues.submission[id];
    if (id === 0 || queue === undefined || queue.closing) return NvmeStatus.INVALID_QUEUE_ID;
    const remove = () => {
      // A controller reset may have taken all queues meanwhile.
      if (queues.submission[id] === queue) queues.removeSubmission(queue);
      return NvmeStatus.SUCCESS;
    };
    if (queue.inFlight === 0) return remove();
    queue.closing = true;
    return new Promise<void>(resolve => {
      queue.onIdle = resolve;
    }).then(remove);
  }

  /** Section 5.21. */
  #setFeatures(request: Request): MaybePromise<NvmeStatus> {
    const { features, queues, events } = this.#context;
    const feature = request.dword(10) & 0xff;
    if (feature === NvmeFeature.NUMBER_OF_QUEUES && queues.hasIoQueues) return NvmeStatus.COMMAND_SEQUENCE_ERROR;
    if (request.dword(10) >= SAVE) {
      const known = features.get(feature, FeatureSelect.CAPABILITIES, 0);
      return known.status === NvmeStatus.SUCCESS ? NvmeStatus.FEATURE_NOT_SAVEABLE : known.status;
    }
    const wasWriteCacheEnabled = features.isWriteCacheEnabled;
    const { status, result } = features.set(feature, request.dword(11));
    request.result = result;
    if (features.dueWarning !== undefined) events.raise(features.dueWarning);
    return wasWriteCacheEnabled && !features.isWriteCacheEnabled ? this.#emptyWriteCache() : status;
  }

  /** The write cache has just been switched off: what was written before is made durable, too. A cache that cannot be emptied stays on. */
  #emptyWriteCache(): MaybePromise<NvmeStatus> {
    const { namespace, features } = this.#context;
    const restore = (status: NvmeStatus) => {
      if (status !== NvmeStatus.SUCCESS) features.set(NvmeFeature.VOLATILE_WRITE_CACHE, 1);
      return status;
    };
    const flushed = namespace.flush();
    return flushed instanceof Promise ? flushed.then(restore) : restore(flushed);
  }

  /** Section 5.13. */
  #getFeatures(request: Request): NvmeStatus {
    const select = (request.dword(10) >>> 8) & 0x7;
    const { status, result } = this.#context.features.get(request.dword(10) & 0xff, select, request.dword(11));
    request.result = result;
    return status;
  }

  /** Section 5.14. What is asked for beyond a page's end reads 0. */
  #getLogPage(request: Request): MaybePromise<NvmeStatus> {
    const { logs, events, host } = this.#context;
    const { namespaceId } = request;
    const id = request.dword(10) & 0xff;
    const page = logs.page(id);
    if (page === undefined) return NvmeStatus.INVALID_LOG_PAGE;
    if (namespaceId !== 0 && namespaceId !== ALL_NAMESPACES) return NvmeStatus.INVALID_FIELD;
    const length = 4 * (request.dword(10) >>> 16) + 4 + 4 * 2 ** 16 * (request.dword(11) & 0xffff);
    const offset = request.dword(12) + request.dword(13) * 2 ** 32;
    if (length > MAX_TRANSFER_SIZE || offset >= page.length || offset % 4 !== 0) return NvmeStatus.INVALID_FIELD;
    const data = new Uint8Array(length);
    data.set(page.subarray(offset, offset + length));
    return andThen(host.give(request, data), () => {
      if ((request.dword(10) & RETAIN_EVENT) === 0) events.acknowledge(id);
      return NvmeStatus.SUCCESS;
    });
  }

  /** Section 5.1. Only what waits can be aborted: all else is done as fast as it comes. */
  #abort(request: Request): NvmeStatus {
    const queueId = request.dword(10) & 0xffff;
    const commandId = request.dword(10) >>> 16;
    const isAborted = queueId === 0 && this.#context.events.abort(commandId);
    request.result = isAborted ? 0 : NOT_ABORTED;
    return NvmeStatus.SUCCESS;
  }
}

/** Dword 10 of the commands about queues: id, and entries less one. */
function queueOf(request: Request): { id: number; size: number } {
  return { id: request.dword(10) & 0xffff, size: (request.dword(10) >>> 16) + 1 };
}
