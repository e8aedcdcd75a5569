import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Interrupts, type IrqTrigger } from '../../src/device/index.js';
import { IrqFlag, PciIrq } from '../../src/uapi/index.js';

class Counter implements IrqTrigger {
  signals = 0;
  closes = 0;

  signal(): void {
    this.signals++;
  }

  close(): void {
    this.closes++;
  }
}

const { INTX, MSI, MSIX } = PciIrq;

describe('INTx', () => {
  test('is automasked: one signal, until it is unmasked while still asserted', () => {
    const interrupts = new Interrupts({ [INTX]: 1 });
    const trigger = new Counter();
    interrupts.setTriggers(INTX, 0, [trigger]);
    interrupts.setIntxLevel(true);
    interrupts.setIntxLevel(true);
    expect(trigger.signals).toBe(1);
    interrupts.unmask(INTX, 0, 1);
    expect(trigger.signals).toBe(2);
    interrupts.setIntxLevel(false);
    interrupts.unmask(INTX, 0, 1);
    expect(trigger.signals).toBe(2);
  });

  test('asserted before there is a trigger, it signals when one comes', () => {
    const interrupts = new Interrupts({ [INTX]: 1 });
    interrupts.setIntxLevel(true);
    const trigger = new Counter();
    interrupts.setTriggers(INTX, 0, [trigger]);
    expect(trigger.signals).toBe(1);
    interrupts.disconnect();
    expect(interrupts.intxLevel).toBe(true);
    const next = new Counter();
    interrupts.setTriggers(INTX, 0, [next]);
    expect(next.signals).toBe(1);
  });

  test('any steps against a naive twin', () => {
    const anyStep = fc.constantFrom('assert', 'deassert', 'mask', 'unmask', 'trigger', 'take');
    fc.assert(
      fc.property(fc.array(anyStep, { maxLength: 40 }), steps => {
        const interrupts = new Interrupts({ [INTX]: 1 });
        const trigger = new Counter();
        let [level, masked, connected, signals] = [false, false, false, 0];
        for (const step of steps) {
          if (step === 'assert' || step === 'deassert') interrupts.setIntxLevel(step === 'assert');
          if (step === 'mask') interrupts.mask(INTX, 0, 1);
          if (step === 'unmask') interrupts.unmask(INTX, 0, 1);
          if (step === 'trigger') interrupts.setTriggers(INTX, 0, [trigger]);
          if (step === 'take') interrupts.disable(INTX);
          if (step === 'assert') level = true;
          if (step === 'deassert') level = false;
          if (step === 'mask') masked = true;
          if (step === 'unmask' || step === 'trigger' || step === 'take') masked = false;
          if (step === 'trigger') connected = true;
          if (step === 'take') connected = false;
          if (level && !masked && connected) {
            signals++;
            masked = true;
          }
          expect([interrupts.intxLevel, trigger.signals]).toEqual([level, signals]);
        }
      }),
      { numRuns: 2000 },
    );
  });
});

describe('message interrupts', () => {
  test('each raise signals the vector that was raised, and a vector without a trigger nothing', () => {
    const interrupts = new Interrupts({ [MSIX]: 3 });
    const triggers = [new Counter(), new Counter()];
    interrupts.setTriggers(MSIX, 1, triggers);
    for (const vector of [0, 1, 2, 2, 3, -1]) interrupts.raise(MSIX, vector);
    expect(triggers.map(trigger => trigger.signals)).toEqual([1, 2]);
  });

  test('a type is enabled while any vector has a trigger', () => {
    const interrupts = new Interrupts({ [MSIX]: 2 });
    expect(interrupts.isEnabled(MSIX)).toBe(false);
    interrupts.setTriggers(MSIX, 1, [new Counter()]);
    expect(interrupts.isEnabled(MSIX)).toBe(true);
    interrupts.setTriggers(MSIX, 1, [undefined]);
    expect(interrupts.isEnabled(MSIX)).toBe(false);
    expect(interrupts.isEnabled(99)).toBe(false);
  });

  test('every trigger that is replaced or taken away is closed once', () => {
    const interrupts = new Interrupts({ [INTX]: 1, [MSIX]: 2 });
    const triggers = Array.from({ length: 4 }, () => new Counter());
    interrupts.setTriggers(MSIX, 0, [triggers[0], triggers[1]]);
    interrupts.setTriggers(MSIX, 1, [triggers[2]]);
    interrupts.setTriggers(INTX, 0, [triggers[3]]);
    expect(triggers.map(trigger => trigger.closes)).toEqual([0, 1, 0, 0]);
    interrupts.disconnect();
    interrupts.disconnect();
    expect(triggers.map(trigger => trigger.closes)).toEqual([1, 1, 1, 1]);
  });

  test('a vector can be triggered by hand, and only INTx can be masked', () => {
    const interrupts = new Interrupts({ [INTX]: 1, [MSIX]: 2 });
    const trigger = new Counter();
    interrupts.setTriggers(MSIX, 0, [trigger, undefined]);
    interrupts.trigger(MSIX, 0, 2);
    expect(trigger.signals).toBe(1);
    expect(() => interrupts.mask(MSIX, 0, 1)).toThrow('EINVAL');
    expect(() => interrupts.unmask(MSIX, 0, 1)).toThrow('EINVAL');
  });
});

describe('checks', () => {
  test('vectors beyond the last, and types that do not exist, are EINVAL, and no trigger is taken', () => {
    const interrupts = new Interrupts({ [INTX]: 1, [MSIX]: 2 });
    for (const [type, start, count] of [
      [INTX, 0, 2],
      [INTX, 1, 1],
      [MSI, 0, 1],
      [MSIX, 2, 1],
      [MSIX, 0xffff_ffff, 0xffff_ffff],
      [5, 0, 0],
      [-1, 0, 0],
    ] as const) {
      expect(() => interrupts.check(type, start, count)).toThrow('EINVAL');
    }
    const triggers = [new Counter(), new Counter()];
    expect(() => interrupts.setTriggers(MSIX, 1, triggers)).toThrow('EINVAL');
    expect(triggers.map(trigger => trigger.closes)).toEqual([0, 0]);
    expect(interrupts.isEnabled(MSIX)).toBe(false);
  });

  test('GET_IRQ_INFO says how many, and what can be done with them', () => {
    const interrupts = new Interrupts({ [INTX]: 1, [MSIX]: 7 });
    expect(interrupts.info(INTX)).toEqual({
      count: 1,
      flags: IrqFlag.EVENTFD | IrqFlag.MASKABLE | IrqFlag.AUTOMASKED,
    });
    expect(interrupts.info(MSIX)).toEqual({ count: 7, flags: IrqFlag.EVENTFD | IrqFlag.NORESIZE });
    expect(interrupts.info(MSI).count).toBe(0);
    expect(() => interrupts.info(5)).toThrow('EINVAL');
  });
});
