import { describe, expect, test } from 'vitest';
import { completeLimits, OWN_LIMITS } from '../../src/vfio-user/limits.js';
import {
  acceptAnswer,
  answerVersion,
  decodeVersion,
  encodeVersion,
  proposeVersion,
} from '../../src/vfio-user/version.js';
import { errnoOf } from '../native/helpers.js';
import { QEMU_PROPOSAL, versionPayload } from './peer.js';

function capabilitiesOf(json: string) {
  return decodeVersion(versionPayload(json)).capabilities;
}

describe('capabilities are read tolerantly', () => {
  test.each([
    ['{}', {}],
    ['{"capabilities":{}}', {}],
    ['{"something":1,"capabilities":{"other":[1,2]}}', {}],
    ['{"capabilities":{"max_msg_fds":0}}', { maxMessageFds: 0 }],
    ['{"capabilities":{"max_data_xfer_size":4096,"max_dma_maps":1}}', { maxDataTransfer: 4096, maxDmaMaps: 1 }],
    ['{"capabilities":{"pgsizes":18446744073709547520}}', { pageSizes: 0xffff_ffff_ffff_f000n }],
    ['{"capabilities":{"twin_socket":{"supported":true,"fd_index":0}}}', {}],
    [' {"capabilities" : {"write_multiple":false, "migration":{"pgsize":4096}}} ', {}],
  ])('%s', (json, expected) => {
    expect(capabilitiesOf(json)).toEqual(expected);
  });

  test('without any JSON nothing is said', () => {
    expect(decodeVersion(versionPayload()).capabilities).toBeUndefined();
  });

  test('what stands behind the NUL is ignored', () => {
    expect(capabilitiesOf('{"capabilities":{"max_msg_fds":3}}\0garbage')).toEqual({ maxMessageFds: 3 });
  });
});

describe('capabilities that make no sense are EINVAL', () => {
  test.each([
    '',
    'nonsense',
    '[]',
    'null',
    '7',
    '{"capabilities":[]}',
    '{"capabilities":7}',
    '{"capabilities":{"max_msg_fds":"16"}}',
    '{"capabilities":{"max_msg_fds":-1}}',
    '{"capabilities":{"max_msg_fds":1.5}}',
    '{"capabilities":{"max_msg_fds":null}}',
    '{"capabilities":{"max_data_xfer_size":{}}}',
    '{"capabilities":{"max_dma_maps":true}}',
    '{"capabilities":{"max_dma_maps":1e400}}',
    '{"capabilities":{"pgsizes":36893488147419103232}}',
    '{"capabilities":{"write_multiple":1}}',
    '{"capabilities":{"twin_socket":true}}',
    '{"capabilities":{"migration":4096}}',
    `${'['.repeat(8000)}`,
  ])('%s', json => {
    expect(errnoOf(() => capabilitiesOf(json))).toBe('EINVAL');
  });

  test('JSON without its NUL', () => {
    expect(errnoOf(() => decodeVersion(versionPayload('{}').subarray(0, 6)))).toBe('EINVAL');
  });

  test('bytes that are no UTF-8', () => {
    expect(errnoOf(() => decodeVersion(Uint8Array.of(0, 0, 0, 0, 0x22, 0xff, 0x22, 0)))).toBe('EINVAL');
  });

  test('a payload of fewer than 4 bytes', () => {
    for (let size = 0; size < 4; size++) expect(errnoOf(() => decodeVersion(new Uint8Array(size)))).toBe('EINVAL');
  });
});

