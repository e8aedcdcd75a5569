import { constants } from 'node:os';
import { describe, expect, test } from 'vitest';
import { asVfioError, ERRNO, errnoName, VfioError } from '../../src/uapi/index.js';

describe('errno', () => {
  test('every name has the number that this operating system gives it', () => {
    const system = constants.errno as Record<string, number>;
    for (const [name, number] of Object.entries(ERRNO)) {
      if (name in system) expect([name, number]).toEqual([name, system[name]]);
    }
    expect(Object.keys(ERRNO).filter(name => name in system).length).toBeGreaterThan(30);
  });

  test('numbers and names lead to each other', () => {
    for (const [name, number] of Object.entries(ERRNO)) expect(errnoName(number)).toBe(name);
    expect(new Set(Object.values(ERRNO)).size).toBe(Object.keys(ERRNO).length);
  });

  test('a number without a name is EIO', () => {
    for (const number of [0, -22, 3.5, 4095, Number.NaN]) expect(errnoName(number)).toBe('EIO');
  });
});

describe('VfioError', () => {
  test('reads operation: field: sentence (ERRNO), leaving out what is not known', () => {
    const operation = 'DMA_LOGGING_START';
    expect(new VfioError('EINVAL', { operation, field: 'page_size', message: 'is 0' }).message).toBe(
      'DMA_LOGGING_START: page_size: is 0 (EINVAL)',
    );
    expect(new VfioError('ENOTTY', { operation }).message).toBe('DMA_LOGGING_START (ENOTTY)');
    expect(new VfioError('ENOTTY', { operation, field: '', message: '' }).message).toBe('DMA_LOGGING_START (ENOTTY)');
  });

  test('carries errno by name and number, operation, field and cause', () => {
    const cause = new Error('below');
    const error = new VfioError('EOVERFLOW', { operation: 'REPORT', field: 'length', cause });
    expect(error).toBeInstanceOf(Error);
    expect([error.name, error.errno, error.number, error.operation, error.field]).toEqual([
      'VfioError',
      'EOVERFLOW',
      75,
      'REPORT',
      'length',
    ]);
    expect(error.cause).toBe(cause);
    expect('cause' in new VfioError('EIO', { operation: 'x' })).toBe(false);
  });
});

describe('asVfioError', () => {
  test('leaves a VfioError as it is', () => {
    const error = new VfioError('EBUSY', { operation: 'x' });
    expect(asVfioError(error, 'y')).toBe(error);
  });

  test("keeps the code of the system's errors", () => {
    const system = Object.assign(new Error('no such file'), { code: 'ENOENT' });
    const error = asVfioError(system, 'open');
    expect([error.errno, error.operation, error.cause]).toEqual(['ENOENT', 'open', system]);
  });

  test('gives anything else the fallback', () => {
    const codes = [{ code: 'ERR_OUT_OF_RANGE' }, { code: 'toString' }, { code: 22 }, 'text', 7, null, undefined];
    for (const thrown of codes) {
      expect(asVfioError(thrown, 'x').errno).toBe('EIO');
      expect(asVfioError(thrown, 'x', 'EINVAL').errno).toBe('EINVAL');
    }
  });
});
