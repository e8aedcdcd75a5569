import { MIGRATION_P2P, MIGRATION_PRE_COPY } from '../uapi/index.js';
import type { Bench } from './bench.js';
import type { Check, Need } from './check.js';

/** Why a check cannot be run on this device, or is not demanded of it; `undefined`: it can. */
export function unmetNeed(bench: Bench, { needs = ['logging'], profiles }: Check): string | undefined {
  const { name } = bench.profile;
  if (profiles !== undefined && !profiles.includes(name)) return `the ${name} profile does not demand it`;
  for (const need of needs) {
    const why = isMissing[need](bench);
    if (why !== undefined) return why;
  }
  return undefined;
}

const noStimulus = 'there is no stimulus that makes the device write memory';

/** Why a need is not met. */
const isMissing: Readonly<Record<Need, (bench: Bench) => string | undefined>> = {
  logging: ({ hasLogging }) => (hasLogging ? undefined : 'the device has no DMA logging'),
  dma: ({ stimulus }) => (stimulus === undefined ? noStimulus : undefined),
  'dma-read': ({ stimulus }) =>
    stimulus?.read === undefined ? 'there is no stimulus that makes the device read memory' : undefined,
  'empty write': ({ stimulus }) =>
    stimulus?.limits.emptyWrites ? undefined : 'there is no stimulus that makes writes of no bytes',
  'second window': ({ windows }) => (windows.length < 2 ? 'DMA can be made in one window only' : undefined),
  migration: ({ migrationFlags }) => (migrationFlags === 0 ? 'the device cannot migrate' : undefined),
  p2p: ({ migrationFlags }) =>
    (migrationFlags & MIGRATION_P2P) === 0 ? 'the device has no P2P migration states' : undefined,
  'pre-copy': ({ migrationFlags }) =>
    (migrationFlags & MIGRATION_PRE_COPY) === 0 ? 'the device has no PRE_COPY migration states' : undefined,
  reset: ({ hasReset }) => (hasReset ? undefined : 'the device has no reset'),
  'vfio-user wire': ({ wire }) => (wire === undefined ? 'the device is not behind a vfio-user socket' : undefined),
  'user space': ({ device }) =>
    device.target.startsWith('vfio:') ? 'Linux never answers it, and loses a CPU to it' : undefined,
};
