import { release } from 'node:os';
import { expect, test } from 'vitest';
import { probeCpuTracking } from '../../../src/tracker/index.js';
import { cannotWatchWrites } from '../../native/memory-calls.js';

const [major, minor] = release()
  .split('.')
  .map(part => Number.parseInt(part, 10)) as [number, number];
const isOldKernel = major < 6 || (major === 6 && minor < 7);

/** What the tests that are skipped where nothing can be tracked rest on: a probe that always said no would turn them all off, unseen. */
test('a kernel that knows the calls is refused only where this process may not make them', () => {
  const why = probeCpuTracking();
  expect(cannotWatchWrites()).toBe(why !== undefined);
  if (isOldKernel) expect(why).toMatchObject({ errno: expect.stringMatching(/^(EINVAL|ENOSYS|EPERM)$/) });
  else if (why !== undefined)
    expect(why).toMatchObject({ operation: 'userfaultfd', errno: expect.stringMatching(/^(EPERM|ENOSYS)$/) });
});
