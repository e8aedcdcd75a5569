import { FEATURE_GET as GET, FEATURE_PROBE as PROBE, FEATURE_SET as SET } from '../../../../src/uapi/index.js';
import type { Cases } from './cases.js';
import { Pages, unmapped } from './pages.js';
import type { Outcome, RawDevice } from './raw-device.js';
import { ask, message } from './requests.js';

const START = 6;
const STOP = 7;
const REPORT = 8;
const UNKNOWN = 0x7f;

const zeros = new Uint8Array(56);

/** Rows A: the header of a request, and what may be probed. */
export function requestCases(device: RawDevice): Cases {
  const header = (flags: number, argsz = 8) => ask(device, message(argsz, flags));
  const whole = (flags: number) => ask(device, message(64, flags, zeros));
  const probes = Object.fromEntries(
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, UNKNOWN, 0xffff].map((feature, index) => [
      `A${`${index + 1}`.padStart(2, '0')}`,
      () => header(PROBE | feature),
    ]),
  );
  return {
    ...probes,
    A18: () => header(PROBE | START, 0),
    A19: () => header(PROBE | START, 7),
    A20: () => header(PROBE | START, 8),
    A21: () => header(PROBE | START, 0xffffffff),
    A22: () => header(PROBE | START | (1 << 19)),
    A23: () => header((PROBE | START | (1 << 31)) >>> 0),
    A24: () => header(PROBE | UNKNOWN | (1 << 19)),
    A25: () => header(PROBE | GET | START),
    A26: () => header(PROBE | SET | START),
    A27: () => header(PROBE | GET | SET | START),
    A28: () => whole(GET | SET | START),
    A29: () => whole(START),
    A30: () => whole(GET | START),
    A31: () => header(PROBE | GET | STOP),
    A32: () => header(PROBE | SET | STOP),
    A33: () => header(PROBE | GET | SET | STOP),
    A34: () => whole(GET | SET | STOP),
    A35: () => whole(STOP),
    A36: () => whole(GET | STOP),
    A37: () => header(PROBE | GET | REPORT),
    A38: () => header(PROBE | SET | REPORT),
    A39: () => header(PROBE | GET | SET | REPORT),
    A40: () => whole(GET | SET | REPORT),
    A41: () => whole(REPORT),
    A42: () => whole(SET | REPORT),
    A43: () => whole(GET | UNKNOWN),
    A44: () => whole(GET | SET | UNKNOWN),
    A45: () => whole(UNKNOWN),
    A46: () => device.feature(0),
    A47: () => device.feature(unmapped()),
    A48: () => lastBytes(device, message(64, PROBE | START)),
    A49: () => lastBytes(device, message(32, SET | START)),
    A50: () => lastBytes(device, message(40, GET | REPORT)),
    A51: () => lastBytes(device, message(4096, SET | STOP)),
    A52: () => lastBytes(device, message(8, PROBE | START).subarray(0, 4)),
  };
}

/** Asks with a message behind which nothing is mapped. */
function lastBytes(device: RawDevice, bytes: Uint8Array): Outcome {
  const pages = new Pages(1);
  return device.feature(pages.put(pages.beforeEnd(bytes.length), bytes));
}
