import { VfioError } from '../../uapi/index.js';
import { EtcdGateway, type EtcdOptions } from './etcd-gateway.js';
import { decodeRecord, encodeRecord, type OwnershipRecord, requireName } from './ownership-record.js';
import type { CompareAndSetResult, OwnershipStore } from './ownership-store.js';

/** Where in etcd the records are, and how it is reached. */
export interface EtcdOwnershipStoreOptions extends EtcdOptions {
  /** What each record's key begins with; the machine's name follows. Default `/dmalog/ownership/`. */
  prefix?: string;
}

/**
 * Records in etcd, for fleets: one key a machine. Reads are linearizable, and a comparison and its write are one transaction, so that whatever
 * member answers, all see one order of records.
 */
export class EtcdOwnershipStore implements OwnershipStore {
  readonly name: string;
  readonly #gateway: EtcdGateway;
  readonly #prefix: string;

  /** @throws VfioError EINVAL for an endpoint that is no http or https address, or none at all */
  constructor(options: EtcdOwnershipStoreOptions) {
    this.#gateway = new EtcdGateway(options);
    this.#prefix = options.prefix ?? '/dmalog/ownership/';
    this.name = `etcd at ${options.endpoints.join(', ')}`;
  }

  /**
   * {@inheritDoc OwnershipStore.read}
   * @throws VfioError EBADMSG for a key that holds no record; EACCES, ETIMEDOUT, ECONNREFUSED… when etcd does not answer
   */
  async read(machine: string): Promise<OwnershipRecord | undefined> {
    requireName('machine', machine);
    const answer = await this.#gateway.call('/v3/kv/range', { key: this.#key(machine) });
    if (answer.outcome !== 'answered') throw answer.error;
    return this.#recordIn(machine, answer.body as RangeAnswer);
  }

  async compareAndSet(expected: OwnershipRecord | undefined, next: OwnershipRecord): Promise<CompareAndSetResult> {
    const key = this.#key(next.machine);
    const answer = await this.#gateway.call('/v3/kv/txn', {
      compare: [
        expected === undefined
          ? { key, target: 'CREATE', result: 'EQUAL', create_revision: '0' }
          : { key, target: 'VALUE', result: 'EQUAL', value: base64(encodeRecord(expected)) },
      ],
      success: [{ request_put: { key, value: base64(encodeRecord(next)) } }],
      failure: [{ request_range: { key } }],
    });
    if (answer.outcome !== 'answered') return { outcome: answer.outcome, error: answer.error };
    const body = answer.body as TransactionAnswer;
    if (body.succeeded === true) return { outcome: 'set' };
    try {
      const current = this.#recordIn(next.machine, body.responses?.[0]?.response_range);
      return { outcome: 'conflict', current };
    } catch (error) {
      // What came shows neither that the write was done nor which record has prevented it.
      return { outcome: 'unknown', error: error as VfioError };
    }
  }

  #key(machine: string): string {
    return base64(this.#prefix + machine);
  }

  /** @throws VfioError EBADMSG */
  #recordIn(machine: string, range: RangeAnswer | undefined): OwnershipRecord | undefined {
    // JSON leaves out what is zero or empty; the header is in every answer.
    if (typeof range !== 'object' || range === null || typeof range.header !== 'object') throw this.#bad('no answer');
    const value: unknown = range.kvs?.[0]?.value;
    if (range.kvs === undefined) return undefined;
    if (typeof value !== 'string') throw this.#bad('no value');
    const where = `the key ${this.#prefix}${machine} of ${this.name}`;
    const record = decodeRecord(Buffer.from(value, 'base64').toString(), where);
    if (record.machine !== machine) throw this.#bad(`the record of ${record.machine}`);
    return record;
  }

  #bad(what: string): VfioError {
    const message = `${this.name} gave ${what} where an ownership record was due`;
    return new VfioError('EBADMSG', { operation: 'ownership', field: 'record', message });
  }
}

interface RangeAnswer {
  header?: object;
  kvs?: { value?: unknown }[];
}

interface TransactionAnswer {
  succeeded?: unknown;
  responses?: { response_range?: RangeAnswer }[];
}

function base64(text: string): string {
  return Buffer.from(text).toString('base64');
}
