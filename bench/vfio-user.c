/*
 * Both ends of vfio-user in plain C, as the measure for the TypeScript ones: a client and a server that speak just what is
 * timed (VERSION, REGION_READ, REGION_WRITE, and DEVICE_FEATURE with START, STOP and REPORT), written as a C programmer would:
 * blocking sockets, one receive into a large buffer, one send a message. Compiled and run by vfio-user.mjs, or by hand:
 *
 *   gcc -O3 -march=native -o vfio-user vfio-user.c
 *   ./vfio-user serve PATH
 *   ./vfio-user client PATH [JOB...]
 *
 * Jobs come as arguments, or else one a line on standard input; each prints one line of JSON, times in nanoseconds.
 *   read:COUNT             8-byte reads of BAR 0, one after the other
 *   write:COUNT:DEPTH      8-byte writes to BAR 0, DEPTH of them without a reply
 *   report:COUNT[:DIRTY]   reports of 256 GiB at 4 KiB; with DIRTY, the register MARK is written before each, untimed
 * The first report starts logging. The server's own reports are 8 MiB of zeros: what it takes to move them.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { VERSION = 1, REGION_READ = 9, REGION_WRITE = 10, DEVICE_FEATURE = 16 };
enum { REPLY = 1, ERROR_REPLY = 0x21 };
enum { BAR_SIZE = 4096, WRITE_OFFSET = 8, MARK_OFFSET = 16 };
enum { GET = 1 << 16, SET = 1 << 17, START = 6, STOP = 7, REPORT = 8 };
#define LENGTH (256ull << 30)
#define PAGE 4096ull
#define BITMAP_BYTES (LENGTH / PAGE / 8)
#define BUFFER_BYTES (BITMAP_BYTES + 65536)
#define MOST_JOBS_COUNT 10000000

typedef struct {
  uint16_t id, command;
  uint32_t size, flags, error;
} header;

typedef struct {
  uint64_t offset;
  uint32_t region, count;
} region_access;

typedef struct {
  int fd;
  uint8_t *bytes;
  size_t start, end;
} channel;

static void fail(const char *what) {
  perror(what);
  exit(1);
}

static void refuse(const char *what) {
  fprintf(stderr, "%s\n", what);
  exit(1);
}

static uint8_t *new_buffer(void) {
  uint8_t *bytes = aligned_alloc(4096, BUFFER_BYTES);
  if (!bytes) fail("aligned_alloc");
  memset(bytes, 0, BUFFER_BYTES);
  return bytes;
}

static void send_all(int fd, const void *from, size_t count) {
  for (const uint8_t *bytes = from; count > 0;) {
    const ssize_t sent = send(fd, bytes, count, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) fail("send");
    bytes += sent;
    count -= sent;
  }
}

/* Receives once; descriptors are taken and closed, as a peer that follows the protocol must. 0: the other end is gone. */
static int receive_more(channel *from) {
  char control[CMSG_SPACE(16 * sizeof(int))];
  if (from->start == from->end) from->start = from->end = 0;
  if (from->end == BUFFER_BYTES) {
    memmove(from->bytes, from->bytes + from->start, from->end - from->start);
    from->end -= from->start;
    from->start = 0;
  }
  struct iovec vector = {from->bytes + from->end, BUFFER_BYTES - from->end};
  struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  ssize_t count;
  do count = recvmsg(from->fd, &message, MSG_CMSG_CLOEXEC);
  while (count < 0 && errno == EINTR);
  if (count < 0 && errno != ECONNRESET) fail("recvmsg");
  if (count <= 0) return 0;
  for (struct cmsghdr *each = CMSG_FIRSTHDR(&message); each; each = CMSG_NXTHDR(&message, each)) {
    const int *fds = (const int *)CMSG_DATA(each);
    for (size_t i = 0; i < (each->cmsg_len - CMSG_LEN(0)) / sizeof(int); i++) close(fds[i]);
  }
  from->end += count;
  return 1;
}

/* The next whole message; valid until the call after. NULL: the other end is gone. */
static header *next_message(channel *from) {
  for (;;) {
    const size_t held = from->end - from->start;
    header *message = (header *)(from->bytes + from->start);
    if (held >= sizeof *message && (message->size < sizeof *message || message->size > BUFFER_BYTES)) return NULL;
    if (held >= sizeof *message && held >= message->size) {
      from->start += message->size;
      return message;
    }
    if (!receive_more(from)) return NULL;
  }
}

static struct sockaddr_un address_of(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) refuse("the path is too long");
  strcpy(address.sun_path, path);
  return address;
}

