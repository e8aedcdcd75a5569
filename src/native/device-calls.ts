import { checked, libc } from './libc.js';
import type { NativeBlock } from './native-block.js';
import { offThread } from './off-thread.js';

/*
 * ioctl, and reads and writes of descriptors that are no plain files: a device's registers, a stream of migration data. Each on this thread
 * or on another one; there, the descriptor must stay open until the promise settles, and it is the caller who sees to that.
 */

/**
 * ioctl(2).
 * @param argument a block, whose address is passed, or a number
 * @returns what the call returned
 * @throws VfioError with the call's errno, `operation` as operation
 */
export function ioctl(fd: number, request: number, argument: NativeBlock | number, operation: string): number {
  return checked(operation, () => libc.ioctl(fd, request, passed(argument)));
}

/** {@link ioctl} on another thread. */
export function ioctlOffThread(
  fd: number,
  request: number,
  argument: NativeBlock | number,
  operation: string,
): Promise<number> {
  return offThread(operation, answer => libc.ioctl.async(fd, request, passed(argument), answer));
}

/** A block is asked for its address anew with each attempt, which also keeps it alive: a number alone would not. */
function passed(argument: NativeBlock | number): number {
  return typeof argument === 'number' ? argument : argument.address;
}

/** An interval of a descriptor's offsets, and the block whose first `count` bytes go there or come from there. */
export interface BlockTransfer {
  readonly fd: number;
  /** Bytes. */
  readonly offset: number;
  readonly block: NativeBlock;
  readonly count: number;
}

/** pread(2). @returns how many bytes there were @throws VfioError as pread(2) */
export function readBlock({ fd, offset, block, count }: BlockTransfer, operation: string): number {
  return checked(operation, () => libc.preadAt(fd, block.address, count, offset));
}

/** {@link readBlock} on another thread. */
export function readBlockOffThread({ fd, offset, block, count }: BlockTransfer, operation: string): Promise<number> {
  return offThread(operation, answer => libc.preadAt.async(fd, block.address, count, offset, answer));
}

/** pwrite(2). @returns how many bytes were taken @throws VfioError as pwrite(2) */
export function writeBlock({ fd, offset, block, count }: BlockTransfer, operation: string): number {
  return checked(operation, () => libc.pwriteAt(fd, block.address, count, offset));
}

/** {@link writeBlock} on another thread. */
export function writeBlockOffThread({ fd, offset, block, count }: BlockTransfer, operation: string): Promise<number> {
  return offThread(operation, answer => libc.pwriteAt.async(fd, block.address, count, offset, answer));
}

/** read(2) of a stream, on another thread. @returns how many bytes there were; 0: the end, or none for now */
export function readStreamOffThread(fd: number, block: NativeBlock, operation: string): Promise<number> {
  return offThread(operation, answer => libc.readTo.async(fd, block.address, block.bytes.length, answer));
}

/** write(2) of a block's bytes into a stream, on another thread. @returns how many bytes were taken */
export function writeStreamOffThread(fd: number, block: NativeBlock, operation: string): Promise<number> {
  return offThread(operation, answer => libc.writeFrom.async(fd, block.address, block.bytes.length, answer));
}
