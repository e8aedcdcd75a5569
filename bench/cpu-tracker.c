// The C side of bench/cpu-tracker.mjs: maps the memory file on descriptor 3, arms it once, and for each line of standard input, a number of
// pages per thousand, writes so many, rests, and answers how long the scan took, in nanoseconds, and how many pages it found.
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

// As linux/fs.h of 6.7 has it; the headers here may be older.
struct scan_argument {
  uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages, inverted, mask, anyof, returned;
};
struct region {
  uint64_t start, end, categories;
};
#define SCAN _IOWR('f', 16, struct scan_argument)
#define PAGE 4096
#define ENTRIES 4096

static struct region regions[ENTRIES];

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1e9 + time.tv_nsec;
}

static void require(int holds, const char *what) {
  if (holds) return;
  perror(what);
  exit(1);
}

static uint64_t scan(int pagemap, uint64_t start, uint64_t end) {
  uint64_t pages = 0;
  while (start < end) {
    struct scan_argument argument = {sizeof argument, 3, start, end, 0, (uintptr_t)regions, ENTRIES, 0, 0, 2, 0, 2};
    long count = ioctl(pagemap, SCAN, &argument);
    require(count >= 0, "PAGEMAP_SCAN");
    for (long index = 0; index < count; index++) pages += (regions[index].end - regions[index].start) / PAGE;
    start = argument.walk_end;
  }
  return pages;
}

int main(void) {
  struct stat file;
  require(fstat(3, &file) == 0, "fstat");
  uint8_t *memory = mmap(0, file.st_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, 3, 0);
  require(memory != MAP_FAILED, "mmap");
  int fault = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | 1);
  require(fault >= 0, "userfaultfd");
  struct uffdio_api api = {0xaa, (1 << 12) | (1 << 13) | (1 << 15), 0};
  require(ioctl(fault, UFFDIO_API, &api) == 0, "UFFDIO_API");
  struct uffdio_range range = {(uintptr_t)memory, file.st_size};
  struct uffdio_register watched = {range, UFFDIO_REGISTER_MODE_WP, 0};
  require(ioctl(fault, UFFDIO_REGISTER, &watched) == 0, "UFFDIO_REGISTER");
  struct uffdio_writeprotect protect = {range, UFFDIO_WRITEPROTECT_MODE_WP};
  double armedAt = now();
  require(ioctl(fault, UFFDIO_WRITEPROTECT, &protect) == 0, "UFFDIO_WRITEPROTECT");
  printf("%.0f 0\n", now() - armedAt);
  fflush(stdout);
  int pagemap = open("/proc/self/pagemap", O_RDONLY);
  require(pagemap >= 0, "pagemap");

  uint64_t pages = file.st_size / PAGE;
  uint32_t seed = 1;
  char line[32];
  while (fgets(line, sizeof line, stdin)) {
    uint64_t perThousand = strtoul(line, 0, 10);
    for (uint64_t page = 0; page < pages; page++) {
      seed = seed * 1664525 + 1013904223;
      if ((seed >> 16) % 1000 < perThousand) memory[page * PAGE] = 1;
    }
    usleep(5000);
    double startedAt = now();
    uint64_t found = scan(pagemap, (uintptr_t)memory, (uintptr_t)memory + file.st_size);
    printf("%.0f %lu\n", now() - startedAt, found);
    fflush(stdout);
  }
  return 0;
}
