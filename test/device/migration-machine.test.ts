import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type MigratableModel, MigrationMachine } from '../../src/device/index.js';
import { MigrationState, VfioError } from '../../src/uapi/index.js';
import { type Failure, NaiveMachine } from './naive-machine.js';
import { flagSets } from './next-states.js';
import { gate } from './test-device.js';

const { STOP, RUNNING, STOP_COPY, RESUMING, PRE_COPY, PRE_COPY_P2P, ERROR } = MigrationState;
const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** A model whose data are strings, and whose hooks fail when they are told to. */
class TextModel implements MigratableModel {
  running = true;
  loads = 0;
  failure: Failure | undefined;

  run(): void {
    this.running = true;
  }

  async quiesce(): Promise<void> {
    await Promise.resolve();
    this.#failAt('quiesce');
    this.running = false;
  }

  savePrecopy(): Uint8Array {
    this.#failAt('savePrecopy');
    return encoder.encode('pre');
  }

  saveStopped(): Uint8Array {
    this.#failAt('saveStopped');
    return encoder.encode('stop');
  }

  stoppedSize(): number {
    return 4;
  }

  fail(): void {
    this.running = false;
  }

  load(state: Uint8Array): void {
    this.#failAt('load');
    if (decoder.decode(state) !== 'prestop') throw new VfioError('EINVAL', { operation: 'load' });
    this.loads++;
  }

  #failAt(hook: Failure['hook']): void {
    if (this.failure?.hook !== hook) return;
    const { known } = this.failure;
    this.failure = undefined;
    throw known ? new VfioError('EBUSY', { operation: hook }) : new TypeError('a bug');
  }
}

interface Real {
  machine: MigrationMachine;
  model: TextModel;
}
type Step = fc.AsyncCommand<NaiveMachine, Real>;

async function errnoOf(promise: Promise<unknown>): Promise<string | undefined> {
  return promise.then(
    () => undefined,
    (error: VfioError) => error.errno,
  );
}

/** A step that is always possible; afterwards machine and twin must agree in all that can be seen. */
function step(name: string, run: (naive: NaiveMachine, real: Real) => void | Promise<void>): Step {
  return {
    check: () => true,
    async run(naive, real) {
      await run(naive, real);
      expect(real.machine.state).toBe(naive.state);
      expect(real.model.loads).toBe(naive.loads);
      expect(real.model.running).toBe(naive.state !== ERROR && naive.running);
    },
    toString: () => name,
  };
}

const anyStep: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 10,
    arbitrary: fc.constantFrom(...Object.values(MigrationState)).map(target =>
      step(`setState(${target})`, async (naive, { machine }) => {
        expect(await errnoOf(machine.setState(target))).toBe(naive.setState(target));
      }),
    ),
  },
  {
    weight: 4,
    arbitrary: fc.nat(9).map(limit =>
      step(`read(${limit})`, (naive, { machine }) => {
        const text = naive.read(limit);
        if (text === undefined) {
          expect(() => machine.readData(limit)).toThrow('EINVAL');
          return;
        }
        let seen = '';
        // A piece may be shorter than asked for; together they are what there is.
        while (seen.length < limit) {
          const piece = decoder.decode(machine.readData(limit - seen.length));
          if (piece === '') break;
          seen += piece;
        }
        expect(seen).toBe(text);
      }),
    ),
  },
  {
    weight: 6,
    arbitrary: fc.constantFrom('prestop', 'prestop', 'pre', 'stop', 'p', '').map(text =>
      step(`write(${text})`, (naive, { machine }) => {
        if (naive.write(text)) machine.writeData(encoder.encode(text));
        else expect(() => machine.writeData(encoder.encode(text))).toThrow('EINVAL');
      }),
    ),
  },
  {
    weight: 1,
    arbitrary: fc.constant(
      step('reset', (naive, { machine, model }) => {
        machine.reset();
        model.run();
        naive.reset();
      }),
    ),
  },
  {
    weight: 2,
    arbitrary: fc
      .record({
        hook: fc.constantFrom<Failure['hook']>('quiesce', 'savePrecopy', 'saveStopped', 'load'),
        known: fc.boolean(),
      })
      .map(failure =>
        step(`fail ${failure.hook}`, (naive, { model }) => {
          naive.failure = failure;
          model.failure = failure;
        }),
      ),
  },
);

describe('the migration machine against a naive twin', () => {
  for (const flags of flagSets) {
    test(`any steps, failing hooks among them, with flags ${flags}`, async () => {
      await fc.assert(
        fc.asyncProperty(fc.commands([anyStep], { maxCommands: 60 }), async steps => {
          const setup = () => {
            const model = new TextModel();
            return { model: new NaiveMachine(flags), real: { model, machine: new MigrationMachine(model, flags) } };
          };
          await fc.asyncModelRun(setup, steps);
        }),
        { numRuns: 700 },
      );
    });
  }
});

