import { CommandLineStimulus, type DmaStimulus, type OpenDevice, VdlogStimulus } from '../../conformance/index.js';
import type { DeviceHandle } from '../../device/index.js';
import { DMA_ENGINE_DEVICE_ID, DMA_ENGINE_VENDOR_ID, DmaEngineStimulus } from '../../devices/dma-engine/index.js';
import { type IovaRange, PciRegion, VfioError, viewOf } from '../../uapi/index.js';

/** The ways to make a device write that have a name. */
export const STIMULI = ['auto', 'none', 'engine', 'vdlog', 'command'] as const;

/** Name of a way to make a device write. */
export type StimulusName = (typeof STIMULI)[number];

/** What the command line says about DMA. */
export interface StimulusFlags {
  stimulus: StimulusName;
  /** For `command`. */
  command?: string | undefined;
  readCommand?: string | undefined;
  window?: readonly IovaRange[] | undefined;
  alignment?: number | undefined;
}

/**
 * The stimulus that was asked for. By `auto` it is the user's command if there is one, and else that of a device of this project.
 * @throws VfioError when the device cannot be opened to be looked at
 */
export async function chooseStimulus(
  target: string,
  flags: StimulusFlags,
  open: OpenDevice,
): Promise<DmaStimulus | undefined> {
  switch (flags.stimulus) {
    case 'none':
      return undefined;
    case 'engine':
      return new DmaEngineStimulus();
    case 'vdlog':
      return new VdlogStimulus();
    case 'command':
      return commandStimulus(flags);
    case 'auto':
      if (flags.command !== undefined) return commandStimulus(flags);
      if (/^vfio:(.*=)?vdlog/.test(target)) return new VdlogStimulus();
      return recognise(open);
  }
}

function commandStimulus({ command, readCommand, window, alignment }: StimulusFlags): DmaStimulus {
  const limits = alignment === undefined ? undefined : { alignment, maxLength: 2 ** 20 };
  return new CommandLineStimulus({ command: command!, readCommand, windows: window, limits });
}

/** By the PCI identity: nobody else's device is made to do DMA unasked. */
async function recognise(open: OpenDevice): Promise<DmaStimulus | undefined> {
  const device = await open();
  try {
    const identity = await pciIdentity(device);
    if (identity === `${DMA_ENGINE_VENDOR_ID}:${DMA_ENGINE_DEVICE_ID}`) return new DmaEngineStimulus();
    return undefined;
  } finally {
    await device.close();
  }
}

async function pciIdentity(device: DeviceHandle): Promise<string | undefined> {
  try {
    const view = viewOf(await device.regionRead(PciRegion.CONFIG, 0, 4));
    return `${view.getUint16(0, true)}:${view.getUint16(2, true)}`;
  } catch (error) {
    // No PCI device, or none that lets its identity be read.
    if (error instanceof VfioError) return undefined;
    throw error;
  }
}
