/** A device does something else than a check demands. The message is what was seen. */
export class Deviation extends Error {
  override readonly name: string = 'Deviation';
}

/** The device is not there any more, or does not answer any more. */
export class GoneError extends Deviation {
  override readonly name = 'GoneError';
}

/** DMA could not be made: nobody can tell what the device would have done. */
export class StimulusError extends Error {
  override readonly name = 'StimulusError';
}
