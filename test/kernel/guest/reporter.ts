import { inspect } from 'node:util';

/** What the reporter is told by `node:test`, as far as it is used here. */
interface TestEvent {
  type: string;
  data: {
    name: string;
    nesting: number;
    file?: string;
    skip?: string | boolean;
    details?: { type?: string; duration_ms: number; error?: Error };
  };
}

/** A test's result, as it leaves the guest: one line of JSON behind {@link RESULT_MARK}. */
export interface GuestResult {
  /** The test's name, behind the names of the suites that it lies in. */
  names: string[];
  passed: boolean;
  skipped: boolean;
  /** The error as Node prints it, or nothing. */
  error: string;
  durationMs: number;
}

/** What a line of results begins with: the console carries other lines too. */
export const RESULT_MARK = '\x1d';

/** Reports for `node --test-reporter`: every test on a line of its own, when it is done. */
export default async function* reporter(events: AsyncIterable<TestEvent>): AsyncGenerator<string> {
  const names: string[] = [];
  for await (const { type, data } of events) {
    if (type === 'test:start') {
      names.length = data.nesting;
      names.push(data.name);
    }
    const done = type === 'test:pass' || type === 'test:fail';
    // A suite fails with its tests, which say so themselves.
    if (!done || (data.details?.type === 'suite' && !failedByItself(data.details.error))) continue;
    const result: GuestResult = {
      names: [...names.slice(0, data.nesting), data.name],
      passed: type === 'test:pass',
      skipped: data.skip !== undefined && data.skip !== false,
      error: data.details?.error === undefined ? '' : inspect(data.details.error.cause ?? data.details.error),
      durationMs: data.details?.duration_ms ?? 0,
    };
    yield `${RESULT_MARK}${JSON.stringify(result)}\n`;
  }
}

function failedByItself(error: Error | undefined): boolean {
  return error !== undefined && (error as Error & { failureType?: string }).failureType !== 'subtestsFailed';
}
