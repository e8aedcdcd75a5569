/**
 * A result that is there at once or later. Memory that is mapped answers at once, and a promise for each DMA would cost more
 * than the DMA; memory that is reached by messages has no choice.
 */
export type MaybePromise<T> = T | Promise<T>;