/* ---- server ---- */

static uint8_t registers[BAR_SIZE];
static uint8_t *reply_buffer;

static void reply(int fd, const header *request, uint32_t flags, uint32_t error, size_t payload) {
  header *answer = (header *)reply_buffer;
  *answer = (header){request->id, request->command, sizeof *answer + payload, flags, error};
  send_all(fd, reply_buffer, sizeof *answer + payload);
}

static int valid_access(const header *request, const region_access *access, size_t data) {
  return request->size == sizeof *request + sizeof *access + data && access->region == 0 && access->count <= BAR_SIZE &&
         access->offset <= BAR_SIZE - access->count;
}

static void serve_feature(int fd, const header *request, const uint32_t *feature) {
  uint8_t *payload = reply_buffer + sizeof(header);
  const size_t size = request->size - sizeof *request;
  const uint32_t what = size < 8 ? 0 : feature[1];
  if (what != (SET | START) && what != (SET | STOP) && what != (GET | REPORT)) {
    reply(fd, request, ERROR_REPLY, EINVAL, 0);
    return;
  }
  memcpy(payload, feature, size);
  const size_t answered = what == (GET | REPORT) ? 8 + 24 + BITMAP_BYTES : size;
  *(uint32_t *)payload = answered;
  reply(fd, request, REPLY, 0, answered);
}

static void serve_message(int fd, const header *request) {
  const region_access *access = (const region_access *)(request + 1);
  uint8_t *payload = reply_buffer + sizeof(header);
  switch (request->command) {
  case VERSION: {
    static const char agreed[] = "\0\0\1\0{\"capabilities\":{\"max_msg_fds\":16,\"max_data_xfer_size\":16777216}}";
    memcpy(payload, agreed, sizeof agreed);
    reply(fd, request, REPLY, 0, sizeof agreed);
    return;
  }
  case REGION_READ:
    if (!valid_access(request, access, 0)) break;
    memcpy(payload, access, sizeof *access);
    memcpy(payload + sizeof *access, registers + access->offset, access->count);
    reply(fd, request, REPLY, 0, sizeof *access + access->count);
    return;
  case REGION_WRITE:
    if (!valid_access(request, access, access->count)) break;
    memcpy(registers + access->offset, access + 1, access->count);
    memcpy(payload, access, sizeof *access);
    reply(fd, request, REPLY, 0, sizeof *access);
    return;
  case DEVICE_FEATURE:
    serve_feature(fd, request, (const uint32_t *)(request + 1));
    return;
  }
  reply(fd, request, ERROR_REPLY, EINVAL, 0);
}

static void serve(const char *path) {
  const struct sockaddr_un address = address_of(path);
  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener < 0) fail("socket");
  unlink(path);
  if (bind(listener, (const struct sockaddr *)&address, sizeof address) < 0) fail("bind");
  if (listen(listener, 16) < 0) fail("listen");
  puts("ready");
  fflush(stdout);
  reply_buffer = new_buffer();
  channel client = {-1, new_buffer(), 0, 0};
  for (;;) {
    client.fd = accept(listener, NULL, NULL);
    if (client.fd < 0) fail("accept");
    client.start = client.end = 0;
    for (const header *request; (request = next_message(&client));) serve_message(client.fd, request);
    close(client.fd);
  }
}

/* ---- client ---- */

static channel server;
static uint16_t next_id;

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static uint16_t request(uint16_t command, const void *payload, size_t size) {
  static uint8_t message[4096];
  *(header *)message = (header){next_id, command, sizeof(header) + size, 0, 0};
  memcpy(message + sizeof(header), payload, size);
  send_all(server.fd, message, sizeof(header) + size);
  return next_id++;
}

static const void *answer(uint16_t id, uint16_t command, size_t least) {
  const header *message = next_message(&server);
  if (!message) refuse("the server is gone");
  if (message->id != id || message->command != command || message->flags != REPLY) {
    fprintf(stderr, "command %d: flags %#x, errno %d\n", message->command, message->flags, message->error);
    exit(1);
  }
  if (message->size < sizeof *message + least) refuse("the reply is too short");
  return message + 1;
}

static const void *call(uint16_t command, const void *payload, size_t size, size_t least) {
  return answer(request(command, payload, size), command, least);
}

static uint16_t send_write(uint64_t offset, uint64_t value) {
  struct {
    region_access access;
    uint64_t value;
  } write = {{offset, 0, 8}, value};
  return request(REGION_WRITE, &write, sizeof write);
}

