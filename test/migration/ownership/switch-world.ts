import {
  type CompareAndSetResult,
  claimOwnership,
  firstRecord,
  isSameRecord,
  type Ownership,
  type OwnershipRecord,
  type OwnershipStore,
  offerMachine,
  takeMachine,
} from '../../../src/migration/index.js';
import { VfioError } from '../../../src/uapi/index.js';
import type { Step, World } from './explorer.js';

type Host = 'A' | 'B';
type Word = 'offer' | 'taken' | 'refused' | 'settle' | { record: OwnershipRecord };

/** A request to the store that was not answered yet. */
interface Request {
  by: Process;
  expected: OwnershipRecord | undefined;
  next: OwnershipRecord;
  answer(result: CompareAndSetResult): void;
}

/** A side, from its start to its death: what it was told decides what it does, so that is what a state remembers of it. */
class Process {
  heard: string[] = [];
  inbox: { word: Word }[] = [];
  receiver: { resolve: (word: Word) => void; reject: (error: VfioError) => void } | undefined;
  resting: (() => void) | undefined;
  reading: ((record: OwnershipRecord | undefined) => void) | undefined;
  isDead = false;
  /** Has come to its result, whatever it was. */
  isDone = false;
  runs = false;

  constructor(
    readonly name: string,
    readonly host: Host,
  ) {}

  /** One vain question more changes nothing: without this, whoever asks for ever would have no end of states. */
  hear(what: string): void {
    const isVain = what === 'unknown' || what === 'not-set';
    if (isVain && this.heard.at(-1) === 'has rested') this.heard.pop();
    // Only a destination's first request makes a difference between the two.
    else this.heard.push(isVain && this.name !== 'destination' ? 'vain' : what);
  }

  /** What decides its future. */
  get memory(): unknown {
    if (this.isDead) return [this.name, 'dead'];
    return [this.name, this.runs, this.isDone ? 'over' : [this.heard, this.inbox]];
  }
}

/**
 * The switch: the project's own code at both ends, with a store and a link whose every message is a step. Begins when the destination has
 * everything and the source is about to offer the machine.
 *
 * Faults: a side is killed; the link is cut; a side's way to the store is cut, or the store is down for a while; one request is lost, late,
 * doubled or refused; one answer is lost.
 */
export class SwitchWorld implements World {
  readonly #source = new Process('source', 'A');
  readonly #destination = new Process('destination', 'B');
  readonly #processes = [this.#source, this.#destination];
  readonly #first = firstRecord('vm', 'A');
  readonly #writers = new Map<string, string>([[this.#first.change, 'start']]);
  #record: OwnershipRecord = this.#first;
  #requests: Request[] = [];
  /** Requests that nobody waits for, and that may still arrive. */
  #strays: Pick<Request, 'expected' | 'next'>[] = [];
  #linkIsCut = false;
  #cutFromStore = new Set<Process>();
  #storeIsDown = false;
  #violation: string | undefined;

  start(): void {
    void this.#runSource();
    void this.#runDestination();
  }

