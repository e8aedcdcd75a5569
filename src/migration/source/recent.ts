/** How many measurements count. */
const COUNT = 3;

/** The middle one of the latest three measurements: one that was disturbed does not count, and what has changed counts soon. */
export class Recent {
  readonly #values: number[] = [];

  add(value: number): void {
    this.#values.push(value);
    if (this.#values.length > COUNT) this.#values.shift();
  }

  /** The lower of the two in the middle when there are only two; 0 before the first. */
  get median(): number {
    const sorted = [...this.#values].sort((a, b) => a - b);
    return sorted[(sorted.length - 1) >> 1] ?? 0;
  }
}