static void negotiate(void) {
  static const char proposal[] = "\0\0\0\0{\"capabilities\":{\"max_msg_fds\":16,\"max_data_xfer_size\":16777216,"
                                 "\"max_dma_maps\":65535,\"pgsizes\":4096}}";
  call(VERSION, proposal, sizeof proposal, 4);
}

static void start_logging(void) {
  static int started;
  if (started++) return;
  struct {
    uint32_t argsz, flags;
    uint64_t page_size;
    uint32_t ranges, reserved;
    uint64_t iova, length;
  } start = {sizeof start, SET | START, PAGE, 1, 0, 0, LENGTH};
  call(DEVICE_FEATURE, &start, sizeof start, 16);
}

static int ascending(const void *left, const void *right) {
  const uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
  return (a > b) - (a < b);
}

static void print_times(const char *job, uint64_t *each, long count) {
  uint64_t total = 0;
  for (long i = 0; i < count; i++) total += each[i];
  qsort(each, count, sizeof *each, ascending);
  printf("{\"job\":\"%s\",\"count\":%ld,\"mean\":%.1f,\"median\":%lu,\"p99\":%lu}\n", job, count, (double)total / count,
         each[count / 2], each[count * 99 / 100]);
  fflush(stdout);
}

static void run_reads(uint64_t *each, long count) {
  const region_access access = {0, 0, 8};
  for (long i = 0; i < count; i++) {
    const uint64_t started = now();
    call(REGION_READ, &access, sizeof access, sizeof access + 8);
    each[i] = now() - started;
  }
  print_times("read", each, count);
}

/* With many in flight no single one has a time that says anything: the time of all is shared out. */
static void run_writes(long count, long depth) {
  const uint64_t started = now();
  uint16_t oldest = next_id;
  for (long sent = 0, answered = 0; answered < count;) {
    for (; sent < count && sent - answered < depth; sent++) send_write(WRITE_OFFSET, sent);
    do {
      answer(oldest++, REGION_WRITE, sizeof(region_access));
      answered++;
    } while (server.start < server.end);
  }
  const double mean = (double)(now() - started) / count;
  printf("{\"job\":\"write\",\"count\":%ld,\"mean\":%.1f,\"median\":%.1f}\n", count, mean, mean);
  fflush(stdout);
}

static void run_reports(uint64_t *each, long count, int dirty) {
  const struct {
    uint32_t argsz, flags;
    uint64_t iova, length, page_size;
  } report = {8 + 24 + BITMAP_BYTES, GET | REPORT, 0, LENGTH, PAGE};
  start_logging();
  for (long i = 0; i < count; i++) {
    if (dirty) answer(send_write(MARK_OFFSET, i), REGION_WRITE, sizeof(region_access));
    const uint64_t started = now();
    call(DEVICE_FEATURE, &report, sizeof report, 8 + 24 + BITMAP_BYTES);
    each[i] = now() - started;
  }
  print_times("report", each, count);
}

static void run_job(const char *job) {
  static uint64_t *each;
  char name[16] = "";
  long count = 0, more = 0;
  sscanf(job, "%15[a-z]:%ld:%ld", name, &count, &more);
  if (count < 1 || count > MOST_JOBS_COUNT) refuse("jobs are read:COUNT, write:COUNT:DEPTH, report:COUNT[:DIRTY]");
  each = realloc(each, count * sizeof *each);
  if (!each) fail("realloc");
  if (!strcmp(name, "read")) run_reads(each, count);
  else if (!strcmp(name, "write") && more > 0) run_writes(count, more);
  else if (!strcmp(name, "report")) run_reports(each, count, more != 0);
  else refuse(job);
}

static void run_client(const char *path, char **jobs, int count) {
  const struct sockaddr_un address = address_of(path);
  server = (channel){socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), new_buffer(), 0, 0};
  if (server.fd < 0) fail("socket");
  if (connect(server.fd, (const struct sockaddr *)&address, sizeof address) < 0) fail(path);
  negotiate();
  for (int i = 0; i < count; i++) run_job(jobs[i]);
  if (count > 0) return;
  puts("ready");
  fflush(stdout);
  for (char line[64]; fgets(line, sizeof line, stdin);) run_job(line);
}

int main(int count, char **arguments) {
  if (count == 3 && !strcmp(arguments[1], "serve")) serve(arguments[2]);
  else if (count >= 3 && !strcmp(arguments[1], "client")) run_client(arguments[2], arguments + 3, count - 3);
  else refuse("usage: vfio-user serve PATH | vfio-user client PATH [read:COUNT] [write:COUNT:DEPTH] [report:COUNT[:DIRTY]]");
  return 0;
}
