import { describe, expect, test } from 'vitest';
import { everyEnd } from './interleavings.js';

/*
 * The arguments of assembly/exchange.ts and assembly/generations.ts, step by step: writers of one page against reports of it,
 * in every order that their steps can have, with store buffers as x86-64 has them. A store of a thread waits in its buffer, for
 * as long as it likes, until a locked instruction of the thread drains it. The last report begins when all writers are done; in
 * the end its reader must have the bytes of all of them. What the arguments forbid is tried as well, and must lose a write: so
 * the model can.
 */

interface WriterState {
  step: 'bytes' | 'begin' | 'look' | 'page' | 'summary' | 'set summary' | 'again' | 'done';
  /** Whether the bytes wait in the store buffer. */
  waiting: boolean;
  before: number;
}

interface ReportState {
  step: 'swap' | 'summary' | 'page' | 'clear' | 'copy';
  left: number;
  /** The bitmap that is taken. */
  retired: number;
  taken: boolean;
  /** The bitmap whose clearing waits in the store buffer; -1 for none. */
  clearing: number;
}

interface State {
  counter: number;
  page: boolean[];
  summary: boolean[];
  /** Whose bytes are in memory, and whose the reader has: a bit for each writer. */
  memory: number;
  copy: number;
  writers: WriterState[];
  report: ReportState;
}

interface Rules {
  keeping: 'exchange' | 'generations';
  /** Step (4), the second look at the counter. */
  looksAgain: boolean;
  /** How a writer marks: by a locked OR; or only where a look finds no mark, with or without a fence before. */
  marks: 'always' | 'looks behind a fence' | 'looks';
  /** Which bit a writer sets first. */
  first: 'page' | 'summary';
}

const algorithm: Rules = { keeping: 'generations', looksAgain: true, marks: 'always', first: 'page' };

/** A copy of a state, changed. */
function changed(state: State, change: (copy: State) => void): State {
  const copy = structuredClone(state);
  change(copy);
  return copy;
}

function drainWriter(state: State, number: number): void {
  if (state.writers[number].waiting) state.memory |= 1 << number;
  state.writers[number].waiting = false;
}

function writerOf(number: number, { keeping, looksAgain, marks, first }: Rules): (state: State) => State[] {
  const live = ({ writers }: State) => (keeping === 'exchange' ? 0 : writers[number].before & 1);
  const afterBegin = marks === 'always' ? (first === 'page' ? 'page' : 'summary') : 'look';
  const afterPage = first === 'page' ? 'summary' : 'again';
  const afterSummary = first === 'page' ? 'again' : 'page';
  const steps: Record<WriterState['step'], (state: State, self: WriterState) => void> = {
    bytes: (state, self) => {
      self.waiting = true;
      if (marks === 'looks behind a fence') drainWriter(state, number);
      self.step = 'begin';
    },
    begin: (state, self) => {
      self.before = state.counter;
      self.step = afterBegin;
    },
    look: (state, self) => {
      self.step = state.page[live(state)] ? 'summary' : 'page';
    },
    page: (state, self) => {
      drainWriter(state, number);
      state.page[live(state)] = true;
      self.step = afterPage;
    },
    summary: (state, self) => {
      self.step = state.summary[live(state)] ? afterSummary : 'set summary';
    },
    'set summary': (state, self) => {
      drainWriter(state, number);
      state.summary[live(state)] = true;
      self.step = afterSummary;
    },
    again: (state, self) => {
      const isMoved = keeping === 'generations' && looksAgain && state.counter !== self.before;
      self.step = isMoved ? 'begin' : 'done';
    },
    done: () => {},
  };
  return state => {
    const self = state.writers[number];
    const next: State[] = [];
    if (self.waiting) next.push(changed(state, copy => drainWriter(copy, number)));
    if (self.step !== 'done') next.push(changed(state, copy => steps[self.step](copy, copy.writers[number])));
    return next;
  };
}

