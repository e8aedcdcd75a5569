import { describe, expect, inject, it } from 'vitest';

/** What the guests' tests gave, each as a test here: the tests themselves are in `guest/`, and ran before this file was read. */
for (const { kernel, results, status, console } of inject('kernelRuns')) {
  describe(`Linux ${kernel}`, () => {
    for (const { names, passed, skipped, error } of results) {
      it(names.join(' > '), context => {
        context.skip(skipped);
        expect(passed, error).toBe(true);
      });
    }

    it('got to the end of its tests', () => {
      const allPassed = results.every(result => result.passed);
      expect(results.length, console).toBeGreaterThan(0);
      expect(status, console).toBe(allPassed ? 0 : 1);
    });

    it('had nothing to complain of in the kernel itself', () => {
      expect(console).not.toMatch(/\b(BUG|WARNING|Oops|KASAN|UBSAN)\b|refcount_t|lockdep/);
    });
  });
}
