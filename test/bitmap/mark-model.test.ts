import { describe, expect, test } from 'vitest';
import { everyEnd } from './interleavings.js';

/*
 * The arguments of assembly/exchange.ts and assembly/generations.ts, step by step: writers of one page against reports of it,
 * in every order that their steps can have, with store buffers as x86-64 has them. The stores of a thread wait in its buffer,
 * for as long as they like and in their order, until a locked instruction of the thread drains it. The last report begins when
 * all writers are done; in the end its reader must have the bytes of all of them. What the arguments forbid is tried as well,
 * and must lose a write: so the model can.
 *
 * A writer marks as markShared and markLive do, as lists do (markFourShared, markFourLive), or as a long range does to a page
 * amid it (setRangeShared): stores between two locked instructions. A report is any of these, each time:
 *  - of the whole group (takeGroupExchange, takeGroupGenerations);
 *  - of a part with the page's whole block (takePart with clearSummary);
 *  - of a part of the block, whose summary bit stays (takePart);
 *  - of a part of the page, whose mark stays (isMarked).
 */

type Store = 'bytes' | 'page 0' | 'page 1' | 'summary 0' | 'summary 1';

interface WriterState {
  step: 'bytes' | 'begin' | 'look' | 'page' | 'fence' | 'summary' | 'set summary' | 'again' | 'done';
  /** Stores that wait in the store buffer. */
  waiting: Store[];
  before: number;
  /** Whether it still marks as a list does; who finds the counter moved goes on by the locked OR. */
  looks: boolean;
}

type Kind = 'group' | 'block' | 'part of a block' | 'part of a page';

interface ReportState {
  step: 'begin' | 'summary' | 'clear summary' | 'page' | 'clear' | 'copy';
  kind: Kind;
  left: number;
  /** The bitmap that is taken from. */
  source: number;
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
  /** How a writer marks: by a locked OR; only where a look finds no mark, with or without a fence before; or by stores. */
  marks: 'always' | 'looks behind a fence' | 'looks' | 'stores';
  /** Which bit a writer sets first. */
  first: 'page' | 'summary';
  /** Which bit the report of a block takes first. */
  takes: 'summary' | 'page';
  kinds: readonly Kind[];
}

const everyKind: readonly Kind[] = ['group', 'block', 'part of a block', 'part of a page'];

const algorithm: Rules = {
  keeping: 'generations',
  looksAgain: true,
  marks: 'always',
  first: 'page',
  takes: 'summary',
  kinds: everyKind,
};

/** A copy of a state, changed. */
function changed(state: State, change: (copy: State) => void): State {
  const copy: State = {
    ...state,
    page: [...state.page],
    summary: [...state.summary],
    writers: state.writers.map(writer => ({ ...writer, waiting: [...writer.waiting] })),
    report: { ...state.report },
  };
  change(copy);
  return copy;
}

/** The oldest store that waits reaches the memory. */
function drainOne(state: State, number: number): void {
  const store = state.writers[number].waiting.shift();
  if (store === 'bytes') state.memory |= 1 << number;
  else if (store?.startsWith('page')) state.page[Number(store.slice(-1))] = true;
  else if (store !== undefined) state.summary[Number(store.slice(-1))] = true;
}

function drainWriter(state: State, number: number): void {
  while (state.writers[number].waiting.length > 0) drainOne(state, number);
}

function writerOf(number: number, { keeping, looksAgain, marks, first }: Rules): (state: State) => State[] {
  const live = ({ writers }: State) => (keeping === 'exchange' ? 0 : ((writers[number].before & 1) as 0 | 1));
  const afterPage = first === 'page' ? 'summary' : 'again';
  const afterSummary = first === 'page' ? 'again' : 'page';
  const mark = (self: WriterState) => {
    self.step = self.looks ? 'look' : first;
  };
  const steps: Record<WriterState['step'], (state: State, self: WriterState) => void> = {
    bytes: (state, self) => {
      self.waiting.push('bytes');
      if (marks === 'looks behind a fence') drainWriter(state, number);
      self.step = 'begin';
    },
    begin: (state, self) => {
      self.before = state.counter;
      mark(self);
    },
    look: (state, self) => {
      self.step = state.page[live(state)] ? 'summary' : 'page';
    },
    page: (state, self) => {
      drainWriter(state, number);
      if (marks === 'stores') self.waiting.push(`page ${live(state)}`);
      else state.page[live(state)] = true;
      self.step = marks === 'stores' ? 'fence' : afterPage;
    },
    // The locked OR of the last word: of the page bits, and of the summary's behind those.
    fence: (state, self) => {
      const isSummary = self.waiting.at(-1)?.startsWith('summary');
      drainWriter(state, number);
      self.step = isSummary ? 'again' : 'set summary';
    },
    summary: (state, self) => {
      self.step = state.summary[live(state)] ? afterSummary : 'set summary';
    },
    'set summary': (state, self) => {
      drainWriter(state, number);
      if (marks === 'stores') self.waiting.push(`summary ${live(state)}`);
      else state.summary[live(state)] = true;
      self.step = marks === 'stores' ? 'fence' : afterSummary;
    },
    again: (state, self) => {
      if (keeping === 'exchange' || !looksAgain || state.counter === self.before) {
        self.step = 'done';
      } else if (self.looks) {
        // On to markLive, which reads the counter once more.
        self.looks = false;
        self.step = 'begin';
      } else {
        self.before = state.counter;
        mark(self);
      }
    },
    done: () => {},
  };
  return state => {
    const self = state.writers[number];
    const next: State[] = [];
    if (self.waiting.length > 0) next.push(changed(state, copy => drainOne(copy, number)));
    if (self.step !== 'done') next.push(changed(state, copy => steps[self.step](copy, copy.writers[number])));
    return next;
  };
}

