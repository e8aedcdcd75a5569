import type { IovaRange } from '../../../src/uapi/index.js';
import { VfioError } from '../../../src/uapi/index.js';
import { PlainLog } from './plain-log.js';

/* Logs that know what was written, and tell it wrongly (contract "The bitmap", rules 3 and 5). */

/** The published formula: `bitmap[(addr - iova)/page_size] & (1ULL << (addr % 64))`. */
export class FollowsErratum extends PlainLog {
  protected override tell(part: IovaRange, asked: IovaRange, pageSize: bigint, bitmap: Uint32Array): void {
    for (let address = part.iova; address < part.iova + part.length; address += pageSize) {
      const word = (address - asked.iova) / pageSize;
      this.setBit(bitmap, word * 64n + (address % 64n));
    }
  }

  protected override setBit(bitmap: Uint32Array, bit: bigint): void {
    if (bit < BigInt(bitmap.length) * 32n) super.setBit(bitmap, bit);
  }
}

/** The most significant bit of each word first. */
export class CountsBitsFromTheTop extends PlainLog {
  protected override setBit(bitmap: Uint32Array, bit: bigint): void {
    super.setBit(bitmap, bit - (bit % 64n) + (63n - (bit % 64n)));
  }
}

/** Words in the order of a big-endian machine: of each 64 bits, the upper 32 first. */
export class SwapsHalvesOfWords extends PlainLog {
  protected override setBit(bitmap: Uint32Array, bit: bigint): void {
    super.setBit(bitmap, bit ^ 32n);
  }
}

/** Bits counted from address 0 on, not from the interval's start, within a word. */
export class AlignsBitsToAddresses extends PlainLog {
  protected override tell(part: IovaRange, asked: IovaRange, pageSize: bigint, bitmap: Uint32Array): void {
    const word = 64n * pageSize;
    super.tell(part, { ...asked, iova: asked.iova - (asked.iova % word) }, pageSize, bitmap);
  }

  protected override setBit(bitmap: Uint32Array, bit: bigint): void {
    if (bit < BigInt(bitmap.length) * 32n) super.setBit(bitmap, bit);
  }
}

/** An interval that begins inside a page is taken as beginning at the page's start. */
export class RoundsIntervalDown extends PlainLog {
  protected override tell(part: IovaRange, asked: IovaRange, pageSize: bigint, bitmap: Uint32Array): void {
    super.tell(part, { ...asked, iova: asked.iova - (asked.iova % pageSize) }, pageSize, bitmap);
  }

  protected override setBit(bitmap: Uint32Array, bit: bigint): void {
    if (bit < BigInt(bitmap.length) * 32n) super.setBit(bitmap, bit);
  }
}

/** The bitmap is written anew where the bits should be ORed in: what others have put there is lost. */
export class OverwritesBitmap extends PlainLog {
  override report(iova: bigint, length: bigint, pageSize: bigint, bitmap: Uint32Array): void {
    bitmap.fill(0);
    super.report(iova, length, pageSize, bitmap);
  }
}

/** The bits behind the interval's last page are ones. */
export class FillsLastWord extends PlainLog {
  override report(iova: bigint, length: bigint, pageSize: bigint, bitmap: Uint32Array): void {
    super.report(iova, length, pageSize, bitmap);
    for (let bit = (length + pageSize - 1n) / pageSize; bit % 64n !== 0n; bit++) this.setBit(bitmap, bit);
  }
}

/** Pages of which nothing is known count as dirty: the holes between ranges. */
export class FillsHoles extends PlainLog {
  override report(iova: bigint, length: bigint, pageSize: bigint, bitmap: Uint32Array): void {
    super.report(iova, length, pageSize, bitmap);
    // To the end of the first 4096 pages: whole holes of 64 GiB would take their time.
    for (let bit = 0n; bit * pageSize < length && bit < 4096n; bit++) {
      if (!this.isLogged((iova + bit * pageSize) / this.pageSize)) this.setBit(bitmap, bit);
    }
  }
}

/** Reports of fewer than 8 pages find nothing, and clear what they did not find (iova_bitmap, once). */
export class LosesShortBitmaps extends PlainLog {
  protected override tell(part: IovaRange, asked: IovaRange, pageSize: bigint, bitmap: Uint32Array): void {
    if ((asked.length + pageSize - 1n) / pageSize >= 8n) super.tell(part, asked, pageSize, bitmap);
  }
}

