import { OwnedFd } from './file-descriptor.js';
import { addressOfBytes } from './libc.js';

/*
 * struct msghdr with its one iovec and its control buffer, packed by hand into one block that is made once: filling in koffi's
 * struct objects took 2.7 µs for a sendmsg and a recvmsg, this takes 1.1 µs.
 *
 *   0  msghdr, 56 bytes: name 0, name length 8, iovec pointer 16, iovec count 24, control pointer 32, control length 40, flags 48
 *  64  iovec: pointer 0, length 8
 *  80  control buffer: room for one SCM_RIGHTS message of 253 descriptors
 *
 * A control message is { u64 length, i32 level, i32 type } and the descriptors as i32. Example: two descriptors make
 * length 16 + 2 * 4 = 24, which is a multiple of 8 already; three make length 28, and take up 32.
 */

const IOVEC = 64;
const CONTROL = 80;
const CONTROL_HEADER = 16;
const SOL_SOCKET = 1;
const SCM_RIGHTS = 1;

/** Most descriptors in one message (SCM_MAX_FD of Linux). */
export const MAX_MESSAGE_FDS = 253;

/** Most bytes of one call (MAX_RW_COUNT of Linux). */
const MAX_TRANSFER = 0x7ffff000;

const CONTROL_SPACE = roundUpToWord(CONTROL_HEADER + 4 * MAX_MESSAGE_FDS);

/** A message in native memory, for sendmsg and recvmsg. */
export class MessageBlock {
  /** Where the header stands, for sendmsg and recvmsg; user space ends below 2^47, so that a number is exact. */
  readonly address: number;
  readonly #bytes = new Uint8Array(CONTROL + CONTROL_SPACE);
  readonly #view = new DataView(this.#bytes.buffer);
  // The last payload: its address is not asked for again (126 ns), and it cannot go away during the call.
  #payload: Uint8Array | undefined;

  constructor() {
    const address = addressOfBytes(this.#bytes);
    this.address = Number(address);
    this.#view.setBigUint64(16, address + BigInt(IOVEC), true);
    this.#view.setUint32(24, 1, true);
    this.#view.setBigUint64(32, address + BigInt(CONTROL), true);
  }

  /** Points the iovec at `bytes`. */
  setPayload(bytes: Uint8Array): void {
    if (bytes !== this.#payload) {
      this.#view.setBigUint64(IOVEC, addressOfBytes(bytes), true);
      this.#payload = bytes;
    }
    this.#view.setUint32(IOVEC + 8, Math.min(bytes.length, MAX_TRANSFER), true);
  }

  /** Writes one SCM_RIGHTS message into the control buffer. */
  setFds(fds: readonly number[]): void {
    const length = CONTROL_HEADER + 4 * fds.length;
    this.#view.setUint32(40, roundUpToWord(length), true);
    this.#view.setUint32(CONTROL, length, true);
    this.#view.setInt32(CONTROL + 8, SOL_SOCKET, true);
    this.#view.setInt32(CONTROL + 12, SCM_RIGHTS, true);
    for (const [index, fd] of fds.entries()) this.#view.setInt32(CONTROL + CONTROL_HEADER + 4 * index, fd, true);
  }

  /** Offers the whole control buffer; the kernel shortens it with each recvmsg. */
  offerControl(): void {
    this.#view.setUint32(40, CONTROL_SPACE, true);
  }

  /** msg_flags as recvmsg left them. */
  get flags(): number {
    return this.#view.getUint32(48, true);
  }

  /** Takes over the descriptors that recvmsg brought: each is open in this process now, and must be closed by somebody. */
  takeFds(): readonly OwnedFd[] {
    const controlLength = this.#view.getUint32(40, true);
    if (controlLength < CONTROL_HEADER) return NO_FDS;
    const fds: OwnedFd[] = [];
    const end = CONTROL + controlLength;
    for (let at = CONTROL; at + CONTROL_HEADER <= end; ) {
      const length = this.#view.getUint32(at, true);
      const isRights =
        this.#view.getInt32(at + 8, true) === SOL_SOCKET && this.#view.getInt32(at + 12, true) === SCM_RIGHTS;
      for (let position = CONTROL_HEADER; isRights && position + 4 <= length; position += 4) {
        fds.push(new OwnedFd(this.#view.getInt32(at + position, true)));
      }
      at += Math.max(roundUpToWord(length), CONTROL_HEADER);
    }
    return fds;
  }
}

const NO_FDS: readonly OwnedFd[] = Object.freeze([]);

function roundUpToWord(length: number): number {
  return Math.ceil(length / 8) * 8;
}
