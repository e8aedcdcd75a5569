import { FrameType } from '../../../src/migration/index.js';
import { randomFrom } from '../ownership/seed.js';
import { CELLS, type Cell, type DeviceFault, EITHER, isDeviceFault, type Phase, type Place } from './cells.js';

/** Which way over the link: to the destination, or back. */
export type Way = 'there' | 'back';

/** The instant at which a fault strikes. */
export type Instant =
  /** The source dials. */
  | { readonly at: 'dial' }
  /** A frame passes the link. */
  | {
      readonly at: 'frame';
      readonly way: Way;
      readonly types: readonly number[];
      /** How many passes have ended before. */
      readonly passes: number;
      /** Of the frames that fit, from 0. */
      readonly nth: number;
      /** How much of the frame has gone on then: 0 to 1. */
      readonly part: number;
    }
  /** The destination is about to ask for the record, or has just got it. */
  | { readonly at: 'gate'; readonly gate: 'before-commit' | 'after-commit' }
  /** Both ends have said how it ended. */
  | { readonly at: 'end' }
  /** A device is asked, after so many passes. */
  | {
      readonly at: 'device';
      readonly side: 'source' | 'destination';
      readonly fault: { readonly what: DeviceFault; readonly afterPasses: number; readonly device: number };
    };

/** All that is decided about a run before it begins. */
export interface Run {
  readonly seed: number;
  readonly cell: Cell;
  /** Passes while the machine runs at the source. */
  readonly passes: number;
  readonly instant: Instant;
  /** Which of a side's devices, where one of them is meant; also on which side, where that is open. */
  readonly device: number;
  readonly side: 'source' | 'destination';
  /** How many connections memory takes. */
  readonly connections: number;
  readonly hasTls: boolean;
  /** Which connections are cut, where they are cut once. */
  readonly cuts: 'all' | 'struck';
  /** How long what passes by itself lasts, milliseconds. */
  readonly lastsMs: number;
  /** How long each end waits for the other, milliseconds. */
  readonly timeoutMs: number;
  /** Where the machine may be in the end. */
  readonly places: readonly Place[];
}

/** Devices of a machine. */
export const DEVICES = 2;

/** Longer than anything that is no fault, on a machine that has much else to do. */
const PATIENT_MS = 20_000;
/** Where waiting in vain is what is tested. */
const IMPATIENT_MS = 1500;

/** One of how many long freezes and stalls outlast the other end's patience. */
const LONG_OF = 4;

/** The seed of the `round`th run of the `index`th cell. */
export function seedOfCell(index: number, round: number): number {
  return round * CELLS.length + index;
}

/** The run of a seed: always the same. The seed's rest by the number of cells is the cell. */
export function describeRun(seed: number): Run {
  const cell = CELLS[seed % CELLS.length]!;
  // Near seeds are spread: the generator's first numbers would be near each other too.
  const random = randomFrom(Math.imul(seed + 1, 0x9e37_79b1) << 1);
  const choose = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!;
  const passes = cell.phase === 'later-passes' ? choose([2, 3]) : choose([1, 1, 2]);
  const instant = anInstant(cell, passes, choose, random);
  const passesByItself = cell.fault.startsWith('freeze') || cell.fault === 'stall';
  const isLong = passesByItself && Math.floor(random() * LONG_OF) === 0;
  const endsInVain = ['kill', 'cut-for'].some(start => cell.fault.startsWith(start));
  const lasts = random();
  return {
    seed,
    cell,
    passes,
    instant,
    device: choose([0, 1]),
    side: choose(['source', 'destination']),
    connections: choose([1, 1, 1, 2]),
    hasTls: choose([false, false, false, true]),
    cuts: choose(['all', 'struck']),
    lastsMs: isLong ? IMPATIENT_MS * (1.2 + 0.5 * lasts) : 20 + 200 * lasts,
    timeoutMs: isLong || endsInVain ? IMPATIENT_MS : PATIENT_MS,
    places: (isLong && cell.phase !== 'afterwards') || isLastWord(cell, instant) ? EITHER : cell.places,
  };
}