/** The last report page, of which the interval has only a part, is left out. */
export class LeavesOutLastPart extends PlainLog {
  protected override tell(part: IovaRange, asked: IovaRange, pageSize: bigint, bitmap: Uint32Array): void {
    super.tell(part, asked, pageSize, bitmap);
    if (asked.length % pageSize === 0n) return;
    const last = Number(asked.length / pageSize);
    bitmap[last >>> 5]! &= ~(1 << (last & 31));
  }
}

/** Bits of 2 MiB of bitmap, 64 GiB of IOVA at 4 KiB: what iova_bitmap maps at a time. */
const WINDOW_BITS = 2n ** 24n;

/** Of a record that crosses the end of the window that is mapped, the part behind it is lost (iova_bitmap, once). */
export class LosesBitsBehindWindow extends PlainLog {
  #previous = -2n;
  #lost = false;

  protected override setBit(bitmap: Uint32Array, bit: bigint): void {
    // A record goes on from the page before; a new one finds the window that it needs.
    if (bit !== this.#previous + 1n) this.#lost = false;
    else if (bit % WINDOW_BITS === 0n) this.#lost = true;
    this.#previous = bit;
    if (!this.#lost) super.setBit(bitmap, bit);
  }
}

/** Intervals longer than 64 GiB at 4 KiB begin anew with every 2 MiB of bitmap. */
export class WrapsAtWindow extends PlainLog {
  protected override setBit(bitmap: Uint32Array, bit: bigint): void {
    super.setBit(bitmap, bit % WINDOW_BITS);
  }
}

/** A report must be of a multiple of 64 pages (pds). */
export class WantsWholeWords extends PlainLog {
  override report(iova: bigint, length: bigint, pageSize: bigint, bitmap: Uint32Array): void {
    if ((length / pageSize) % 64n !== 0n) throw refused('EINVAL', 'no multiple of 64 pages');
    super.report(iova, length, pageSize, bitmap);
  }
}

/** A report must lie in one range (pds). */
export class WantsOneRange extends PlainLog {
  override report(iova: bigint, length: bigint, pageSize: bigint, bitmap: Uint32Array): void {
    const inOne = this.ranges.some(range => range.iova <= iova && iova + length <= range.iova + range.length);
    if (!inOne) throw refused('EINVAL', 'not in one range');
    super.report(iova, length, pageSize, bitmap);
  }
}

/** A report must begin where a range does (libvfio-user). */
export class WantsRangeStart extends PlainLog {
  override report(iova: bigint, length: bigint, pageSize: bigint, bitmap: Uint32Array): void {
    if (!this.ranges.some(range => range.iova === iova)) throw refused('EOPNOTSUPP', 'no range begins there');
    super.report(iova, length, pageSize, bitmap);
  }
}

/** A report where no range is, is refused (libvfio-user). */
export class RefusesHoles extends PlainLog {
  override report(iova: bigint, length: bigint, pageSize: bigint, bitmap: Uint32Array): void {
    const touches = this.ranges.some(range => range.iova < iova + length && iova < range.iova + range.length);
    if (!touches) throw refused('ENOENT', 'no range is there');
    super.report(iova, length, pageSize, bitmap);
  }
}

/** An interval of no bytes is taken for all there is: it is cleared, untold. */
export class TakesNothingForAll extends PlainLog {
  override report(iova: bigint, length: bigint, pageSize: bigint, bitmap: Uint32Array): void {
    if (length === 0n) this.dirty.clear();
    else super.report(iova, length, pageSize, bitmap);
  }
}

/** All of the contract but the last step (stock Linux 6.12 without iova_bitmap): PROBE says yes, REPORT does not work. */
export class CannotReport extends PlainLog {
  override report(): void {
    throw refused('EOPNOTSUPP', 'not built in');
  }
}

function refused(errno: 'EINVAL' | 'ENOENT' | 'EOPNOTSUPP', message: string): VfioError {
  return new VfioError(errno, { operation: 'DMA_LOGGING_REPORT', message });
}
