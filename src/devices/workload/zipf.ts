import type { Random } from './random.js';

/*
 * Zipf's distribution by rejection-inversion (Hörmann and Derflinger, "Rejection-inversion to generate variates from monotone discrete
 * distributions", 1996): rank k of 1..n comes with a probability proportional to h(k) = k^-s. No table, so a set of 2^26 pages costs nothing.
 *
 * H is an integral of h. A number u, uniform between H(1.5) - 1 and H(n + 0.5), is turned into x = H^-1(u), which is rounded to k. The hat that
 * this samples from is a little too high; a k is accepted at once when it is close above x, else by comparing u with H(k + 0.5) - h(k).
 *
 * Example, s = 1 and n = 3 (so H = ln): u lies between ln 1.5 - 1 = -0.595 and ln 3.5 = 1.253. u = 0.5 gives x = 1.649, so k = 2. The margin
 * is 2 - exp(ln 2.5 - 1/2) = 0.484, and k - x = 0.351 is within: 2 is the answer. In the long run 1, 2, 3 come as 6 : 3 : 2.
 */

/** Draws ranks from Zipf's distribution. */
export class Zipf {
  readonly #count: number;
  readonly #exponent: number;
  readonly #first: number;
  readonly #last: number;
  readonly #margin: number;

  /** @param count ranks 1 to `count` @param exponent 0 (all alike) or more */
  constructor(count: number, exponent: number) {
    this.#count = count;
    this.#exponent = exponent;
    this.#first = this.#integral(1.5) - 1;
    this.#last = this.#integral(count + 0.5);
    this.#margin = 2 - this.#inverse(this.#integral(2.5) - this.#weight(2));
  }

  /** The next rank, 1 to `count`. Takes a pair of numbers, seldom several. */
  next(random: Random): number {
    for (;;) {
      const u = this.#last + random.fraction() * (this.#first - this.#last);
      const x = this.#inverse(u);
      const rank = Math.min(Math.max(Math.floor(x + 0.5), 1), this.#count);
      if (rank - x <= this.#margin || u >= this.#integral(rank + 0.5) - this.#weight(rank)) return rank;
    }
  }

  #weight(x: number): number {
    return Math.exp(-this.#exponent * Math.log(x));
  }

  /** (x^(1-s) - 1) / (1 - s), and ln x at s = 1. */
  #integral(x: number): number {
    const log = Math.log(x);
    return log * exponentialRatio((1 - this.#exponent) * log);
  }

  #inverse(y: number): number {
    // Rounding may bring the product just below -1, where the logarithm ends.
    return Math.exp(y * logarithmRatio(Math.max(y * (1 - this.#exponent), -1)));
  }
}

/** (e^t - 1) / t, which is 1 at 0: near 0 by its series, since the quotient loses its digits there. */
function exponentialRatio(t: number): number {
  return Math.abs(t) > 1e-8 ? Math.expm1(t) / t : 1 + t / 2;
}

/** ln(1 + t) / t, which is 1 at 0. */
function logarithmRatio(t: number): number {
  return Math.abs(t) > 1e-8 ? Math.log1p(t) / t : 1 - t / 2;
}
