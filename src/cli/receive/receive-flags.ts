import type { Address } from '../arguments.js';
import type { MachineFlags } from '../machine/machine-options.js';

/** What `dmalog receive` is told. */
export interface ReceiveFlags extends MachineFlags {
  listen: Address;
  exit?: boolean;
}
