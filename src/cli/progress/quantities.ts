/*
 * Numbers as people read them.
 */

/** A number of things: `12,345`. */
export function count(value: number): string {
  return Math.round(value).toLocaleString('en-US');
}

/** A time: `3.2 ms`, `850 ms`, `12.5 s`. */
export function milliseconds(value: number): string {
  return value >= 10_000 ? `${(value / 1000).toFixed(1)} s` : `${value < 10 ? value.toFixed(1) : count(value)} ms`;
}

/** A size in bytes: `64 MiB`, `1.5 GiB`. */
export function size(bytes: number): string {
  for (const [unit, factor] of [
    ['GiB', 2 ** 30],
    ['MiB', 2 ** 20],
    ['KiB', 2 ** 10],
  ] as const) {
    if (bytes >= factor) return `${(bytes / factor).toFixed(bytes % factor === 0 ? 0 : 1)} ${unit}`;
  }
  return `${bytes} bytes`;
}

/** Bytes per second: `1.25 GB/s`, `85 MB/s`, `0.5 MB/s`. */
export function speed(bytesPerSecond: number): string {
  if (bytesPerSecond >= 1e9) return `${(bytesPerSecond / 1e9).toFixed(2)} GB/s`;
  const megabytes = bytesPerSecond / 1e6;
  return `${megabytes.toFixed(megabytes < 10 ? 1 : 0)} MB/s`;
}
