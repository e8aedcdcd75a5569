import {
  encodeDeviceState,
  encodeFeatureRequest,
  encodeRanges,
  encodeReport,
  encodeStartInline,
  encodeStartPointer,
  FEATURE_GET,
  FEATURE_HEADER_SIZE,
  FEATURE_PROBE,
  FEATURE_SET,
  Feature,
  type MigrationState,
  viewOf,
} from '../../uapi/index.js';
import { Command } from '../../vfio-user/index.js';
import type { Bench, Outcome, RawRequest } from '../bench.js';
import type { Check } from '../check.js';
import { Deviation } from '../deviation.js';
import { expectErrno, expectNotStarted, expectStarted, expectSuccess } from './demands.js';

/** Two features that no dialect has: what is asked of them must not depend on anything else. */
const UNKNOWN_FEATURES = [0x7f, 0xffff];
const UNKNOWN_FLAG_BITS = [19, 20, 31];

/** Enough zeros for any of the three structures. */
const ZEROS = new Uint8Array(56);

interface Case {
  what: string;
  request: RawRequest;
}

/** The three requests with the direction that is theirs. */
function loggingFeatures({ profile }: Bench): { what: string; index: number; direction: number; other: number }[] {
  return [
    { what: 'START', index: profile.start, direction: FEATURE_SET, other: FEATURE_GET },
    { what: 'STOP', index: profile.stop, direction: FEATURE_SET, other: FEATURE_GET },
    { what: 'REPORT', index: profile.report, direction: FEATURE_GET, other: FEATURE_SET },
  ];
}

const unknownFeature: Check = {
  name: 'request/unknown-feature',
  group: 'request',
  demand: 'A feature that the device does not have is refused: with ENOTTY, where the dialect names the errno.',
  source: 'docs/kernel.md "Order of checks", rows A16, A17, A43, A45; vfio-user 0.9 names no errno',
  needs: [],
  async run(bench) {
    for (const index of UNKNOWN_FEATURES) {
      for (const flags of [FEATURE_PROBE, FEATURE_GET, FEATURE_SET]) {
        const outcome = await bench.request({ index, flags, data: ZEROS });
        const what = `feature 0x${index.toString(16)}, flags 0x${flags.toString(16)}`;
        if (bench.profile.name === 'vfio-user') expectErrno(what, outcome, 'ENOTTY', 'EINVAL', 'EOPNOTSUPP');
        else expectErrno(what, outcome, 'ENOTTY');
      }
    }
    return 'refused, with every flag';
  },
};

const allThree: Check = {
  name: 'request/all-three-or-none',
  group: 'request',
  demand: 'A device that has one of START, STOP and REPORT has all three, and says so when it is probed for them.',
  source: 'linux/vfio.h VFIO_DEVICE_FEATURE_DMA_LOGGING_START; docs/kernel.md rows A07, A08, A09',
  async run(bench) {
    for (const { what, index } of loggingFeatures(bench)) {
      expectSuccess(`PROBE ${what}`, await bench.request({ index, flags: FEATURE_PROBE }));
    }
    return 'probed: START, STOP and REPORT are there';
  },
};

const probeDirection: Check = {
  name: 'request/probe-direction',
  group: 'request',
  demand:
    'PROBE with SET of START and STOP and with GET of REPORT succeeds; with the other direction, or both, it is EINVAL.',
  source: 'linux/vfio.h VFIO_DEVICE_FEATURE_PROBE; docs/kernel.md rows A25-A27, A31-A33, A37-A39',
  async run(bench) {
    for (const { what, index, direction, other } of loggingFeatures(bench)) {
      expectSuccess(`PROBE ${what}`, await bench.request({ index, flags: FEATURE_PROBE | direction }));
      for (const flags of [other, FEATURE_GET | FEATURE_SET]) {
        const outcome = await bench.request({ index, flags: FEATURE_PROBE | flags });
        expectErrno(`PROBE ${what} in a direction that it has not`, outcome, 'EINVAL');
      }
    }
    return 'the right direction succeeds, every other one is EINVAL';
  },
};

