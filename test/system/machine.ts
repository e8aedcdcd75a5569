import type { TestProject } from 'vitest/node';
import { type MachineParts, machineParts } from '../machines/parts.js';

declare module 'vitest' {
  interface ProvidedContext {
    machine: MachineParts;
  }
}

/** Fetches what the guests need, once for all test files. */
export default async function setup({ provide }: TestProject): Promise<void> {
  const parts = await machineParts();
  console.log(`guests run with ${parts.accelerator}`);
  provide('machine', parts);
}
