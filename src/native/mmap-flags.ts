/* What mmap(2) is asked for, on Linux. */

export const PROT_READ = 1;
export const PROT_WRITE = 2;
export const MAP_SHARED = 0x01;
export const MAP_PRIVATE = 0x02;
export const MAP_FIXED = 0x10;
export const MAP_ANONYMOUS = 0x20;
export const MAP_NORESERVE = 0x4000;
export const MAP_POPULATE = 0x8000;
export const MAP_FAILED = 2n ** 64n - 1n;

/* What madvise(2) is told. */

export const MADV_DONTFORK = 10;
export const MADV_UNMERGEABLE = 13;