  async #runSource(): Promise<void> {
    const side = this.#source;
    const result = await offerMachine({
      ownership: this.#ownership(side),
      held: this.#first,
      to: 'B',
      link: {
        offer: async () => this.#send(side, 'offer'),
        next: async () => {
          const word = await this.#receive(side);
          return word === 'refused' ? { word, error: failure('refused') } : { word: word as 'taken' | 'settle' };
        },
        confirm: async record => this.#send(side, { record }),
      },
      pause: () => this.#rest(side),
    });
    if (result.owner === 'source') this.#run(side);
    if (result.owner === 'source') this.#send(side, 'refused');
    side.isDone = true;
  }

  async #runDestination(): Promise<void> {
    const side = this.#destination;
    const offer = await this.#receive(side).catch(() => undefined);
    if (offer !== 'offer') {
      side.isDone = true;
      return;
    }
    const result = await takeMachine({
      ownership: this.#ownership(side),
      offered: this.#first,
      link: {
        askToSettle: async () => {
          this.#send(side, 'settle');
          const answer = await this.#receive(side);
          return typeof answer === 'object' ? answer : { refused: failure('refused') };
        },
      },
      pause: () => this.#rest(side),
    });
    if (result.outcome === 'taken') this.#run(side);
    this.#send(side, result.outcome === 'taken' ? 'taken' : 'refused');
    side.isDone = true;
  }

  /** What a host's supervisor does with a machine whose process has died. */
  async #restart(host: Host): Promise<void> {
    const side = new Process(`restarted at ${host}`, host);
    this.#processes.push(side);
    await claimOwnership(this.#ownership(side)).then(
      () => this.#run(side),
      () => {},
    );
    side.isDone = true;
  }

  #run(side: Process): void {
    side.runs = true;
    if (this.#record.owner !== side.host) this.#violation = `${side.name} runs what belongs to ${this.#record.owner}`;
  }

  #ownership(side: Process): Ownership {
    const store: OwnershipStore = {
      name: 'simulated store',
      read: () =>
        new Promise(resolve => {
          side.reading = resolve;
        }),
      compareAndSet: (expected, next) => {
        if (!this.#writers.has(next.change)) this.#writers.set(next.change, side.name);
        return new Promise(answer => this.#requests.push({ by: side, expected, next, answer }));
      },
    };
    return { store, machine: 'vm', self: side.host };
  }

  #rest(side: Process): Promise<void> {
    return new Promise(resolve => {
      side.resting = resolve;
    });
  }

  #other(side: Process): Process {
    return side === this.#source ? this.#destination : this.#source;
  }

  #send(from: Process, word: Word): void {
    if (!this.#linkIsCut) this.#other(from).inbox.push({ word });
  }

  #receive(side: Process): Promise<Word> {
    return new Promise((resolve, reject) => {
      side.receiver = { resolve, reject };
    });
  }

  steps(): Step[] {
    const busy = this.#processes.filter(side => !side.isDead && !side.isDone);
    return [
      ...busy.flatMap(side => this.#stepsOf(side)),
      ...this.#requests.filter(({ by }) => !by.isDead).flatMap(request => this.#stepsOfRequest(request)),
      ...this.#strays.map(stray => ({
        name: `a stray request of ${this.#writers.get(stray.next.change)} arrives`,
        faults: 0 as const,
        optional: true,
        happen: () => {
          this.#apply(stray);
        },
      })),
      ...this.#faults(),
    ];
  }

  #stepsOf(side: Process): Step[] {
    const { inbox, receiver, resting, reading, name } = side;
    const steps: Step[] = [];
    const add = (what: string, happen: () => void) =>
      steps.push({
        name: `${name} ${what}`,
        faults: 0,
        happen: () => {
          side.hear(what);
          happen();
        },
      });
    if (receiver !== undefined && inbox.length > 0) {
      add(`hears ${typeof inbox[0]!.word === 'string' ? inbox[0]!.word : 'confirm'}`, () => {
        side.receiver = undefined;
        receiver.resolve(inbox.shift()!.word);
      });
    }
    if (receiver !== undefined && inbox.length === 0 && this.#linkIsCut) {
      add('notices the cut', () => {
        side.receiver = undefined;
        receiver.reject(failure('cut'));
      });
    }
    if (resting !== undefined) {
      add('has rested', () => {
        side.resting = undefined;
        resting();
      });
      // Without a way to the store it rests again and again.
      steps.at(-1)!.optional = !this.#reaches(side);
    }
    if (reading !== undefined && this.#reaches(side)) {
      add(`reads ${this.#nameOf(this.#record)}`, () => {
        side.reading = undefined;
        reading(this.#record);
      });
    }
    return steps;
  }

  #reaches(side: Process): boolean {
    return !this.#storeIsDown && !this.#cutFromStore.has(side);
  }

  #stepsOfRequest(request: Request): Step[] {
    const reaches = this.#reaches(request.by);
    const unknown = { outcome: 'unknown', error: failure('no answer') } as const;
    const step = (what: string, isFault: boolean, happen: () => CompareAndSetResult): Step => ({
      name: `${request.by.name}'s request ${what}`,
      faults: isFault ? 1 : 0,
      happen: () => {
        this.#requests.splice(this.#requests.indexOf(request), 1);
        const result = happen();
        request.by.hear(result.outcome === 'conflict' ? `conflict ${this.#nameOf(result.current)}` : result.outcome);
        request.answer(result);
      },
    });
    const lost = [
      step('is done, its answer lost', reaches, () => {
        this.#apply(request);
        return unknown;
      }),
      step('is lost', reaches, () => unknown),
      step('is late', reaches, () => {
        this.#stray(request);
        return unknown;
      }),
      step('is refused', reaches, () => ({ outcome: 'not-set', error: failure('refused') })),
    ];
    if (!reaches) return lost;
    const doubled = step('is done twice', true, () => {
      this.#stray(request);
      return this.#apply(request);
    });
    return [step('is answered', false, () => this.#apply(request)), ...lost, doubled];
  }

  /** Of two that are the same, the second to arrive does nothing. */
  #stray({ expected, next }: Request): void {
    const isIdle = !isSameRecord(expected, this.#record) || this.#strays.some(stray => stray.next === next);
    if (!isIdle) this.#strays.push({ expected, next });
  }

  #apply({ expected, next }: Pick<Request, 'expected' | 'next'>): CompareAndSetResult {
    if (!isSameRecord(this.#record, expected)) return { outcome: 'conflict', current: this.#record };
    this.#record = next;
    // No record comes twice: what expects another one than this does nothing any more.
    this.#strays = this.#strays.filter(stray => isSameRecord(stray.expected, next));
    return { outcome: 'set' };
  }

  #faults(): Step[] {
    const steps: Step[] = [];
    const fault = (name: string, happen: () => void) => steps.push({ name, faults: 1, happen });
    for (const side of [this.#source, this.#destination]) {
      if (!side.isDead) fault(`${side.name} is killed`, () => this.#kill(side));
      if (!side.isDead && !side.isDone && !this.#cutFromStore.has(side))
        fault(`${side.name} is cut from the store`, () => this.#cutFromStore.add(side));
      const isRestarted = this.#processes.some(other => other !== side && other.host === side.host);
      if (side.isDead && !isRestarted) {
        const happen = () => void this.#restart(side.host);
        steps.push({ name: `${side.host} starts its machine again`, faults: 0, optional: true, happen });
      }
    }
    if (!this.#linkIsCut) fault('the link is cut', () => this.#cutLink());
    if (this.#storeIsDown) {
      const happen = () => {
        this.#storeIsDown = false;
      };
      steps.push({ name: 'the store is up', faults: 0, happen });
    } else {
      fault('the store is down', () => {
        this.#storeIsDown = true;
      });
    }
    return steps;
  }

  #kill(side: Process): void {
    side.isDead = true;
    side.runs = false;
    side.inbox = [];
    for (const request of this.#requests) if (request.by === side) this.#stray(request);
    this.#requests = this.#requests.filter(({ by }) => by !== side);
    // What it had sent may still be read; what is sent to it is lost.
    this.#linkIsCut = true;
  }

  /** What is under way arrives or is lost: that it arrives before the cut is another order of the same steps. */
  #cutLink(): void {
    this.#linkIsCut = true;
    for (const side of [this.#source, this.#destination]) side.inbox = [];
  }

  #nameOf(record: OwnershipRecord | undefined): string {
    return record === undefined ? 'none' : `${record.owner}${record.epoch} by ${this.#writers.get(record.change)}`;
  }

  key(): string {
    const name = (request: Pick<Request, 'expected' | 'next'>) =>
      `${this.#nameOf(request.expected)} to ${this.#nameOf(request.next)}`;
    return JSON.stringify([
      this.#nameOf(this.#record),
      this.#requests.map(request => `${request.by.name}: ${name(request)}`).sort(),
      this.#strays.map(name).sort(),
      [
        this.#linkIsCut,
        this.#storeIsDown,
        this.#cutFromStore.has(this.#source),
        this.#cutFromStore.has(this.#destination),
      ],
      this.#processes.map(side => side.memory),
    ]).replaceAll(/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/g, change => this.#writers.get(change)!);
  }

  get #runners(): Process[] {
    return this.#processes.filter(side => side.runs);
  }

  checkAlways(): void {
    if (this.#violation !== undefined) throw new Error(this.#violation);
    if (this.#runners.length > 1) throw new Error(`${this.#runners.map(({ name }) => name).join(' and ')} run`);
  }

  checkAtRest(faults: number): void {
    if (faults > 1) return;
    const owner = this.#record.owner === 'A' ? this.#source : this.#destination;
    // The owner's own death is the machine's crash: nobody else may run it then, and checkAlways has seen that nobody does.
    if (!owner.isDead && !owner.runs) throw new Error(`nobody runs the machine of ${this.#nameOf(this.#record)}`);
  }
}

function failure(message: string): VfioError {
  return new VfioError('EIO', { operation: 'test', message });
}