function drainReport(state: State): void {
  if (state.report.clearing >= 0) state.page[state.report.clearing] = false;
  state.report.clearing = -1;
}

function reporterOf({ keeping, takes, kinds }: Rules): (state: State) => State[] {
  const steps: Record<ReportState['step'], (state: State, self: ReportState) => void> = {
    begin: (state, self) => {
      self.source = keeping === 'exchange' ? 0 : state.counter & 1;
      if (keeping === 'generations' && self.kind === 'group') {
        drainReport(state);
        state.counter++;
      }
      self.step = self.kind === 'part of a page' ? 'page' : 'summary';
    },
    summary: (state, self) => {
      if (self.kind === 'group') {
        drainReport(state);
        self.step = state.summary[self.source] ? 'page' : 'begin';
        state.summary[self.source] = false;
      } else {
        const isMarked = state.summary[0] || state.summary[1];
        const clears = self.kind === 'block' && takes === 'summary';
        self.step = !isMarked ? 'begin' : clears ? 'clear summary' : 'page';
      }
      if (self.step === 'begin') self.left--;
    },
    'clear summary': (state, self) => {
      drainReport(state);
      state.summary[self.source] = false;
      self.step = takes === 'page' ? 'copy' : 'page';
    },
    page: (state, self) => {
      self.taken = state.page[self.source];
      const isPlain = self.kind === 'part of a page' || (keeping === 'generations' && self.kind === 'group');
      if (!isPlain && self.taken) {
        drainReport(state);
        state.page[self.source] = false;
      }
      if (isPlain && self.kind === 'group') self.step = 'clear';
      else self.step = takes === 'page' && self.kind === 'block' ? 'clear summary' : 'copy';
    },
    clear: (_state, self) => {
      self.clearing = self.source;
      self.step = 'copy';
    },
    copy: (state, self) => {
      if (self.taken) state.copy |= state.memory;
      self.left--;
      self.step = 'begin';
    },
  };
  return state => {
    const self = state.report;
    const next: State[] = [];
    if (self.clearing >= 0) next.push(changed(state, drainReport));
    if (self.step !== 'begin') next.push(changed(state, copy => steps[self.step](copy, copy.report)));
    else if (self.left > 1 || (self.left === 1 && state.writers.every(isDone))) {
      for (const kind of kinds) {
        next.push(
          changed(state, copy => {
            copy.report.kind = kind;
            copy.report.taken = false;
            steps.begin(copy, copy.report);
          }),
        );
      }
    }
    return next;
  };
}

function isDone({ step }: WriterState): boolean {
  return step === 'done';
}

/** In how many ways a write can be lost: ends in which the reader lacks somebody's bytes. */
function waysToLose(change: Partial<Rules>, writers: number, reports: number): { lost: number; states: number } {
  const rules = { ...algorithm, ...change };
  const looks = rules.marks === 'looks' || rules.marks === 'looks behind a fence';
  const initial: State = {
    counter: 0,
    page: [false, false],
    summary: [false, false],
    memory: 0,
    copy: 0,
    writers: Array.from({ length: writers }, () => ({ step: 'bytes', waiting: [], before: 0, looks })),
    report: { step: 'begin', kind: 'group', left: reports, source: 0, taken: false, clearing: -1 },
  };
  const actors = [reporterOf(rules), ...initial.writers.map((_, number) => writerOf(number, rules))];
  const { ends, states } = everyEnd(initial, actors);
  const all = (1 << writers) - 1;
  for (const end of ends) expect([end.memory, end.report.left]).toEqual([all, 0]);
  return { lost: ends.filter(end => end.copy !== all).length, states };
}

describe.each<[string, Partial<Rules>]>([
  ['by generations', {}],
  ['by generations, in a list', { marks: 'looks behind a fence' }],
  ['by generations, amid a range', { marks: 'stores' }],
  ['by exchange', { keeping: 'exchange' }],
  ['by exchange, in a list', { keeping: 'exchange', marks: 'looks behind a fence' }],
  ['by exchange, amid a range', { keeping: 'exchange', marks: 'stores' }],
])('%s, in every order of steps, no write is lost', (_name, rules) => {
  test.each<[string, number, number, readonly Kind[]]>([
    ['two writers and three reports of the group', 2, 3, ['group']],
    ['two writers and two reports of any kind', 2, 2, everyKind],
    ['one writer and four reports of any kind', 1, 4, everyKind],
  ])('of %s', (_who, writers, reports, kinds) => {
    const { lost, states } = waysToLose({ ...rules, kinds }, writers, reports);
    expect(lost).toBe(0);
    expect(states).toBeGreaterThan(200);
  });
});

describe('a write can be lost', () => {
  const kinds: readonly Kind[] = ['group'];

  test('by generations, without the second look at the counter: one writer and two reports suffice', () => {
    expect(waysToLose({ looksAgain: false, kinds }, 1, 2).lost).toBeGreaterThan(0);
  });

  test.each(['exchange', 'generations'] as const)(
    'by %s, where a look without a fence replaces the locked OR',
    keeping => {
      expect(waysToLose({ keeping, marks: 'looks', kinds }, 2, 3).lost).toBeGreaterThan(0);
    },
  );

  test('by exchange, where the summary bit is set before the page bit', () => {
    expect(waysToLose({ keeping: 'exchange', first: 'summary', kinds }, 1, 2).lost).toBeGreaterThan(0);
  });

  test.each(['exchange', 'generations'] as const)(
    'by %s, where the report of a block takes the page bit before the summary bit',
    keeping => {
      expect(waysToLose({ keeping, takes: 'page', kinds: ['block', 'part of a block'] }, 2, 3).lost).toBeGreaterThan(0);
    },
  );
});
