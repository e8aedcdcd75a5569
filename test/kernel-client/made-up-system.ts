import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import type { Roots } from '../../src/kernel/roots.js';

/** A device of a made-up system. */
export interface MadeUpDevice {
  readonly name: string;
  readonly bus: string;
  readonly driver?: string;
  readonly group?: number;
  readonly cdev?: string;
}

/** Trees as the kernel's sysfs, devices and processes are, as far as anybody looks at them. */
export class MadeUpSystem {
  readonly roots: Roots;

  /** @param folder where the trees go; it is there already */
  constructor(folder: string) {
    this.roots = { sys: join(folder, 'sys'), dev: join(folder, 'dev'), proc: join(folder, 'proc') };
    for (const root of Object.values(this.roots)) mkdirSync(root, { recursive: true });
  }

  /** Adds a device; returns its folder. */
  add({ name, bus, driver, group, cdev }: MadeUpDevice): string {
    const { sys } = this.roots;
    const folder = join(sys, 'devices', bus, name);
    mkdirSync(folder, { recursive: true });
    this.#link(folder, join(sys, 'bus', bus, 'devices'), name);
    this.#link(join(sys, 'bus', bus), folder, 'subsystem');
    if (driver !== undefined) {
      mkdirSync(join(sys, 'bus', bus, 'drivers', driver), { recursive: true });
      this.#link(join(sys, 'bus', bus, 'drivers', driver), folder, 'driver');
    }
    if (group !== undefined) {
      const members = join(sys, 'kernel/iommu_groups', `${group}`, 'devices');
      this.#link(folder, members, name);
      this.#link(join(members, '..'), folder, 'iommu_group');
    }
    if (cdev !== undefined) {
      mkdirSync(join(folder, 'vfio-dev', cdev), { recursive: true });
      this.#link(folder, join(sys, 'class/vfio-dev', cdev), 'device');
    }
    return folder;
  }

  /** Adds a plain file that stands for a device file. */
  addFile(path: string, mode = 0o600): string {
    const file = join(this.roots.dev, path);
    mkdirSync(join(file, '..'), { recursive: true });
    writeFileSync(file, '', { mode });
    return file;
  }

  /** Adds an IOMMU. */
  addIommu(): void {
    mkdirSync(join(this.roots.sys, 'class/iommu/dmar0'), { recursive: true });
  }

  /** Adds a process that has a file open. */
  addProcess(pid: number, comm: string, open: string): void {
    const folder = join(this.roots.proc, `${pid}`);
    mkdirSync(join(folder, 'fd'), { recursive: true });
    writeFileSync(join(folder, 'comm'), `${comm}\n`);
    symlinkSync(open, join(folder, 'fd/7'));
  }

  #link(target: string, folder: string, name: string): void {
    mkdirSync(folder, { recursive: true });
    symlinkSync(relative(folder, target), join(folder, name));
  }
}
