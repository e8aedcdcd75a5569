import { existsSync } from 'node:fs';

/*
 * A CPU is a thread, and a thread runs a file as it is built: these tests take all that meets a CPU from there.
 */

const dist = new URL('../../../dist/', import.meta.url);
if (!existsSync(dist)) throw new Error('the CPUs are tested as they are built: run `npm run build` first');

export const { GuestCpus } = (await import(
  new URL('devices/guest-cpus/index.js', dist).href
)) as typeof import('../../../src/devices/guest-cpus/index.js');
export const { LocalDevice } = (await import(
  new URL('device/index.js', dist).href
)) as typeof import('../../../src/device/index.js');
export const { GuestMemory } = (await import(
  new URL('memory/index.js', dist).href
)) as typeof import('../../../src/memory/index.js');
export const { CpuTracker, DirtySet, MarkedTracker } = (await import(
  new URL('tracker/index.js', dist).href
)) as typeof import('../../../src/tracker/index.js');
