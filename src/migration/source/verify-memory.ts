import type { MachineMemory } from '../memory/machine-memory.js';
import { countDifferentPages, digestMemory, digestPages } from '../memory/memory-digest.js';
import { DigestKind } from '../stream/stream-format.js';
import type { SourceLink } from './source-link.js';

/** Whether two memories are the same. */
export interface Verification {
  verified: boolean;
  /** SHA-256 of all memory, hexadecimal. */
  digests: { source: string; destination: string };
  /** Pages that differ. */
  stalePages: number;
}

/** Compares all memory of both ends, by digests: page by page only when it differs. The machine must be stopped. */
export async function verifyMemory(memory: MachineMemory, link: SourceLink): Promise<Verification> {
  const [source, destination] = await Promise.all([digestMemory(memory), link.askDigest(DigestKind.MEMORY, 32)]);
  const verified = Buffer.compare(source, destination) === 0;
  const stalePages = verified ? 0 : await countStalePages(memory, link);
  return { verified, digests: { source: toHex(source), destination: toHex(destination) }, stalePages };
}

async function countStalePages(memory: MachineMemory, link: SourceLink): Promise<number> {
  const [ours, theirs] = await Promise.all([digestPages(memory), link.askDigest(DigestKind.PAGES, memory.pages * 4)]);
  return countDifferentPages(ours, theirs);
}

function toHex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}
