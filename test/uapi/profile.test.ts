import { expect, test } from 'vitest';
import { Feature, featureName, linux, profiles, rfc, vfioUser } from '../../src/uapi/index.js';

test('START, STOP and REPORT are 3, 4, 5 in the request for comments and 6, 7, 8 since', () => {
  expect([rfc.start, rfc.stop, rfc.report]).toEqual([3, 4, 5]);
  expect([linux.start, linux.stop, linux.report]).toEqual([6, 7, 8]);
  expect([vfioUser.start, vfioUser.stop, vfioUser.report]).toEqual([6, 7, 8]);
  expect(Feature).toEqual({ MIGRATION: 1, MIG_DEVICE_STATE: 2, MIG_DATA_SIZE: 9 });
});

test('the profiles differ where the contract says that they do', () => {
  expect(Object.values(profiles).map(profile => [profile.name, profile.pointers, profile.zeroRangesLogAll])).toEqual([
    ['rfc', true, false],
    ['linux', true, false],
    ['vfio-user', false, true],
  ]);
  expect([rfc.maxRanges, linux.maxRanges, vfioUser.maxRanges]).toEqual([65536, 256, Infinity]);
  expect([rfc.minReportPageSize, linux.minReportPageSize, vfioUser.minReportPageSize]).toEqual([1n, 4096n, 1n]);
  expect([rfc.alignedRanges, linux.alignedRanges, vfioUser.alignedRanges]).toEqual([false, true, false]);
  expect([rfc.argszIsReplyLimit, linux.argszIsReplyLimit, vfioUser.argszIsReplyLimit]).toEqual([false, false, true]);
});

test('profiles are found by the names that they give themselves', () => {
  for (const [name, profile] of Object.entries(profiles)) expect(profile.name).toBe(name);
  expect(profiles).toEqual({ rfc, linux, 'vfio-user': vfioUser });
});

test('a feature index has the name that its profile gives it', () => {
  expect([1, 2, 3, 4, 5, 6, 9].map(index => featureName(rfc, index))).toEqual([
    'MIGRATION',
    'MIG_DEVICE_STATE',
    'DMA_LOGGING_START',
    'DMA_LOGGING_STOP',
    'DMA_LOGGING_REPORT',
    'feature 6',
    'feature 9',
  ]);
  for (const profile of [linux, vfioUser]) {
    expect([3, 6, 7, 8, 9, 127].map(index => featureName(profile, index))).toEqual([
      'feature 3',
      'DMA_LOGGING_START',
      'DMA_LOGGING_STOP',
      'DMA_LOGGING_REPORT',
      'MIG_DATA_SIZE',
      'feature 127',
    ]);
  }
});
