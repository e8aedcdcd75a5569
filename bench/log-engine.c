/*
 * The log engine's jobs in plain C, as the measure for the WebAssembly kernels: the same two levels (a summary bit for 512
 * pages), the same ways to take the marks, each loop written as a C programmer would and left to gcc -O3 -march=native.
 * Compiled by log-engine.mjs into a library, and timed from there, in turn with the TypeScript.
 */
#include <emmintrin.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BLOCK_WORDS 8
#define GROUP_WORDS 512
#define SWEEP 32

typedef struct {
  uint64_t *bits;
  uint64_t *summary;
  uint64_t groups;
} two_level;

void *engine_new(uint64_t pages) {
  two_level *log = malloc(sizeof *log);
  log->groups = (pages + 32767) / 32768;
  log->bits = aligned_alloc(4096, log->groups * 4096);
  log->summary = aligned_alloc(64, (log->groups * 8 + 63) & ~63ull);
  memset(log->bits, 0, log->groups * 4096);
  memset(log->summary, 0, log->groups * 8);
  return log;
}

void engine_free(void *handle) {
  two_level *log = handle;
  free(log->bits);
  free(log->summary);
  free(log);
}

void *engine_bitmap(uint64_t bytes) {
  void *bitmap = aligned_alloc(4096, (bytes + 4095) & ~4095ull);
  memset(bitmap, 0, bytes);
  return bitmap;
}

void engine_clear(void *bitmap, uint64_t bytes) { memset(bitmap, 0, bytes); }
void engine_copy(void *to, const void *from, uint64_t bytes) { memcpy(to, from, bytes); }
void engine_release(void *bitmap) { free(bitmap); }

static inline void mark(two_level *log, uint64_t page) {
  log->bits[page >> 6] |= 1ull << (page & 63);
  const uint64_t block = page >> 9, one = 1ull << (block & 63);
  if (!(log->summary[block >> 6] & one)) log->summary[block >> 6] |= one;
}

static inline void mark_shared(two_level *log, uint64_t page) {
  __atomic_fetch_or(&log->bits[page >> 6], 1ull << (page & 63), __ATOMIC_SEQ_CST);
  const uint64_t block = page >> 9, one = 1ull << (block & 63);
  if (!(__atomic_load_n(&log->summary[block >> 6], __ATOMIC_SEQ_CST) & one))
    __atomic_fetch_or(&log->summary[block >> 6], one, __ATOMIC_SEQ_CST);
}

void engine_mark_list(void *handle, const uint32_t *pages, uint64_t count) {
  for (uint64_t i = 0; i < count; i++) mark(handle, pages[i]);
}

/* One write at a time, as a device would: the call is not inlined. */
__attribute__((noinline)) static void record(two_level *log, uint64_t iova, uint64_t length) {
  const uint64_t first = iova >> 12, last = (iova + length - 1) >> 12;
  for (uint64_t page = first; page <= last; page++) mark(log, page);
}
__attribute__((noinline)) static void record_shared(two_level *log, uint64_t iova, uint64_t length) {
  const uint64_t first = iova >> 12, last = (iova + length - 1) >> 12;
  for (uint64_t page = first; page <= last; page++) mark_shared(log, page);
}
void engine_record(void *handle, const double *iovas, uint64_t count) {
  for (uint64_t i = 0; i < count; i++) record(handle, (uint64_t)iovas[i], 4096);
}
void engine_record_shared(void *handle, const double *iovas, uint64_t count) {
  for (uint64_t i = 0; i < count; i++) record_shared(handle, (uint64_t)iovas[i], 4096);
}
void engine_list(void *handle, const double *pages, uint64_t count) {
  for (uint64_t i = 0; i < count; i++) mark(handle, (uint64_t)pages[i]);
}
void engine_list_shared(void *handle, const double *pages, uint64_t count) {
  for (uint64_t i = 0; i < count; i++) mark_shared(handle, (uint64_t)pages[i]);
}

static inline void take(uint64_t *restrict from, uint64_t *restrict to, int words) {
  for (int i = 0; i < words; i++) {
    to[i] |= from[i];
    from[i] = 0;
  }
}

void engine_report(void *handle, uint64_t *target) {
  two_level *log = handle;
  for (uint64_t group = 0; group < log->groups; group++) {
    uint64_t marked = log->summary[group];
    if (!marked) continue;
    log->summary[group] = 0;
    uint64_t *from = log->bits + group * GROUP_WORDS, *to = target + group * GROUP_WORDS;
    if (__builtin_popcountll(marked) >= SWEEP) {
      take(from, to, GROUP_WORDS);
    } else {
      for (; marked; marked &= marked - 1) {
        const int block = __builtin_ctzll(marked) * BLOCK_WORDS;
        take(from + block, to + block, BLOCK_WORDS);
      }
    }
  }
}

