import { readFileSync } from 'node:fs';
import type { Outcome } from './raw-device.js';

/** A row of the table in `docs/kernel.md`: what was measured. */
export interface Row {
  readonly id: string;
  /** What is done. */
  readonly what: string;
  /** On 6.1; `'='` in the others stands for it. */
  readonly old: string;
  /** On newer kernels. */
  readonly newer: string;
  /** Of the sample device mtty; empty where it cannot be asked. */
  readonly mtty: string;
}

/** Which device was asked, and how it was opened. */
export interface Column {
  readonly kernel: string;
  readonly device: 'vdlog' | 'mtty';
  readonly by: 'group' | 'cdev';
}

/** The rows of the table, as the document has them. */
export function readTable(): Row[] {
  const text = readFileSync('docs/kernel.md', 'utf8');
  return [...text.matchAll(/^\| ([A-E]\d\d) \| (.*) \| (.*) \| (.*) \| (.*) \|$/gm)].map(
    ([, id, what, old, newer, mtty]) => ({ id: id!, what: what!, old: old!, newer: newer!, mtty: mtty!.trim() }),
  );
}

/** What a row says of a device; `undefined`: nothing. */
export function expected({ old, newer, mtty }: Row, { kernel, device, by }: Column): Outcome | undefined {
  const first = old.replace(/^no migration: /, '');
  if (device === 'mtty' && mtty === '') return undefined;
  const cell = device === 'mtty' ? mtty : kernel === '6.1' ? first : newer;
  if (cell === '=') return first;
  // Of 6.12 by group, 6.12 by character device, 7.3 by group, 7.3 by character device.
  const differing = cell.startsWith('differ: ') ? cell.slice('differ: '.length).split(', ') : undefined;
  return differing === undefined ? cell : differing[by === 'group' ? 0 : 1];
}

/** Whether a row of a device without migration tells the outcome alone. */
export function isBrief({ old }: Row, { device }: Column): boolean {
  return device === 'vdlog' && old.startsWith('no migration: ');
}