const direction: Check = {
  name: 'request/direction',
  group: 'request',
  demand:
    'START and STOP with GET, REPORT with SET, and any of them with no flag at all are EINVAL, and change nothing.',
  source: 'docs/kernel.md "Order of checks", rows A29, A30, A35, A36, A41, A42',
  async run(bench) {
    for (const { what, index, other } of loggingFeatures(bench)) {
      for (const flags of [other, 0]) {
        expectErrno(
          `${what} with flags 0x${flags.toString(16)}`,
          await bench.request({ index, flags, data: ZEROS }),
          'EINVAL',
        );
      }
    }
    await expectNotStarted(bench, 'START with GET');
    await bench.start();
    await bench.request({ index: bench.profile.stop, flags: FEATURE_GET, data: ZEROS });
    await expectStarted(bench, 'STOP with GET');
    return 'EINVAL, and nothing was started or stopped';
  },
};

const getWithSet: Check = {
  name: 'request/get-with-set',
  group: 'request',
  demand: 'GET and SET together, without PROBE, are EINVAL for every feature, also for one that is not there.',
  source: 'contract "One entry point"; docs/kernel.md rows A28, A34, A40, A44',
  needs: [],
  async run(bench) {
    const { start, stop, report } = bench.profile;
    for (const index of [start, stop, report, ...UNKNOWN_FEATURES]) {
      const outcome = await bench.request({ index, flags: FEATURE_GET | FEATURE_SET, data: ZEROS });
      expectErrno(`GET and SET of feature 0x${index.toString(16)}`, outcome, 'EINVAL');
    }
    return 'EINVAL, for features that are there and that are not';
  },
};

const unknownFlags: Check = {
  name: 'request/unknown-flags',
  group: 'request',
  demand: 'A flag bit that nobody has defined is EINVAL, whatever else is asked.',
  source: 'contract "One entry point": other bits must be 0; docs/kernel.md rows A22-A24, B60',
  needs: [],
  async run(bench) {
    const { start, stop, report } = bench.profile;
    for (const bit of UNKNOWN_FLAG_BITS) {
      const unknown = 2 ** bit;
      const cases: Case[] = [
        { what: 'PROBE START', request: { index: start, flags: FEATURE_PROBE + unknown } },
        { what: 'SET STOP', request: { index: stop, flags: FEATURE_SET + unknown } },
        { what: 'GET REPORT', request: { index: report, flags: FEATURE_GET + unknown, data: ZEROS } },
        { what: 'PROBE of an unknown feature', request: { index: 0x7f, flags: FEATURE_PROBE + unknown } },
      ];
      for (const { what, request } of cases) {
        expectErrno(`${what} with flag bit ${bit}`, await bench.request(request), 'EINVAL');
      }
    }
    return `EINVAL for bits ${UNKNOWN_FLAG_BITS.join(', ')}`;
  },
};

const argszBelowHeader: Check = {
  name: 'request/argsz-below-header',
  group: 'request',
  demand: 'An argsz that leaves no room for the header, 8 bytes, is EINVAL.',
  source: 'docs/kernel.md "Order of checks", rows A18, A19, C50; vfio-user: not even an empty reply fits',
  needs: [],
  async run(bench) {
    const { start, stop } = bench.profile;
    for (const argsz of [0, 7]) {
      expectErrno(
        `PROBE, argsz ${argsz}`,
        await bench.request({ index: start, flags: FEATURE_PROBE, argsz }),
        'EINVAL',
      );
      expectErrno(`STOP, argsz ${argsz}`, await bench.request({ index: stop, flags: FEATURE_SET, argsz }), 'EINVAL');
    }
    return 'EINVAL for argsz 0 and 7';
  },
};

