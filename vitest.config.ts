import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/build-kernels.ts'],
    // Tests open sockets, memory files and child processes: a process of its own keeps one file's fd counts out of another's.
    pool: 'forks',
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
