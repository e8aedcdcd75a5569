/** Bytes as people write them: `'0600 0000'`; white space is for the eye. */
export function bytesOf(hex: string): Uint8Array {
  return Uint8Array.from(hex.replaceAll(/\s/g, '').match(/../g) ?? [], pair => Number.parseInt(pair, 16));
}

/** The same bytes behind 3 others, so that nothing is aligned and the view has an offset. */
export function unaligned(bytes: Uint8Array): Uint8Array {
  const memory = new Uint8Array(bytes.length + 8).fill(0xee);
  memory.set(bytes, 3);
  return memory.subarray(3, 3 + bytes.length);
}