const argszOfProbe: Check = {
  name: 'request/probe-needs-the-header-only',
  group: 'request',
  demand: "PROBE takes any argsz from the header's 8 bytes on.",
  source: 'docs/kernel.md rows A20, A21',
  async run(bench) {
    for (const argsz of [FEATURE_HEADER_SIZE, 4096, 0xffff_ffff]) {
      const outcome = await bench.request({ index: bench.profile.start, flags: FEATURE_PROBE, argsz });
      expectSuccess(`PROBE START, argsz ${argsz}`, outcome);
    }
    return 'argsz 8, 4096 and 4294967295 succeed';
  },
};

function cutArgsz(data: Uint8Array, cut: string): number {
  return FEATURE_HEADER_SIZE + (cut === 'all' ? 0 : data.length - 1);
}

/** START's data for the first window. */
function withStartData(bench: Bench, use: (data: Uint8Array) => Promise<Outcome>): Promise<Outcome> {
  const ranges = [bench.window];
  if (!bench.profile.pointers) return use(encodeStartInline(4096n, ranges));
  return bench.lending(encodeRanges(ranges), rangesPointer =>
    use(encodeStartPointer({ pageSize: 4096n, numRanges: 1, rangesPointer })),
  );
}

/** REPORT's data for the first page of the first window. */
function withReportData(bench: Bench, use: (data: Uint8Array) => Promise<Outcome>): Promise<Outcome> {
  const asked = { iova: bench.window.iova, length: 4096n, pageSize: 4096n };
  if (!bench.profile.pointers) return use(encodeReport(asked));
  return bench.lending(new Uint8Array(8), bitmapPointer => use(encodeReport({ ...asked, bitmapPointer })));
}

const argszBelowStructure: Check = {
  name: 'request/argsz-below-structure',
  group: 'request',
  demand: 'An argsz that is smaller than header and structure is EINVAL for START and REPORT, and changes nothing.',
  source:
    'docs/kernel.md rows B55-B57, C42, C43; vfio-user 0.9 DEVICE_FEATURE: argsz is the most that a reply may have',
  async run(bench) {
    const { start, report } = bench.profile;
    for (const cut of ['one byte', 'all']) {
      const outcome = await withStartData(bench, data =>
        bench.request({ index: start, flags: FEATURE_SET, argsz: cutArgsz(data, cut), data }),
      );
      expectErrno(`START whose argsz leaves out ${cut} of the structure`, outcome, 'EINVAL');
    }
    await expectNotStarted(bench, 'START with a small argsz');
    await bench.start();
    for (const cut of ['one byte', 'all']) {
      const outcome = await withReportData(bench, data =>
        bench.request({ index: report, flags: FEATURE_GET, argsz: cutArgsz(data, cut), data }),
      );
      expectErrno(`REPORT whose argsz leaves out ${cut} of the structure`, outcome, 'EINVAL');
    }
    await expectStarted(bench, 'REPORT with a small argsz');
    return 'EINVAL, and nothing was started or stopped';
  },
};

const argszAboveStructure: Check = {
  name: 'request/argsz-above-structure',
  group: 'request',
  demand: 'An argsz that is larger than what is needed does no harm.',
  source: 'docs/kernel.md rows B59, C45, C51; vfio-user 0.9 DEVICE_FEATURE',
  async run(bench) {
    const { start, stop, report } = bench.profile;
    const probe = await bench.request({ index: report, flags: FEATURE_PROBE | FEATURE_GET, argsz: 4096, data: ZEROS });
    expectSuccess('PROBE REPORT, argsz 4096', probe);
    const started = await withStartData(bench, data =>
      bench.request({ index: start, flags: FEATURE_SET, argsz: 4096, data }),
    );
    expectSuccess('START, argsz 4096', started);
    const reported = await withReportData(bench, data =>
      bench.request({ index: report, flags: FEATURE_GET, argsz: 65536, data }),
    );
    expectSuccess('REPORT, argsz 65536', reported);
    expectSuccess('STOP, argsz 4096', await bench.request({ index: stop, flags: FEATURE_SET, argsz: 4096 }));
    await expectNotStarted(bench, 'STOP with a large argsz');
    return 'PROBE, START, REPORT and STOP succeed';
  },
};

