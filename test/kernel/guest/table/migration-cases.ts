import { closeSync } from 'node:fs';
import { VfioRequest } from '../../../../src/kernel/vfio-abi.js';
import {
  Feature,
  FEATURE_GET as GET,
  FEATURE_PROBE as PROBE,
  FEATURE_SET as SET,
  MigrationState as State,
} from '../../../../src/uapi/index.js';
import type { Cases } from './cases.js';
import type { Outcome, RawDevice } from './raw-device.js';
import { answer, ask, hex, message, report, start, stop } from './requests.js';

const MIGRATION = Feature.MIGRATION;
const MIG_DEVICE_STATE = Feature.MIG_DEVICE_STATE;
const MIG_DATA_SIZE = Feature.MIG_DATA_SIZE;
/** No descriptor, and not what the kernel writes for none. */
const UNTOUCHED = -77;

/** Rows D: migration, in one walk through the states. A device without migration answers as the column for 6.1 says. */
export function migrationCases(device: RawDevice): Cases {
  const structure = () => new Uint8Array(8);
  const stateNow = (): number => {
    ask(device, message(16, GET | MIG_DEVICE_STATE, structure()));
    return answer().getUint32(0, true);
  };
  const enter = (state: number): Outcome => {
    const wanted = new Int32Array([state, UNTOUCHED]);
    const outcome = ask(device, message(16, SET | MIG_DEVICE_STATE, new Uint8Array(wanted.buffer)));
    const fd = answer().getInt32(4, true);
    if (fd >= 0) closeSync(fd);
    return `${outcome} (data_fd ${fd >= 0 ? 'new fd' : fd}; state now ${stateNow()})`;
  };
  /** Without what the rows while logging do not tell. */
  const plainly = (outcome: Outcome): Outcome => outcome.replace(/ \(.*/, '');
  const walk = (first: number, states: readonly number[]): Cases =>
    Object.fromEntries(states.map((state, index) => [`D${`${first + index}`.padStart(2, '0')}`, () => enter(state)]));
  const { RUNNING, STOP, STOP_COPY, RUNNING_P2P, PRE_COPY, PRE_COPY_P2P, RESUMING, ERROR } = State;
  return {
    D01: () => {
      const outcome = ask(device, message(16, GET | MIGRATION, structure()));
      return `${outcome} (flags ${hex(answer().getBigUint64(0, true))} (1 STOP_COPY 2 P2P 4 PRE_COPY))`;
    },
    D02: () => ask(device, message(15, GET | MIGRATION, structure())),
    D03: () => ask(device, message(16, SET | MIGRATION, structure())),
    D04: () => {
      const outcome = ask(device, message(16, GET | MIG_DEVICE_STATE, structure()));
      return `${outcome} (state ${answer().getUint32(0, true)} fd ${answer().getInt32(4, true)})`;
    },
    D05: () => ask(device, message(15, GET | MIG_DEVICE_STATE, structure())),
    D06: () => ask(device, message(8, PROBE | GET | SET | MIG_DEVICE_STATE)),
    D07: () => ask(device, message(16, GET | SET | MIG_DEVICE_STATE, structure())),
    ...walk(8, [8, 100, ERROR, RUNNING, STOP, STOP_COPY, STOP, RUNNING, STOP_COPY, RUNNING, RUNNING_P2P, STOP]),
    ...walk(20, [RUNNING_P2P, RUNNING, PRE_COPY, STOP_COPY, STOP, RUNNING, PRE_COPY, PRE_COPY_P2P, STOP_COPY, RUNNING]),
    ...walk(30, [PRE_COPY, STOP, PRE_COPY, RUNNING, PRE_COPY_P2P, RUNNING, STOP, RESUMING, RESUMING]),
    ...walk(39, [STOP, STOP_COPY, RUNNING]),
    D42: () => `${device.call(VfioRequest.DEVICE_RESET, 0)} (state now ${stateNow()})`,
    D43: () => start(device),
    D44: () => plainly(enter(STOP)),
    D45: () => report(device),
    D46: () => plainly(enter(RUNNING)),
    D47: () => {
      const outcome = ask(device, message(16, GET | MIG_DATA_SIZE, structure()));
      return `${outcome} (stop_copy_length ${answer().getBigUint64(0, true)})`;
    },
    D48: () => device.call(VfioRequest.DEVICE_RESET, 0),
    D49: () => {
      const outcome = report(device);
      stop(device);
      return outcome;
    },
  };
}
