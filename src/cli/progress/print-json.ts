import { VfioError } from '../../uapi/index.js';

/** Prints a value as one line of JSON: `bigint` as text, an error as its errno and its words. */
export function printJson(value: object): void {
  console.log(JSON.stringify(value, plain));
}

function plain(_: string, item: unknown): unknown {
  if (typeof item === 'bigint') return item.toString();
  return item instanceof VfioError ? { errno: item.errno, message: item.message } : item;
}