const probeChangesNothing: Check = {
  name: 'request/probe-changes-nothing',
  group: 'request',
  demand: 'PROBE reads no data and changes nothing: it neither starts, stops nor reports, whatever data comes with it.',
  source: 'contract "One entry point"; docs/kernel.md rows B61, C48',
  async run(bench) {
    const { start, stop, report } = bench.profile;
    const nonsense = new Uint8Array(56).fill(0xff);
    expectSuccess(
      'PROBE SET START with data',
      await bench.request({ index: start, flags: FEATURE_PROBE | FEATURE_SET, data: nonsense }),
    );
    const valid = encodeStartInline(4096n, [bench.window]);
    await bench.request({ index: start, flags: FEATURE_PROBE | FEATURE_SET, data: valid });
    await expectNotStarted(bench, 'PROBE SET START');
    await bench.start();
    expectSuccess('PROBE STOP', await bench.request({ index: stop, flags: FEATURE_PROBE | FEATURE_SET }));
    expectSuccess(
      'PROBE GET REPORT with bad data',
      await bench.request({ index: report, flags: FEATURE_PROBE | FEATURE_GET, data: nonsense }),
    );
    await expectStarted(bench, 'PROBE of STOP');
    return 'probing has started and stopped nothing, and its data was not looked at';
  },
};

const replyHeader: Check = {
  name: 'request/reply-header',
  group: 'request',
  demand:
    'A reply names its feature and direction; of SET and PROBE it is the request again, of GET argsz is its length.',
  source: 'vfio-user 0.9 DEVICE_FEATURE, "Reply"; docs/vfio-user.md "Commands"',
  profiles: ['vfio-user'],
  async run(bench) {
    const { start, stop, report } = bench.profile;
    const probed = await bench.request({ index: report, flags: FEATURE_PROBE | FEATURE_GET, argsz: 64 });
    expectHeader('PROBE', probed.reply, { size: 8, argsz: 64, flags: report | FEATURE_PROBE | FEATURE_GET });
    const data = encodeStartInline(4096n, [bench.window]);
    const started = await bench.request({ index: start, flags: FEATURE_SET, data });
    const startLength = FEATURE_HEADER_SIZE + data.length;
    expectHeader('START', started.reply, { size: startLength, argsz: startLength, flags: start | FEATURE_SET });
    const asked = encodeReport({ iova: bench.window.iova, length: 65536n, pageSize: 4096n });
    const reported = await bench.request({ index: report, flags: FEATURE_GET, argsz: 4096, data: asked });
    expectHeader('REPORT', reported.reply, { size: 40, argsz: 40, flags: report | FEATURE_GET });
    const stopped = await bench.request({ index: stop, flags: FEATURE_SET, argsz: 8 });
    expectHeader('STOP', stopped.reply, { size: 8, argsz: 8, flags: stop | FEATURE_SET });
    return 'headers and lengths of PROBE, START, REPORT and STOP are right';
  },
};

function expectHeader(
  what: string,
  reply: Uint8Array,
  { size, argsz, flags }: { size: number; argsz: number; flags: number },
): void {
  if (reply.length !== size) throw new Deviation(`${what}: the reply has ${reply.length} bytes instead of ${size}`);
  const seenArgsz = viewOf(reply).getUint32(0, true);
  const seenFlags = viewOf(reply).getUint32(4, true);
  if (seenArgsz !== argsz) throw new Deviation(`${what}: the reply's argsz is ${seenArgsz} instead of ${argsz}`);
  if (seenFlags === flags) return;
  throw new Deviation(`${what}: the reply's flags are 0x${seenFlags.toString(16)} instead of 0x${flags.toString(16)}`);
}

