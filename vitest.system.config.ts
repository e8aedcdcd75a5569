import { defineConfig } from 'vitest/config';

/** The system tests: guests that boot take minutes without KVM, and two at a time would only take twice as long. */
export default defineConfig({
  test: {
    include: ['test/system/**/*.system.ts'],
    globalSetup: ['test/build-kernels.ts', 'test/system/machine.ts'],
    pool: 'forks',
    fileParallelism: false,
    testTimeout: 600_000,
    hookTimeout: 600_000,
    reporters: ['verbose'],
  },
});
