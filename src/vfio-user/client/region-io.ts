import { understand } from '../../uapi/index.js';
import { Command } from '../wire/constants.js';
import { MAX_REQUEST_DATA, type VfioUserLimits } from '../wire/limits.js';
import { requireU32 } from '../wire/payload.js';
import {
  decodeRegionData,
  decodeRegionWritesDone,
  encodeRegionAccess,
  encodeRegionWrite,
  encodeRegionWriteMulti,
  MAX_MULTI_WRITES,
  type RegionWrite,
  requireMultiData,
} from '../wire/region-messages.js';
import type { ClientConnection } from './connection.js';
import type { Agreement } from './handshake.js';

/** Reads and writes of a device's regions, by messages. Every call throws VfioError as the `VfioUserClient`'s do. */
export class RegionIo {
  readonly #connection: ClientConnection;
  readonly #limits: VfioUserLimits;
  readonly #mostWritten: number;
  readonly #writeMultiple: boolean;

  constructor(connection: ClientConnection, { limits, writeMultiple }: Agreement) {
    this.#connection = connection;
    this.#limits = limits;
    this.#mostWritten = mostRequestData(limits.maxDataTransfer);
    this.#writeMultiple = writeMultiple;
  }

  /** More than one message can carry is read in pieces, one after the other. */
  read(region: number, offset: number, count: number): Promise<Uint8Array> {
    if (count <= this.#limits.maxDataTransfer) return this.#readPiece(region, offset, count);
    return this.#readPieces(region, offset, count);
  }

  async #readPieces(region: number, offset: number, count: number): Promise<Uint8Array> {
    requireU32(count, 'REGION_READ', 'count');
    const bytes = new Uint8Array(count);
    for (let done = 0; done < count; done += this.#limits.maxDataTransfer) {
      const size = Math.min(count - done, this.#limits.maxDataTransfer);
      bytes.set(await this.#readPiece(region, offset + done, size), done);
    }
    return bytes;
  }

  async #readPiece(region: number, offset: number, count: number): Promise<Uint8Array> {
    const reply = await this.#connection.request(
      Command.REGION_READ,
      encodeRegionAccess({ region, offset, count }),
      'REGION_READ',
    );
    return understand('REGION_READ', () => decodeRegionData(reply, count));
  }

  /** More than 32 KiB are written in pieces, one after the other. */
  write(region: number, offset: number, data: Uint8Array): Promise<void> {
    // Not `async`, whose promise beside the connection's own would cost as much again.
    try {
      if (data.length > this.#mostWritten) return this.#writePieces(region, offset, data);
      return this.#writePiece(region, offset, data);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  async #writePieces(region: number, offset: number, data: Uint8Array): Promise<void> {
    for (const { at, piece } of requestPieces(data, this.#limits.maxDataTransfer)) {
      await this.#writePiece(region, offset + at, piece);
    }
  }

  #writePiece(region: number, offset: number, data: Uint8Array): Promise<void> {
    return this.#connection.run(Command.REGION_WRITE, encodeRegionWrite(region, offset, data), 'REGION_WRITE');
  }

  /**
   * Writes without a reply: what the device refuses, nobody is told. More than 32 KiB are written in pieces.
   * @returns done when so much has left that more may follow; usually at once
   */
  async post(region: number, offset: number, data: Uint8Array): Promise<void> {
    for (const { at, piece } of requestPieces(data, this.#limits.maxDataTransfer)) {
      await this.#connection.post(Command.REGION_WRITE, encodeRegionWrite(region, offset + at, piece), 'REGION_WRITE');
    }
  }

  /**
   * Several writes of 8 bytes or fewer, in order, in one message for every 200 where the server takes such, else one by one.
   * @returns how many were done: fewer than asked for when the device has refused the one behind them
   */
  async writeMulti(writes: readonly RegionWrite[]): Promise<number> {
    for (const { data } of writes) requireMultiData(data.length);
    if (!this.#writeMultiple) return this.#writeOneByOne(writes);
    for (let done = 0; done < writes.length; ) {
      const part = writes.slice(done, done + MAX_MULTI_WRITES);
      const reply = await this.#connection.request(
        Command.REGION_WRITE_MULTI,
        encodeRegionWriteMulti(part),
        'REGION_WRITE_MULTI',
      );
      const count = understand('REGION_WRITE_MULTI', () => decodeRegionWritesDone(reply, part.length));
      done += count;
      if (count < part.length) return done;
    }
    return writes.length;
  }

  async #writeOneByOne(writes: readonly RegionWrite[]): Promise<number> {
    for (const [index, { region, offset, data }] of writes.entries()) {
      try {
        await this.#connection.request(Command.REGION_WRITE, encodeRegionWrite(region, offset, data), 'REGION_WRITE');
      } catch (error) {
        if (this.#connection.closed) throw error;
        return index;
      }
    }
    return writes.length;
  }
}

function mostRequestData(maxDataTransfer: number): number {
  return Math.min(MAX_REQUEST_DATA, maxDataTransfer);
}

/** Data in the pieces that one request carries each; data of no bytes is one piece. */
export function* requestPieces(data: Uint8Array, maxDataTransfer: number): Iterable<{ at: number; piece: Uint8Array }> {
  const size = mostRequestData(maxDataTransfer);
  let at = 0;
  do {
    yield { at, piece: data.subarray(at, at + size) };
    at += size;
  } while (at < data.length);
}
