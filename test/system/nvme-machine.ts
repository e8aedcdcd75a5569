import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream, truncateSync, writeFileSync } from 'node:fs';
import { pipeline } from 'node:stream/promises';
import { inject, onTestFinished } from 'vitest';
import { FileDisk, NvmeController } from '../../src/devices/nvme/index.js';
import type { Guest, GuestOptions } from '../machines/guest.js';
import { DmaWitness } from './dma-witness.js';
import { boot, serve } from './guests.js';
import { DeviceTracker } from './tracker.js';

const MEMORY_MIB = 256;
const DISK_BYTES = 256 * 2 ** 20;

/** What {@link bootOnNvme} gives. */
export interface NvmeMachine {
  controller: NvmeController;
  witness: DmaWitness;
  tracker: DeviceTracker;
  guest: Guest;
}

/**
 * A guest on a controller on the file `image`, served on a socket beside it; a witness at the controller's port; and a tracker on a connection of
 * its own, which was there first.
 * @param options.addresses how many bytes of IO virtual addresses the tracker logs, from 0; default: as many as the guest has memory
 */
export async function bootOnNvme(
  image: string,
  options: GuestOptions & { addresses?: number } = {},
): Promise<NvmeMachine> {
  const { addresses = MEMORY_MIB * 2 ** 20, ...guestOptions } = options;
  const socket = `${image}.sock`;
  const disk = await FileDisk.open(image);
  onTestFinished(() => disk.close());
  const controller = new NvmeController({ disk });
  const witness = new DmaWitness(controller.dma);
  await serve(controller, socket);
  const tracker = await DeviceTracker.start(socket, addresses);
  const guest = await boot({ memoryMiB: MEMORY_MIB, devices: [socket], ...guestOptions });
  return { controller, witness, tracker, guest };
}

/** Makes a file for a disk: `content`, and holes behind it. */
export function makeImage(image: string, content: Uint8Array = new Uint8Array(0)): void {
  writeFileSync(image, content);
  truncateSync(image, DISK_BYTES);
}

/**
 * Runs a program of e2fsprogs on this machine; returns what it printed.
 * @throws Error when it exits with another status than 0, with what it printed
 */
export function e2fsprogs(...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(inject('machine').tool, args, { encoding: 'utf8' });
  if (status !== 0) throw new Error(`${args.join(' ')}: ${status}\n${stdout}${stderr}`);
  return stdout;
}

/** SHA-256 of a file, in hexadecimal digits. */
export async function sha256(file: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(file), hash);
  return hash.digest('hex');
}
