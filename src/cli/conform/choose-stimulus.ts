import { CommandLineStimulus, type DmaStimulus, VdlogStimulus } from '../../conformance/index.js';
import type { DeviceHandle } from '../../device/index.js';
import { DMA_ENGINE_DEVICE_ID, DMA_ENGINE_VENDOR_ID, DmaEngineStimulus } from '../../devices/dma-engine/index.js';
import { NVME_DEVICE_ID, NVME_VENDOR_ID, NvmeStimulus } from '../../devices/nvme/index.js';
import { type IovaRange, PciRegion, VfioError, viewOf } from '../../uapi/index.js';

/** The ways to make a device write that have a name. */
export const STIMULI = ['auto', 'none', 'engine', 'nvme', 'vdlog', 'command'] as const;

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

/** What of it makes no sense together, in a line; `undefined`: nothing. */
export function wrongStimulus({
  stimulus,
  command,
  readCommand,
  window,
  alignment,
}: StimulusFlags): string | undefined {
  const isCommand = stimulus === 'command' || stimulus === 'auto';
  if (command !== undefined && !isCommand) return `'--command' makes the device write, not '--stimulus ${stimulus}'`;
  if (command !== undefined) return undefined;
  if (stimulus === 'command') return "'--stimulus command' needs '--command <line>'";
  const given = Object.entries({ '--read-command': readCommand, '--window': window, '--alignment': alignment });
  const lost = given.find(([, value]) => value !== undefined);
  return lost && `'${lost[0]}' needs '--command <line>'`;
}

/** The stimulus that was asked for. By `auto` it is the user's command if there is one, and else that of a device of this project. */
export async function chooseStimulus(
  target: string,
  flags: StimulusFlags,
  device: DeviceHandle,
): Promise<DmaStimulus | undefined> {
  switch (flags.stimulus) {
    case 'none':
      return undefined;
    case 'engine':
      return new DmaEngineStimulus();
    case 'nvme':
      return new NvmeStimulus();
    case 'vdlog':
      return new VdlogStimulus();
    case 'command':
      return commandStimulus(flags);
    case 'auto':
      if (flags.command !== undefined) return commandStimulus(flags);
      if (/^vfio:(.*=)?vdlog/.test(target)) return new VdlogStimulus();
      return recognise(device);
  }
}

function commandStimulus({ command, readCommand, window, alignment }: StimulusFlags): DmaStimulus {
  const limits = alignment === undefined ? undefined : { alignment, maxLength: 2 ** 20 };
  return new CommandLineStimulus({ command: command!, readCommand, windows: window, limits });
}

/** By the PCI identity: nobody else's device is made to do DMA unasked. */
async function recognise(device: DeviceHandle): Promise<DmaStimulus | undefined> {
  const identity = await pciIdentity(device);
  if (identity === `${DMA_ENGINE_VENDOR_ID}:${DMA_ENGINE_DEVICE_ID}`) return new DmaEngineStimulus();
  if (identity === `${NVME_VENDOR_ID}:${NVME_DEVICE_ID}`) return new NvmeStimulus();
  return undefined;
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
