import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc, { type IAsyncProperty } from 'fast-check';
import { playTrouble, trouble } from './client-episode.js';
import { HostileFiles } from './hostile-files.js';
import { heldBytes, resources } from './resources.js';
import { playStorm, storm } from './server-episode.js';

/** What is fuzzed. */
export const TARGETS = ['server', 'client'] as const;
export type Target = (typeof TARGETS)[number];

/** A run of the fuzzer. The same seed plays the same episodes, whatever the number of messages. */
export interface FuzzOptions {
  readonly target: Target;
  /** At least as many are sent. */
  readonly messages: number;
  readonly seed: number;
  /** Plays one episode only, the one that fast-check names so in its report. */
  readonly path?: string;
  /** Told after each batch. */
  readonly progress?: (line: string) => void;
}

/** Episodes between two looks at the process's memory, and between two seeds: what is in one batch is replayed by its seed alone. */
const EPISODES_A_BATCH = 200;

/**
 * Plays episodes until enough messages are sent. What fails is made as small as fast-check can, and thrown with its seed and path.
 * @returns how many messages were sent, and by how much what it holds in memory has grown since the first batch, bytes.
 */
export async function fuzz(options: FuzzOptions): Promise<{ messages: number; grown: number }> {
  const { target, messages, seed, path, progress } = options;
  const folder = mkdtempSync(join(tmpdir(), 'dmalog-fuzz-'));
  const files = new HostileFiles();
  const before = resources();
  const unexpected: unknown[] = [];
  const notice = (error: unknown) => unexpected.push(error);
  process.on('unhandledRejection', notice);
  process.on('uncaughtException', notice);
  process.on('warning', notice);
  let sent = 0;
  let settled: number | undefined;
  try {
    const property = episodesOf(target, files, folder, count => {
      sent += count;
    });
    for (let batch = 0; sent < messages; batch++) {
      const batchSeed = seed + batch;
      await fc.assert(property, {
        numRuns: EPISODES_A_BATCH,
        seed: batchSeed,
        ...(path && { path, endOnFailure: true }),
      });
      if (unexpected.length > 0) throw new Error(`batch of seed ${batchSeed}`, { cause: unexpected[0] });
      const held = heldBytes();
      settled ??= held;
      progress?.(`${target}: seed ${batchSeed}, ${sent} messages, ${describe()}, ${mib(held)} MiB`);
      if (path !== undefined) break;
    }
    const after = resources();
    if (after.fds !== before.fds || after.mappings !== before.mappings) {
      throw new Error(`${describe()}, were ${before.fds} descriptors, ${before.mappings} mappings`);
    }
    return { messages: sent, grown: heldBytes() - (settled ?? heldBytes()) };
  } finally {
    process.off('unhandledRejection', notice);
    process.off('uncaughtException', notice);
    process.off('warning', notice);
    files.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

function episodesOf(
  target: Target,
  files: HostileFiles,
  folder: string,
  count: (messages: number) => void,
): IAsyncProperty<unknown> {
  const property =
    target === 'server'
      ? fc.asyncProperty(storm, async each => count(await playStorm(each, files, folder)))
      : fc.asyncProperty(trouble, async each => count(await playTrouble(each, files, folder)));
  return property as IAsyncProperty<unknown>;
}

function describe(): string {
  const { fds, mappings } = resources();
  return `${fds} descriptors, ${mappings} mappings`;
}

function mib(bytes: number): number {
  return Math.round(bytes / 2 ** 20);
}
