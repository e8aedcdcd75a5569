import type { IrqInfo } from '../device/index.js';
import { ioctl, NativeBlock } from '../native/index.js';
import { IrqSet } from '../uapi/index.js';
import type { GuardedFd } from './guarded-fd.js';
import { decodeIrqInfo, encodeIrqInfo, encodeIrqSet, type IrqSetting, VfioRequest } from './vfio-abi.js';

/** The interrupts of a device behind the kernel: each vector signals an eventfd. */
export class KernelIrqs {
  readonly #device: GuardedFd;

  constructor(device: GuardedFd) {
    this.#device = device;
  }

  /** What an IRQ type is. @throws VfioError EINVAL for one that does not exist */
  info(type: number): IrqInfo {
    const block = NativeBlock.from(encodeIrqInfo(type));
    ioctl(this.#device.now('GET_IRQ_INFO'), VfioRequest.DEVICE_GET_IRQ_INFO, block, 'GET_IRQ_INFO');
    return decodeIrqInfo(block.bytes);
  }

  /** Gives vectors `start`… their eventfds; `undefined` takes one away. */
  setTriggers(type: number, start: number, eventfds: readonly (number | undefined)[]): void {
    const flags = IrqSet.DATA_EVENTFD | IrqSet.ACTION_TRIGGER;
    this.#set(
      { flags, type, start, count: eventfds.length },
      eventfds.map(fd => fd ?? -1),
    );
  }

  /** Takes all triggers of a type away. */
  disable(type: number): void {
    this.act(IrqSet.ACTION_TRIGGER, type, 0, 0);
  }

  /** Masks, unmasks or triggers vectors. */
  act(action: number, type: number, start: number, count: number): void {
    this.#set({ flags: IrqSet.DATA_NONE | action, type, start, count });
  }

  #set(setting: IrqSetting, eventfds?: readonly number[]): void {
    const block = NativeBlock.from(encodeIrqSet(setting, eventfds));
    ioctl(this.#device.now('SET_IRQS'), VfioRequest.DEVICE_SET_IRQS, block, 'SET_IRQS');
  }
}