describe('the migration machine', () => {
  function create(flags = 7): Real {
    const model = new TextModel();
    return { model, machine: new MigrationMachine(model, flags) };
  }

  test('a second change while one is under way is EBUSY, and the first is not disturbed', async () => {
    const { machine, model } = create();
    const stopped = gate();
    model.quiesce = () => stopped.promise;
    const first = machine.setState(STOP);
    expect(await errnoOf(machine.setState(PRE_COPY))).toBe('EBUSY');
    stopped.open();
    await first;
    expect(machine.state).toBe(STOP);
  });

  test('a reset in the middle of a change cancels it: RUNNING, no data kept, and the next change goes well', async () => {
    for (const flags of [1, 5, 7]) {
      const { machine, model } = create(flags);
      const stopped = gate();
      const quiesce = model.quiesce.bind(model);
      model.quiesce = () => stopped.promise;
      const change = machine.setState(STOP_COPY);
      machine.reset();
      stopped.open();
      expect(await errnoOf(change)).toBe('ECANCELED');
      expect(machine.state).toBe(RUNNING);
      model.quiesce = quiesce;
      await machine.setState(STOP_COPY);
      expect(decoder.decode(machine.readData(100)) + decoder.decode(machine.readData(100))).toBe('prestop');
      expect(machine.readData(100).length).toBe(0);
    }
  });

  test('a reset in the middle of PRE_COPY to STOP_COPY without P2P leaves nothing in the stream', async () => {
    const { machine, model } = create(5);
    await machine.setState(PRE_COPY);
    const stopped = gate();
    model.quiesce = () => stopped.promise;
    const change = machine.setState(STOP_COPY);
    machine.reset();
    stopped.open();
    expect(await errnoOf(change)).toBe('ECANCELED');
    await machine.setState(PRE_COPY);
    expect(decoder.decode(machine.readData(100))).toBe('pre');
    expect(machine.readData(100).length).toBe(0);
  });

  test('a failure that comes after a reset does not lead to ERROR', async () => {
    const { machine, model } = create();
    const stopped = gate();
    model.quiesce = () =>
      stopped.promise.then(() => {
        throw new TypeError('a bug');
      });
    const change = machine.setState(STOP);
    machine.reset();
    stopped.open();
    await expect(change).rejects.toThrow();
    expect(machine.state).toBe(RUNNING);
  });

  test('out of ERROR leads only a reset', async () => {
    const { machine, model } = create();
    model.failure = { hook: 'quiesce', known: false };
    expect(await errnoOf(machine.setState(STOP))).toBe('EIO');
    for (const state of Object.values(MigrationState)) expect(await errnoOf(machine.setState(state))).toBe('EINVAL');
    expect(machine.state).toBe(ERROR);
    machine.reset();
    expect(machine.state).toBe(RUNNING);
  });

  test('more data than the limit is ENOSPC, and what was there before is kept', async () => {
    const model = new TextModel();
    const machine = new MigrationMachine(model, 7, { maxStateBytes: 7 });
    await machine.setState(RESUMING);
    machine.writeData(encoder.encode('pres'));
    expect(() => machine.writeData(encoder.encode('topp'))).toThrow('ENOSPC');
    machine.writeData(encoder.encode('top'));
    await machine.setState(STOP);
    expect(model.loads).toBe(1);
  });

  test('data that is written is copied: the caller may use its buffer again', async () => {
    const { machine, model } = create();
    await machine.setState(RESUMING);
    const buffer = encoder.encode('prestop');
    machine.writeData(buffer);
    buffer.fill(0);
    await machine.setState(STOP);
    expect(model.loads).toBe(1);
  });

  test('the data size is what is still to be moved', async () => {
    const { machine } = create();
    expect(machine.dataSize()).toBe(7n);
    await machine.setState(PRE_COPY);
    expect(machine.dataSize()).toBe(7n);
    machine.readData(2);
    expect(machine.dataSize()).toBe(5n);
    expect(machine.precopyInfo()).toEqual({ initialBytes: 1n, dirtyBytes: 0n });
    await machine.setState(STOP_COPY);
    expect(machine.dataSize()).toBe(5n);
    machine.readData(100);
    machine.readData(100);
    expect(machine.dataSize()).toBe(0n);
  });

  test('precopy info is for the PRE_COPY states alone', async () => {
    const { machine } = create();
    expect(() => machine.precopyInfo()).toThrow('EINVAL');
    for (const state of [PRE_COPY, PRE_COPY_P2P]) {
      await machine.setState(state);
      expect(machine.precopyInfo().initialBytes).toBe(3n);
    }
    await machine.setState(STOP_COPY);
    expect(() => machine.precopyInfo()).toThrow('EINVAL');
  });
});