/** The source has the last digest, and says GO before or after it hears that the connection is cut. */
function isLastWord({ phase, fault }: Cell, instant: Instant): boolean {
  const isWhole = instant.at === 'frame' && instant.way === 'back' && instant.part === 1;
  return isWhole && phase === 'verify' && fault.startsWith('cut');
}

/** For people: what happens, and when. */
export function nameOf({ seed, cell, instant, passes, lastsMs, timeoutMs, connections, hasTls, cuts }: Run): string {
  const { at, ...where } = instant;
  const when = `${at} ${JSON.stringify(where)}`;
  const time = `${passes} passes, ${Math.round(lastsMs)} of ${timeoutMs} ms`;
  const link = `${connections} connections${hasTls ? ' with TLS' : ''}, cuts ${cuts}`;
  return `seed ${seed}: ${cell.fault} in ${cell.phase} (${when}; ${time}; ${link})`;
}

type Choose = <T>(list: readonly T[]) => T;

function anInstant({ phase, fault }: Cell, passes: number, choose: Choose, random: () => number): Instant {
  if (isDeviceFault(fault)) return deviceInstant(fault, phase, passes, choose);
  const isCorruption = fault.startsWith('corrupt');
  const frame = (way: Way, types: readonly number[], after = 0, most = 1): Instant => ({
    at: 'frame',
    way,
    types,
    passes: after,
    nth: Math.floor(random() * most),
    part: isCorruption ? random() * 0.999 : choose([0, random(), 1]),
  });
  const { HELLO, MEMORY, PASS, DEVICE_STATE, SWITCH, READY, VERIFY, DIGEST, GO, RESUMED } = FrameType;
  const instants: Record<Phase, Instant[]> = {
    connect: [{ at: 'dial' }, frame('there', [HELLO]), frame('back', [HELLO])],
    'first-pass': [frame('there', [MEMORY], 0, 10)],
    'later-passes': [frame('there', [MEMORY, PASS], choose(passes === 3 ? [1, 2] : [1]))],
    'stop-and-copy-memory': [frame('there', [MEMORY, PASS], passes)],
    'stop-and-copy-state': [frame('there', [DEVICE_STATE], passes + 1, DEVICES)],
    load: [frame('there', [SWITCH]), frame('back', [READY])],
    verify: [frame('there', [VERIFY]), frame('back', [DIGEST])],
    'before-commit': [frame('there', [GO]), { at: 'gate', gate: 'before-commit' }],
    'after-commit': [{ at: 'gate', gate: 'after-commit' }, frame('back', [RESUMED])],
    afterwards: [{ at: 'end' }],
  };
  const way: Way | undefined = isCorruption ? (fault === 'corrupt-to-source' ? 'back' : 'there') : undefined;
  return choose(instants[phase].filter(each => way === undefined || (each.at === 'frame' && each.way === way)));
}

function deviceInstant(what: DeviceFault, phase: Phase, passes: number, choose: Choose): Instant {
  const side = what.startsWith('report') || SOURCE_DEVICE_FAULTS.has(what) ? 'source' : 'destination';
  const afterPasses: Partial<Record<Phase, number>> = {
    'first-pass': 0,
    'later-passes': 1,
    'stop-and-copy-memory': passes,
    'stop-and-copy-state': passes,
  };
  const isLate = what === 'device-is-late' && phase !== 'load';
  const fault = {
    what,
    afterPasses: side === 'source' || isLate ? (afterPasses[phase] ?? 0) : 0,
    device: choose([0, 1]),
  };
  return { at: 'device', side: isLate ? 'source' : side, fault };
}

const SOURCE_DEVICE_FAULTS: ReadonlySet<DeviceFault> = new Set(['device-state-is-wrong', 'device-refuses-to-stop']);
