import { describe, expect, test } from 'vitest';
import { completeLimits, OWN_LIMITS } from '../../src/vfio-user/wire/limits.js';
import {
  acceptAnswer,
  acceptFeatures,
  answerVersion,
  decodeVersion,
  encodeVersion,
  proposeVersion,
} from '../../src/vfio-user/wire/version.js';
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
    [
      '{"capabilities":{"twin_socket":{"supported":true,"fd_index":2}}}',
      { twinSocket: { supported: true, fdIndex: 2 } },
    ],
    ['{"capabilities":{"twin_socket":{}}}', { twinSocket: { supported: false } }],
    [' {"capabilities" : {"write_multiple":false, "migration":{"pgsize":4096}}} ', { writeMultiple: false }],
    [
      '{"capabilities":{"dmalog":{"version":7,"role":"tracker","colour":1}}}',
      { dmalog: { version: 7, role: 'tracker' } },
    ],
    ['{"capabilities":{"dmalog":{"version":1}}}', { dmalog: { version: 1 } }],
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
    '{"capabilities":{"twin_socket":{"supported":1}}}',
    '{"capabilities":{"twin_socket":{"supported":true,"fd_index":-1}}}',
    '{"capabilities":{"dmalog":1}}',
    '{"capabilities":{"dmalog":{}}}',
    '{"capabilities":{"dmalog":{"version":0}}}',
    '{"capabilities":{"dmalog":{"version":1,"role":"master"}}}',
    '{"capabilities":{"dmalog":{"version":1,"role":7}}}',
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

describe('what a server can do', () => {
  const all = { twinSocket: true, writeMultiple: true, dmalog: true };
  const propose = (json: string) => decodeVersion(versionPayload(json));

  test('is answered to a client that has named it', () => {
    const json =
      '{"capabilities":{"twin_socket":{"supported":true},"write_multiple":true,"dmalog":{"version":9,"role":"tracker"}}}';
    const { answer, features } = answerVersion(OWN_LIMITS, propose(json), all);
    expect(features).toEqual({ ...all, role: 'tracker' });
    expect(answer.capabilities).toEqual({
      twinSocket: { supported: true, fdIndex: 0 },
      writeMultiple: true,
      dmalog: { version: 1 },
    });
  });

  test('is told to nobody else', () => {
    const { answer, features } = answerVersion(OWN_LIMITS, propose('{}'), all);
    expect(features).toEqual({ twinSocket: false, writeMultiple: false, dmalog: false, role: 'vmm' });
    expect(answer.capabilities).toEqual({});
  });

  test('is not told when the client says that it cannot', () => {
    const json = '{"capabilities":{"twin_socket":{"supported":false},"write_multiple":false}}';
    expect(answerVersion(OWN_LIMITS, propose(json), all).answer.capabilities).toEqual({});
  });

  test('is not told when the server cannot', () => {
    const json = '{"capabilities":{"twin_socket":{"supported":true},"write_multiple":true,"dmalog":{"version":1}}}';
    expect(answerVersion(OWN_LIMITS, propose(json)).answer.capabilities).toEqual({});
  });

  test('does not make an answer to QEMU larger than what it sent', () => {
    const { answer, features } = answerVersion(OWN_LIMITS, decodeVersion(versionPayload(QEMU_PROPOSAL, 0, 0)), all);
    expect(features).toEqual({ twinSocket: false, writeMultiple: true, dmalog: false, role: 'vmm' });
    expect(encodeVersion(answer).length).toBeLessThanOrEqual(versionPayload(QEMU_PROPOSAL).length);
  });

  test('has no twin socket for a client that takes no descriptor', () => {
    const json = '{"capabilities":{"max_msg_fds":0,"twin_socket":{"supported":true}}}';
    expect(answerVersion(OWN_LIMITS, propose(json), all).features.twinSocket).toBe(false);
  });

  test('is EINVAL for a tracker where trackers are not served', () => {
    const json = '{"capabilities":{"dmalog":{"version":1,"role":"tracker"}}}';
    expect(errnoOf(() => answerVersion(OWN_LIMITS, propose(json)))).toBe('EINVAL');
  });
});

describe('what a client may use', () => {
  const all = { twinSocket: true, writeMultiple: true, dmalog: true };
  const none = { twinSocket: false, writeMultiple: false, dmalog: false };
  const answer = (json: string) => decodeVersion(versionPayload(json));
  const everything =
    '{"capabilities":{"twin_socket":{"supported":true,"fd_index":3},"write_multiple":true,"dmalog":{"version":1}}}';

  test('is what it proposed and the server answered', () => {
    expect(acceptFeatures(all, answer(everything))).toEqual({ twinSocket: 3, writeMultiple: true, dmalog: true });
    const nothing = { twinSocket: undefined, writeMultiple: false, dmalog: false };
    expect(acceptFeatures(all, answer('{}'))).toEqual(nothing);
    expect(acceptFeatures(all, decodeVersion(versionPayload()))).toEqual(nothing);
    expect(acceptFeatures(all, answer('{"capabilities":{"twin_socket":{"supported":false,"fd_index":0}}}'))).toEqual(
      nothing,
    );
  });

  test('is nothing that it did not propose', () => {
    const json = '{"capabilities":{"write_multiple":true,"dmalog":{"version":1}}}';
    expect(acceptFeatures(none, answer(json))).toEqual({ twinSocket: undefined, writeMultiple: false, dmalog: false });
  });

  test('is no version of the own commands that was not proposed', () => {
    expect(acceptFeatures(all, answer('{"capabilities":{"dmalog":{"version":2}}}')).dmalog).toBe(false);
  });

  test('is EINVAL with a twin socket that lacks its descriptor, or that was not proposed', () => {
    const lacking = answer('{"capabilities":{"twin_socket":{"supported":true}}}');
    expect(errnoOf(() => acceptFeatures(all, lacking))).toBe('EINVAL');
    expect(errnoOf(() => acceptFeatures(none, answer(everything)))).toBe('EINVAL');
  });
});

describe('a client', () => {
  test('proposes what it can do, and its role', () => {
    const features = { twinSocket: true, writeMultiple: true, dmalog: true };
    const json = Buffer.from(encodeVersion(proposeVersion(OWN_LIMITS, features, 'tracker')).subarray(4)).toString();
    expect(json).toContain(
      '"twin_socket":{"supported":true},"write_multiple":true,"dmalog":{"version":1,"role":"tracker"}}}',
    );
  });

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