function drainReport(state: State): void {
  if (state.report.clearing >= 0) state.page[state.report.clearing] = false;
  state.report.clearing = -1;
}

function reporterOf({ keeping }: Rules): (state: State) => State[] {
  const steps: Record<ReportState['step'], (state: State, self: ReportState) => void> = {
    swap: (state, self) => {
      if (keeping === 'generations') {
        drainReport(state);
        self.retired = state.counter & 1;
        state.counter++;
      }
      self.step = 'summary';
    },
    summary: (state, self) => {
      drainReport(state);
      const isMarked = state.summary[self.retired];
      state.summary[self.retired] = false;
      self.taken = false;
      if (isMarked) self.step = 'page';
      else endReport(self);
    },
    page: (state, self) => {
      self.taken = state.page[self.retired];
      if (keeping === 'exchange') state.page[self.retired] = false;
      self.step = keeping === 'exchange' ? 'copy' : 'clear';
    },
    clear: (_state, self) => {
      self.clearing = self.retired;
      self.step = 'copy';
    },
    copy: (state, self) => {
      if (self.taken) state.copy |= state.memory;
      endReport(self);
    },
  };
  return state => {
    const self = state.report;
    const next: State[] = [];
    if (self.clearing >= 0) next.push(changed(state, drainReport));
    const mayGoOn =
      self.left > 1 || self.step !== 'swap' ? self.left > 0 : self.left === 1 && state.writers.every(isDone);
    if (mayGoOn) next.push(changed(state, copy => steps[self.step](copy, copy.report)));
    return next;
  };
}

function isDone({ step }: WriterState): boolean {
  return step === 'done';
}

function endReport(self: ReportState): void {
  self.left--;
  self.step = 'swap';
}

/** In how many ways a write can be lost: ends in which the reader lacks somebody's bytes. */
function waysToLose(change: Partial<Rules>, writers: number, reports: number): { lost: number; states: number } {
  const rules = { ...algorithm, ...change };
  const initial: State = {
    counter: 0,
    page: [false, false],
    summary: [false, false],
    memory: 0,
    copy: 0,
    writers: Array.from({ length: writers }, () => ({ step: 'bytes', waiting: false, before: 0 })),
    report: { step: 'swap', left: reports, retired: 0, taken: false, clearing: -1 },
  };
  const actors = [reporterOf(rules), ...initial.writers.map((_, number) => writerOf(number, rules))];
  const { ends, states } = everyEnd(initial, actors);
  const all = (1 << writers) - 1;
  for (const end of ends) expect([end.memory, end.report.left]).toEqual([all, 0]);
  return { lost: ends.filter(end => end.copy !== all).length, states };
}

describe('in every order of steps of two writers and three reports, no write is lost', () => {
  test.each<[string, Partial<Rules>]>([
    ['by generations', {}],
    ['by generations, in a list', { marks: 'looks behind a fence' }],
    ['by exchange', { keeping: 'exchange' }],
    ['by exchange, in a list', { keeping: 'exchange', marks: 'looks behind a fence' }],
  ])('%s', (_name, rules) => {
    const { lost, states } = waysToLose(rules, 2, 3);
    expect(lost).toBe(0);
    expect(states).toBeGreaterThan(500);
  });
});

describe('a write can be lost', () => {
  test('by generations, without the second look at the counter: one writer and two reports suffice', () => {
    expect(waysToLose({ looksAgain: false }, 1, 2).lost).toBeGreaterThan(0);
  });

  test.each(['exchange', 'generations'] as const)(
    'by %s, where a look without a fence replaces the locked OR',
    keeping => {
      expect(waysToLose({ keeping, marks: 'looks' }, 2, 3).lost).toBeGreaterThan(0);
    },
  );

  test('by exchange, where the summary bit is set before the page bit', () => {
    expect(waysToLose({ keeping: 'exchange', first: 'summary' }, 1, 2).lost).toBeGreaterThan(0);
  });
});
