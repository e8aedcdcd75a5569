import type { CheckGroup } from '../../../src/conformance/index.js';
import type { ProfileName } from '../../../src/uapi/index.js';
import { PlainDevice } from './plain-device.js';
import type { PlainLog } from './plain-log.js';

/** One way not to keep the contract. */
export interface KnownDeviation {
  /** What the device does, in words that end "A device …". */
  readonly deviation: string;
  /** The dialect in which it is looked for; default `linux`. */
  readonly profile: ProfileName;
  /** The check that is there for it. */
  readonly finds: string;
  /** Groups of which other checks may stumble over it, beside the group of {@link KnownDeviation.finds}. */
  readonly also: readonly CheckGroup[];
  readonly make: () => PlainDevice;
  /** How long it may take for an answer, milliseconds: for devices that never answer. */
  readonly timeLimitMs: number | undefined;
}

type Rest = Partial<Pick<KnownDeviation, 'profile' | 'also' | 'timeLimitMs'>>;

/** A device that deviates. */
export function byDevice(
  deviation: string,
  finds: string,
  kind: new () => PlainDevice,
  rest: Rest = {},
): KnownDeviation {
  return { profile: 'linux', also: [], timeLimitMs: undefined, ...rest, deviation, finds, make: () => new kind() };
}

/** A device whose log deviates. */
export function byLog(
  deviation: string,
  finds: string,
  kind: new (options: ConstructorParameters<typeof PlainLog>[0]) => PlainLog,
  rest: Rest = {},
): KnownDeviation {
  const make = () => new PlainDevice(new kind({ pageSizes: [4096n, 65536n, 2n ** 21n] }));
  return { profile: 'linux', also: [], timeLimitMs: undefined, ...rest, deviation, finds, make };
}
