import { defineConfig } from 'vitest/config';

/** The tests on real kernels: they run in guests, once for each kernel, before the results are read here. */
export default defineConfig({
  test: {
    include: ['test/kernel/**/*.kernel.ts'],
    globalSetup: ['test/kernel/runs.ts'],
    reporters: ['verbose'],
  },
});