describe('a server answers', () => {
  test('QEMU with no limit above its own, and no more bytes than it sent', () => {
    const { answer, agreed } = answerVersion(OWN_LIMITS, decodeVersion(versionPayload(QEMU_PROPOSAL, 0, 0)));
    expect(encodeVersion(answer).length).toBeLessThanOrEqual(versionPayload(QEMU_PROPOSAL).length);
    expect(answer).toEqual({
      major: 0,
      minor: 0,
      capabilities: { maxMessageFds: 16, maxDataTransfer: 1048576, maxDmaMaps: 65535, pageSizes: 4096n },
    });
    expect(agreed).toEqual({ maxMessageFds: 16, maxDataTransfer: 1048576, maxDmaMaps: 65535 });
  });

  test.each([
    [0, 0],
    [1, 1],
    [2, 1],
    [65535, 1],
  ])('minor %i with %i', (proposed, answered) => {
    expect(answerVersion(OWN_LIMITS, decodeVersion(versionPayload('{}', 0, proposed))).answer.minor).toBe(answered);
  });

  test('a client without JSON without JSON, and takes its limits for the defaults of the protocol', () => {
    const { answer, agreed } = answerVersion(OWN_LIMITS, decodeVersion(versionPayload()));
    expect(encodeVersion(answer).length).toBe(4);
    expect(agreed).toEqual({ maxMessageFds: 1, maxDataTransfer: 1048576, maxDmaMaps: 65535 });
  });

  test('with a limit that nobody named when it is below the default', () => {
    const own = completeLimits({ maxDataTransfer: 65536 }, 'test');
    expect(answerVersion(own, decodeVersion(versionPayload('{}'))).answer.capabilities).toEqual({
      maxDataTransfer: 65536,
    });
  });

  test.each([1, 2, 65535])('EINVAL to major %i', major => {
    expect(errnoOf(() => answerVersion(OWN_LIMITS, decodeVersion(versionPayload('{}', major))))).toBe('EINVAL');
  });

  test('EINVAL to a client without pages of 4096 bytes', () => {
    const proposal = decodeVersion(versionPayload('{"capabilities":{"pgsizes":65536}}'));
    expect(errnoOf(() => answerVersion(OWN_LIMITS, proposal))).toBe('EINVAL');
  });
});

describe('a client', () => {
  test('proposes what it takes', () => {
    const json = Buffer.from(encodeVersion(proposeVersion(OWN_LIMITS)).subarray(4)).toString();
    expect(json).toBe(
      '{"capabilities":{"max_msg_fds":16,"max_data_xfer_size":16777216,"max_dma_maps":65535,"pgsizes":4096}}\0',
    );
  });

  test('takes what is not said for the defaults of the protocol', () => {
    expect(acceptAnswer(OWN_LIMITS, decodeVersion(versionPayload()))).toEqual({
      maxMessageFds: 1,
      maxDataTransfer: 1048576,
      maxDmaMaps: 65535,
    });
  });

  test('sends by the limits of the server, and asks for no more than it takes itself', () => {
    const answer = '{"capabilities":{"max_msg_fds":8,"max_data_xfer_size":1073741824,"max_dma_maps":9}}';
    expect(acceptAnswer(OWN_LIMITS, decodeVersion(versionPayload(answer)))).toEqual({
      maxMessageFds: 8,
      maxDataTransfer: OWN_LIMITS.maxDataTransfer,
      maxDmaMaps: 9,
    });
  });

  test('refuses another major, and a minor that it did not propose', () => {
    expect(errnoOf(() => acceptAnswer(OWN_LIMITS, decodeVersion(versionPayload('{}', 1, 0))))).toBe('EINVAL');
    expect(errnoOf(() => acceptAnswer(OWN_LIMITS, decodeVersion(versionPayload('{}', 0, 2))))).toBe('EINVAL');
  });
});

test.each([
  { maxMessageFds: 0 },
  { maxMessageFds: 254 },
  { maxMessageFds: 1.5 },
  { maxDataTransfer: 4095 },
  { maxDataTransfer: 2 ** 30 + 1 },
  { maxDataTransfer: Number.NaN },
  { maxDmaMaps: 0 },
])('limits %o are EINVAL', limits => {
  expect(errnoOf(() => completeLimits(limits, 'test'))).toBe('EINVAL');
});
