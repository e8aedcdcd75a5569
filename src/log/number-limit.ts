/**
 * Addresses below this are recorded as numbers, which hold them exactly; the others as bigints. 8 PiB: no machine's
 * memory reaches it, but an IOVA may.
 */
export const NUMBER_LIMIT = 2 ** 53;