void engine_report_exchange(void *handle, uint64_t *target) {
  two_level *log = handle;
  for (uint64_t group = 0; group < log->groups; group++) {
    if (!__atomic_load_n(&log->summary[group], __ATOMIC_RELAXED)) continue;
    uint64_t marked = __atomic_exchange_n(&log->summary[group], 0, __ATOMIC_SEQ_CST);
    uint64_t *from = log->bits + group * GROUP_WORDS, *to = target + group * GROUP_WORDS;
    for (; marked; marked &= marked - 1) {
      const int block = __builtin_ctzll(marked) * BLOCK_WORDS;
      for (int i = block; i < block + BLOCK_WORDS; i++)
        if (__atomic_load_n(&from[i], __ATOMIC_RELAXED)) to[i] |= __atomic_exchange_n(&from[i], 0, __ATOMIC_SEQ_CST);
    }
  }
}

/* Sixteen log pages make a report page: the eight 16-bit lanes of a vector are eight report pages. */
void engine_report_shrink16(void *handle, uint8_t *target) {
  two_level *log = handle;
  const __m128i zero = _mm_setzero_si128();
  for (uint64_t group = 0; group < log->groups; group++) {
    uint64_t marked = log->summary[group];
    if (!marked) continue;
    log->summary[group] = 0;
    for (; marked; marked &= marked - 1) {
      const uint64_t block = group * 64 + __builtin_ctzll(marked);
      __m128i *from = (__m128i *)(log->bits + block * BLOCK_WORDS);
      for (int i = 0; i < 4; i++) {
        const __m128i clean = _mm_cmpeq_epi16(_mm_load_si128(from + i), zero);
        _mm_store_si128(from + i, zero);
        target[block * 4 + i] |= (uint8_t)~_mm_movemask_epi8(_mm_packs_epi16(clean, zero));
      }
    }
  }
}

/* A log page makes sixteen report pages. */
void engine_report_expand16(void *handle, uint16_t *target) {
  two_level *log = handle;
  for (uint64_t group = 0; group < log->groups; group++) {
    uint64_t marked = log->summary[group];
    if (!marked) continue;
    log->summary[group] = 0;
    for (; marked; marked &= marked - 1) {
      const uint64_t block = (group * 64 + __builtin_ctzll(marked)) * BLOCK_WORDS;
      for (int i = 0; i < BLOCK_WORDS; i++) {
        uint64_t word = log->bits[block + i];
        log->bits[block + i] = 0;
        for (; word; word &= word - 1) target[(block + i) * 64 + __builtin_ctzll(word)] = 0xffff;
      }
    }
  }
}

/* Runs of set bits; what is done with each is kept small: the sum of their lengths and how many there are. */
double engine_runs(const uint64_t *bits, uint64_t words) {
  uint64_t total = 0, count = 0, start = 0, before = 0;
  for (uint64_t i = 0; i < words; i++) {
    const uint64_t word = bits[i];
    if (word == 0 && before == 0) continue;
    uint64_t changes = word ^ (word << 1 | before);
    for (; changes; changes &= changes - 1) {
      const uint64_t at = i * 64 + __builtin_ctzll(changes);
      if (before == 0) {
        start = at;
      } else {
        total += at - start;
        count++;
      }
      before ^= 1;
    }
  }
  if (before) {
    total += words * 64 - start;
    count++;
  }
  return (double)(total + count);
}

double engine_count(const uint64_t *bits, uint64_t words) {
  uint64_t total = 0;
  for (uint64_t i = 0; i < words; i++) total += __builtin_popcountll(bits[i]);
  return (double)total;
}

typedef struct {
  void *handle;
  const double *iovas;
  uint64_t count;
  double seconds, rate;
} writer;

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + time.tv_nsec / 1e9;
}

static void *write_on(void *argument) {
  writer *self = argument;
  const double started = now();
  double elapsed;
  uint64_t records = 0;
  do {
    engine_record_shared(self->handle, self->iovas, self->count);
    records += self->count;
    elapsed = now() - started;
  } while (elapsed < self->seconds);
  self->rate = records / elapsed;
  return NULL;
}

/* Records a second of one or two threads together, each with its own list. */
double engine_threads(void *handle, const double *iovas, uint64_t count, int threads, double seconds) {
  pthread_t ids[2];
  writer writers[2];
  double rate = 0;
  for (int i = 0; i < threads; i++) {
    writers[i] = (writer){handle, iovas + i * count, count, seconds, 0};
    pthread_create(&ids[i], NULL, write_on, &writers[i]);
  }
  for (int i = 0; i < threads; i++) {
    pthread_join(ids[i], NULL);
    rate += writers[i].rate;
  }
  return rate;
}
