import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: ['test/build-kernels.ts'],
    // Tests open sockets, memory files and child processes: a process of its own keeps one file's fd counts out of another's.
    pool: 'forks',
    // Many wait for processes of their own most of the time: one at a time leaves half of two cores idle.
    maxWorkers: 2,
    testTimeout: 60_000,
    hookTimeout: 60_000,
  },
});