const shortData: Check = {
  name: 'request/short-data',
  group: 'request',
  demand: "A message that ends before its structure does, or before START's ranges do, is EINVAL, and changes nothing.",
  source: 'docs/vfio-user.md "Rules that keep data safe": a request is bounded before memory is taken for it',
  profiles: ['vfio-user'],
  async run(bench) {
    const { start, report } = bench.profile;
    const startData = encodeStartInline(4096n, [bench.window]);
    for (const length of [0, 1, 15, 16, 31]) {
      const data = startData.subarray(0, length);
      const outcome = await bench.request({ index: start, flags: FEATURE_SET, argsz: 4096, data });
      expectErrno(`START of one range with ${length} bytes of data`, outcome, 'EINVAL');
    }
    await expectNotStarted(bench, 'START with too little data');
    await bench.start();
    const reportData = encodeReport(bench.wholeWindow());
    for (const length of [0, 1, 23]) {
      const data = reportData.subarray(0, length);
      const outcome = await bench.request({ index: report, flags: FEATURE_GET, argsz: 65536, data });
      expectErrno(`REPORT with ${length} bytes of data`, outcome, 'EINVAL');
    }
    await expectStarted(bench, 'REPORT with too little data');
    return 'EINVAL for START cut at 0, 1, 15, 16 and 31 bytes and REPORT at 0, 1 and 23';
  },
};

const shortMessage: Check = {
  name: 'request/short-message',
  group: 'request',
  demand: 'A message that is shorter than the header is EINVAL, and the device goes on.',
  source: 'docs/kernel.md "Order of checks"; vfio-user 0.9 DEVICE_FEATURE',
  needs: [],
  profiles: ['vfio-user'],
  async run(bench) {
    for (const length of [0, 1, 7]) {
      expectErrno(`a request of ${length} bytes`, await bench.requestBytes(new Uint8Array(length)), 'EINVAL');
    }
    await bench.within('GET_INFO', bench.device.info());
    return 'EINVAL for 0, 1 and 7 bytes, and the device still answers';
  },
};

/** Requests that are refused, by devices of any kind. */
function refusedMessages({ profile, migrationFlags }: Bench): { what: string; message: Uint8Array }[] {
  const set = (what: string, index: number, data: Uint8Array) => {
    return { what, message: encodeFeatureRequest({ index, set: true, data }) };
  };
  const refused = [
    set('START in pages of 0 bytes', profile.start, encodeStartInline(0n, [])),
    set('SET of an unknown feature', UNKNOWN_FEATURES[0]!, ZEROS),
    set('SET of REPORT', profile.report, ZEROS),
    { what: 'GET of STOP', message: encodeFeatureRequest({ index: profile.stop, get: true, data: ZEROS }) },
  ];
  if (migrationFlags === 0) return refused;
  const state = encodeDeviceState({ state: 100 as MigrationState, dataFd: -1 });
  return [...refused, set('SET of a state that does not exist', Feature.MIG_DEVICE_STATE, state)];
}

const bareRefusals: Check = {
  name: 'request/bare-refusals',
  group: 'request',
  demand: 'A reply that refuses is a header, and nothing behind it.',
  source:
    'docs/vfio-user.md "Header, 16 bytes": an error reply is a header alone; libvfio-user sends a payload with it',
  needs: ['logging', 'vfio-user wire'],
  profiles: ['vfio-user'],
  async run(bench) {
    let refusals = 0;
    for (const { what, message } of refusedMessages(bench)) {
      const { errno, payload } = await bench.within(what, bench.wire!.exchange(Command.DEVICE_FEATURE, message));
      // What is taken that should not be is another check's.
      if (errno === undefined) continue;
      refusals++;
      if (payload.length > 0) throw new Deviation(`${what}: ${errno}, and ${payload.length} bytes behind the header`);
    }
    if (refusals === 0) throw new Deviation('nothing is refused, whatever is asked');
    return `${refusals} refusals, a header each`;
  },
};

/** The header and what every feature request has in common. */
export const requestChecks: readonly Check[] = [
  unknownFeature,
  allThree,
  probeDirection,
  direction,
  getWithSet,
  unknownFlags,
  argszBelowHeader,
  argszOfProbe,
  argszBelowStructure,
  argszAboveStructure,
  probeChangesNothing,
  replyHeader,
  shortData,
  shortMessage,
  bareRefusals,
];
