import { ERRNO, type ErrnoName } from './errno.js';

/** What a {@link VfioError} says beyond its errno. */
export interface VfioErrorDetails {
  /** The operation that failed, in the field's words: `'DMA_LOGGING_START'`, `'REGION_READ'`, `'sendmsg'`. */
  operation: string;
  /** The argument or structure member that offended, such as `'page_size'`. */
  field?: string | undefined;
  /** One sentence for people: what was seen, and what would have been right. */
  message?: string | undefined;
  /** The error below this one. */
  cause?: unknown;
}

/**
 * The one error class of dmalog. The `errno` is what goes over a wire or back through an ioctl; the rest is for people.
 *
 * The message reads `operation: field: sentence (ERRNO)`, leaving out what is not known.
 */
export class VfioError extends Error {
  override readonly name = 'VfioError';
  /** The errno's name, such as `'EINVAL'`. */
  readonly errno: ErrnoName;
  /** The operation that failed. */
  readonly operation: string;
  /** The argument or structure member that offended, if one did. */
  readonly field: string | undefined;

  constructor(errno: ErrnoName, details: VfioErrorDetails) {
    const parts = [details.operation, details.field, details.message].filter(part => part !== undefined && part !== '');
    super(`${parts.join(': ')} (${errno})`, details.cause === undefined ? undefined : { cause: details.cause });
    this.errno = errno;
    this.operation = details.operation;
    this.field = details.field;
  }

  /** The errno as Linux's number: 22 for `'EINVAL'`. */
  get number(): number {
    return ERRNO[this.errno];
  }
}

/**
 * Any thrown value as a {@link VfioError}: itself if it is one, else with `fallback` as errno and the value as cause.
 * Node's own system errors keep their code where it has a name here.
 */
export function asVfioError(error: unknown, operation: string, fallback: ErrnoName = 'EIO'): VfioError {
  if (error instanceof VfioError) return error;
  const code = (error as { code?: unknown } | null | undefined)?.code;
  const errno = typeof code === 'string' && Object.hasOwn(ERRNO, code) ? (code as ErrnoName) : fallback;
  const message = error instanceof Error ? error.message : String(error);
  return new VfioError(errno, { operation, message, cause: error });
}

/** Reads a reply. @throws VfioError EPROTO for one that cannot be read: it is not the device that refuses, but the peer that errs */
export function understand<T>(operation: string, decode: () => T): T {
  try {
    return decode();
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    throw new VfioError('EPROTO', { operation, message, cause: error });
  }
}
