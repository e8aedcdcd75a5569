/*
 * The matrix: in which phase of a migration what goes wrong, and how that may end. docs/faults.md says why.
 */

/** Where a migration is when something happens to it, in the order in which it goes through them. */
export const PHASES = [
  'connect',
  'first-pass',
  'later-passes',
  'stop-and-copy-memory',
  'stop-and-copy-state',
  'load',
  'verify',
  'before-commit',
  'after-commit',
  'afterwards',
] as const;
export type Phase = (typeof PHASES)[number];

/** Where the machine is in the end. `lost`: at nobody's, as what its owner by the record needs to run it was killed or does not work. */
export type Place = 'source' | 'destination' | 'lost';

const SOURCE: readonly Place[] = ['source'];
const DESTINATION: readonly Place[] = ['destination'];
const LOST: readonly Place[] = ['lost'];
/** Two requests for the record, or a fault and the commit, are under way at once: whichever is first. */
export const EITHER: readonly Place[] = ['source', 'destination'];

type Row = Partial<Record<Phase, readonly Place[]>>;

/** The same outcome in all phases from `first` to `last`. */
function from(first: Phase, last: Phase, places: readonly Place[]): Row {
  const phases = PHASES.slice(PHASES.indexOf(first), PHASES.indexOf(last) + 1);
  return Object.fromEntries(phases.map(phase => [phase, places]));
}

/** A link that is mended before anybody has lost patience. */
const MENDED_LINK: Row = {
  // Before both have said HELLO there is nothing to take up again.
  connect: EITHER,
  ...from('first-pass', 'verify', DESTINATION),
  'before-commit': EITHER,
  'after-commit': DESTINATION,
};

const TABLE = {
  'kill-source': {
    ...from('connect', 'verify', LOST),
    'before-commit': ['lost', 'destination'],
    ...from('after-commit', 'afterwards', DESTINATION),
  },
  'kill-destination': {
    ...from('connect', 'verify', SOURCE),
    'before-commit': ['source', 'lost'],
    ...from('after-commit', 'afterwards', LOST),
  },
  'kill-source-device': {
    connect: LOST,
    ...from('first-pass', 'load', ['lost', 'destination']),
    ...from('verify', 'afterwards', DESTINATION),
  },
  'kill-destination-device': {
    ...from('connect', 'verify', SOURCE),
    'before-commit': ['source', 'lost'],
    ...from('after-commit', 'afterwards', LOST),
  },
  'freeze-source': from('connect', 'afterwards', DESTINATION),
  'freeze-destination': from('connect', 'afterwards', DESTINATION),
  'freeze-device': from('connect', 'afterwards', DESTINATION),
  'cut-once': MENDED_LINK,
  'cut-repeatedly': MENDED_LINK,
  'cut-for-good': {
    ...from('connect', 'verify', SOURCE),
    'before-commit': EITHER,
    'after-commit': DESTINATION,
  },
  stall: from('connect', 'after-commit', DESTINATION),
  'slow-link': from('connect', 'after-commit', DESTINATION),
  'corrupt-to-destination': {
    connect: EITHER,
    ...from('first-pass', 'verify', DESTINATION),
    'before-commit': EITHER,
  },
  'corrupt-to-source': {
    connect: EITHER,
    load: DESTINATION,
    verify: DESTINATION,
    'after-commit': DESTINATION,
  },
  'store-unreachable': {
    ...from('connect', 'verify', SOURCE),
    'before-commit': EITHER,
    ...from('after-commit', 'afterwards', DESTINATION),
  },
  'disk-full': {
    ...from('connect', 'verify', SOURCE),
    'before-commit': EITHER,
    ...from('after-commit', 'afterwards', DESTINATION),
  },
  'no-descriptors': {
    ...from('connect', 'verify', SOURCE),
    'before-commit': EITHER,
    ...from('after-commit', 'afterwards', DESTINATION),
  },
  'no-memory': {
    ...from('connect', 'stop-and-copy-state', EITHER),
    // It may hold out until the machine is its own.
    ...from('load', 'after-commit', ['source', 'destination', 'lost']),
  },
  'report-fails-once': from('first-pass', 'stop-and-copy-memory', DESTINATION),
  'report-fails-always': { 'first-pass': EITHER },
  'report-lies': { 'later-passes': EITHER, 'stop-and-copy-memory': EITHER },
  'device-is-late': {
    'first-pass': DESTINATION,
    'later-passes': DESTINATION,
    'stop-and-copy-memory': DESTINATION,
    load: DESTINATION,
  },
  'device-state-is-wrong': { 'stop-and-copy-state': SOURCE },
  'device-refuses-to-stop': { 'stop-and-copy-memory': SOURCE },
  'device-refuses-state': { 'stop-and-copy-state': SOURCE },
  'device-refuses-to-load': { load: SOURCE },
  'device-refuses-to-run': { 'after-commit': LOST },
} satisfies Record<string, Row>;

/** What goes wrong. */
export type Fault = keyof typeof TABLE;

/** What {@link Fault} is a device's own, behind the host's back. */
export type DeviceFault = Extract<Fault, `report-${string}` | `device-${string}`>;

export interface Cell {
  readonly phase: Phase;
  readonly fault: Fault;
  /** Where the machine may be in the end. */
  readonly places: readonly Place[];
}

/** Every phase x every fault that can happen in it. */
export const CELLS: readonly Cell[] = Object.entries(TABLE as Record<Fault, Row>).flatMap(([fault, row]) =>
  Object.entries(row).map(([phase, places]) => ({ phase: phase as Phase, fault: fault as Fault, places })),
);

export function isDeviceFault(fault: Fault): fault is DeviceFault {
  return fault.startsWith('report-') || fault.startsWith('device-');
}
