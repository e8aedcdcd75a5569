// What the calls of bench/kernel.mjs cost a C program: opens a device of a group, makes each call again and again, and prints
//   JOB NANOSECONDS
// for each, the mean of one call in the quickest of ten parts.
//
//   kernel GROUP DEVICE CALLS REPORTS
#include <fcntl.h>
#include <linux/types.h>
#include <linux/vfio.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define START 6
#define STOP 7
#define REPORT 8
#define GET (1u << 16)
#define SET (1u << 17)
#define PROBE (1u << 18)

#define PARTS 10

static int device;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e9 + t.tv_nsec;
}

static void probe(void)
{
	struct { __u32 argsz, flags; } request = { 8, PROBE | SET | START };

	if (ioctl(device, 0x3B75, &request))
		die("PROBE");
}

static void region_read(void)
{
	uint8_t status[24];

	if (pread(device, status, sizeof(status), 0) != sizeof(status))
		die("pread");
}

static uint64_t *bitmap, report_length;

static void report(void)
{
	struct {
		__u32 argsz, flags;
		__u64 iova, length, page_size, bitmap;
	} request = { 40, GET | REPORT, 0, report_length, 4096, (uintptr_t)bitmap };

	if (ioctl(device, 0x3B75, &request))
		die("REPORT");
}

static void measure(const char *name, void (*call)(void), int count)
{
	int calls = count / PARTS > 0 ? count / PARTS : 1;
	double start, taken, best = 1e18;

	for (int i = 0; i < count / 4 + 1; i++)
		call();
	for (int part = 0; part < PARTS; part++) {
		start = now();
		for (int i = 0; i < calls; i++)
			call();
		taken = (now() - start) / calls;
		if (taken < best)
			best = taken;
	}
	printf("%s %.0f\n", name, best);
}

static void open_device(const char *number, const char *name)
{
	char path[64];
	int container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC), group;

	snprintf(path, sizeof(path), "/dev/vfio/%s", number);
	group = open(path, O_RDWR | O_CLOEXEC);
	if (group < 0 || ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) || ioctl(container, VFIO_SET_IOMMU, 3))
		die(path);
	device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, name);
	if (device < 0)
		die(name);
}

static void start(void)
{
	__u64 range[2] = { 0, 1ull << 36 };
	struct {
		__u32 argsz, flags;
		__u64 page_size;
		__u32 ranges, reserved;
		__u64 pointer;
	} request = { 32, SET | START, 4096, 1, 0, (uintptr_t)range };

	if (ioctl(device, 0x3B75, &request))
		die("START");
}

int main(int argc, char **argv)
{
	static const struct { const char *name; int shift, divisor; } reports[] = {
		{ "report-1MiB", 20, 1 }, { "report-1GiB", 30, 10 }, { "report-64GiB", 36, 100 },
	};
	int calls, count;

	if (argc != 5)
		return 2;
	calls = atoi(argv[3]);
	count = atoi(argv[4]);
	open_device(argv[1], argv[2]);
	/* Before START: the module counts its dirty pages for whoever reads its region. */
	measure("probe", probe, calls);
	measure("region-read", region_read, calls);
	start();
	bitmap = malloc(1 << 21);
	memset(bitmap, 0, 1 << 21);
	for (size_t i = 0; i < sizeof(reports) / sizeof(reports[0]); i++) {
		report_length = 1ull << reports[i].shift;
		measure(reports[i].name, report, count / reports[i].divisor);
	}
	return 0;
}
