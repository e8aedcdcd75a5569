/*
 * What a pass over all memory could cost: a sender and a receiver that do nothing but write and read guest memory through TCP on the loopback
 * interface, by one or several connections, each with a thread at either end. No frames, no checksums, no copies of its own: write(2) takes from
 * the mapped memory file on descriptor 3, read(2) fills a new one.
 *
 *   bulk CONNECTIONS    prints the nanoseconds from the first write until the receiver has everything
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PIECE = 1 << 20, MOST_CONNECTIONS = 64 };

static char *memory;
static size_t share;
static struct sockaddr_in address;
static int listener;

static void need(int so, const char *what) {
  if (so) return;
  perror(what);
  exit(1);
}

static char *map(int fd, size_t size) {
  char *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  need(mapped != MAP_FAILED, "mmap");
  return mapped;
}

static void *sendShare(void *argument) {
  uint64_t index = (uintptr_t)argument;
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  need(connect(fd, (struct sockaddr *)&address, sizeof address) == 0, "connect");
  need(write(fd, &index, sizeof index) == sizeof index, "write");
  for (size_t at = 0; at < share;) {
    size_t most = share - at < PIECE ? share - at : PIECE;
    ssize_t count = write(fd, memory + index * share + at, most);
    need(count > 0, "write");
    at += count;
  }
  char done;
  need(read(fd, &done, 1) == 1, "read");
  close(fd);
  return NULL;
}

static void *receiveShare(void *argument) {
  (void)argument;
  uint64_t index;
  int fd = accept(listener, NULL, NULL);
  need(fd >= 0, "accept");
  need(read(fd, &index, sizeof index) == sizeof index, "read");
  for (size_t at = 0; at < share;) {
    size_t most = share - at < PIECE ? share - at : PIECE;
    ssize_t count = read(fd, memory + index * share + at, most);
    need(count > 0, "read");
    at += count;
  }
  need(write(fd, "!", 1) == 1, "write");
  close(fd);
  return NULL;
}

static void inThreads(int count, void *(*work)(void *)) {
  pthread_t threads[MOST_CONNECTIONS];
  for (intptr_t index = 0; index < count; index++) pthread_create(&threads[index], NULL, work, (void *)index);
  for (int index = 0; index < count; index++) pthread_join(threads[index], NULL);
}

int main(int count, char **arguments) {
  int connections = count == 2 ? atoi(arguments[1]) : 0;
  need(connections > 0 && connections <= MOST_CONNECTIONS, "usage: bulk CONNECTIONS");
  struct stat file;
  need(fstat(3, &file) == 0, "fstat");
  share = file.st_size / connections;
  listener = socket(AF_INET, SOCK_STREAM, 0);
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  need(bind(listener, (struct sockaddr *)&address, sizeof address) == 0, "bind");
  need(getsockname(listener, (struct sockaddr *)&address, &size) == 0, "getsockname");
  need(listen(listener, MOST_CONNECTIONS) == 0, "listen");
  if (fork() == 0) {
    int fd = memfd_create("bulk", MFD_CLOEXEC);
    need(fd >= 0 && ftruncate(fd, file.st_size) == 0, "memfd_create");
    memory = map(fd, file.st_size);
    inThreads(connections, receiveShare);
    _exit(0);
  }
  memory = map(3, file.st_size);
  struct timespec start, end;
  clock_gettime(CLOCK_MONOTONIC, &start);
  inThreads(connections, sendShare);
  clock_gettime(CLOCK_MONOTONIC, &end);
  wait(NULL);
  printf("%lld\n", (end.tv_sec - start.tv_sec) * 1000000000LL + end.tv_nsec - start.tv_nsec);
  return 0;
}
