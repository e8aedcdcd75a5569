/**
 * An IOVA as the cheapest type that holds it exactly. What a host maps lies below 2^53 nearly always, and a number costs a fraction of a
 * bigint; what lies above must still be refused at its own address.
 */
export type Address = number | bigint;

/** Reads a 64-bit address. */
export function readAddress(view: DataView, offset: number): Address {
  const high = view.getUint32(offset + 4, true);
  if (high >= 2 ** 21) return view.getBigUint64(offset, true);
  return high * 2 ** 32 + view.getUint32(offset, true);
}

/** The address `bytes` further on. */
export function addressAfter(address: Address, bytes: number): Address {
  return typeof address === 'number' && address + bytes <= Number.MAX_SAFE_INTEGER
    ? address + bytes
    : BigInt(address) + BigInt(bytes);
}

/** How far into a page an address lies; `pageSize` is a power of two. */
export function offsetInPage(address: Address, pageSize: number): number {
  return typeof address === 'number' ? address % pageSize : Number(address % BigInt(pageSize));
}
