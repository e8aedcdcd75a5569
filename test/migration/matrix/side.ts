import { closeSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { Child } from './child.js';
import { DEVICES } from './run.js';

/** What a process has open: how many of each kind. */
export type Resources = Record<string, number>;

/** What a device process says of itself: see children/device.mjs. */
export interface DeviceStatus {
  /** It works for the machine, and holds its lock. */
  runs: boolean;
  /** When it began to, the other side's had not ended. */
  ranTwice: boolean;
  state: number;
  logging: boolean;
  open: Resources;
}

/** The files of one run. */
export interface RunFiles {
  /** Everything lies here. */
  readonly folder: string;
  /** The ownership store. */
  readonly records: string;
  readonly machine: string;
}

/** One side: a host process, and its device processes. They serve one run after another; what was killed is started anew. */
export class Side {
  readonly name: 'source' | 'destination';
  readonly #folder: string;
  #host: Child | undefined;
  #devices: Child[] = [];
  #sockets: string[] = [];
  #started = 0;
  /** The host must not be used again. */
  #isSpoiled = false;

  constructor(name: 'source' | 'destination', folder: string) {
    this.name = name;
    this.#folder = folder;
  }

  get host(): Child {
    return this.#host!;
  }

  get devices(): readonly Child[] {
    return this.#devices;
  }

  get children(): Child[] {
    return [this.#host!, ...this.#devices];
  }

  /** After this run the host's process is of no use any more. */
  spoilHost(): void {
    this.#isSpoiled = true;
  }

  /** All processes live, and know each other. */
  async mend(): Promise<void> {
    const isNewHost = this.#isSpoiled || !this.#host?.isAlive;
    if (isNewHost) await this.#host?.kill();
    const renewed = await Promise.all(Array.from({ length: DEVICES }, (_, index) => this.#mendDevice(index)));
    if (isNewHost) {
      this.#host = await Child.start(`${this.name} host`, 'host.mjs');
      this.#isSpoiled = false;
      await this.#host.call('open', { sockets: this.#sockets });
      return;
    }
    for (const [index, isNew] of renewed.entries()) {
      if (isNew) await this.host.call('openDevice', { index, socket: this.#sockets[index] });
    }
  }

  async #mendDevice(index: number): Promise<boolean> {
    if (this.#devices[index]?.isAlive) return false;
    this.#sockets[index] = join(this.#folder, `${this.name}-${index}-${this.#started++}.sock`);
    this.#devices[index] = await Child.start(`${this.name} device ${index}`, 'device.mjs', this.#sockets[index]);
    return true;
  }

  /** Files by which it shows that a device runs the machine. */
  locks({ folder }: RunFiles): string[] {
    const locks = Array.from({ length: DEVICES }, (_, index) => join(folder, `${this.name}-${index}.running`));
    for (const lock of locks) closeSync(openSync(lock, 'a'));
    return locks;
  }

  /** From now on the devices show in the run's files where they run. */
  async begin(files: RunFiles, other: Side, isMachine: boolean): Promise<void> {
    const own = this.locks(files);
    const others = other.locks(files);
    await Promise.all(
      this.#devices.map((device, index) => device.call('begin', { own: own[index], others, isMachine })),
    );
  }

  ownership({ records, machine }: RunFiles) {
    return { folder: records, machine, self: this.name };
  }

  /** Of the devices that live; `undefined` for others. */
  status(): Promise<(DeviceStatus | undefined)[]> {
    return Promise.all(this.#devices.map(device => (device.isAlive ? device.call<DeviceStatus>('status') : undefined)));
  }

  async resources(): Promise<Resources> {
    return this.host.isAlive ? this.host.call<Resources>('resources') : {};
  }

  async end(): Promise<void> {
    await Promise.all(this.children.map(child => child?.kill()));
  }
}
