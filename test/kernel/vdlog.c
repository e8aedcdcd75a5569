// SPDX-License-Identifier: GPL-2.0
/*
 * vdlog - a software VFIO device (emulated IOMMU) whose DMA logging works.
 *
 * For tests only: it is no part of the npm package, and unlike the rest of
 * the project it is under the GPL, since it is a module of the Linux kernel.
 * test/machines/fetch kernel-6.1 and kernel-6.12 build it; by hand, with the
 * headers of a running kernel of 6.1 or later that has iova_bitmap:
 *
 *	echo 'obj-m := vdlog.o' > Kbuild
 *	make -C /lib/modules/$(uname -r)/build M=$PWD modules
 *	insmod vdlog.ko ndev=2
 *
 * gives the VFIO devices vdlog.0 and vdlog.1 in /sys/bus/platform/devices.
 *
 * Userspace plays the device by region 0, which is 4096 bytes long:
 *
 * - A pwrite(2) of struct vdlog_cmd at offset 0 is one DMA write of @length
 *   bytes at @iova.  Flag 1 (VDLOG_DO_DMA): it really writes guest memory,
 *   bytes of the value @fill, and is not logged where that fails.  Flag 2
 *   (VDLOG_READ): a DMA read, which must not be logged.
 * - A pread(2) of struct vdlog_status at offset 0 tells what is logged.
 *
 * A DMA write inside a tracked range is recorded and comes back through
 * VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, by the kernel's own iova_bitmap.
 * The driver-side rules follow drivers/vfio/pci/mlx5/cmd.c: the page size is
 * clamped to what the device can do, a second START is -EINVAL, a REPORT
 * without START is -EINVAL, a STOP without START is 0.
 */
#include <linux/interval_tree.h>
#include <linux/iova_bitmap.h>
#include <linux/log2.h>
#include <linux/module.h>
#include <linux/overflow.h>
#include <linux/platform_device.h>
#include <linux/slab.h>
#include <linux/vfio.h>
#include <linux/version.h>
#include <linux/vmalloc.h>

static uint ndev = 1, min_shift = 12, max_shift = 16;
module_param(ndev, uint, 0444);
module_param(min_shift, uint, 0444);	/* smallest tracked page, log2 */
module_param(max_shift, uint, 0444);	/* largest tracked page, log2 */

#define VDLOG_MAX_BITS	(1UL << 28)	/* 32 MiB of bitmap for all ranges */
#define VDLOG_DO_DMA	1		/* also really write guest memory */
#define VDLOG_READ	2		/* a DMA read: must not be logged */

struct vdlog_cmd {			/* pwrite, region 0, offset 0 */
	__u64 iova, length;
	__u32 flags, fill;
};

struct vdlog_status {			/* pread, region 0, offset 0 */
	__u64 page_size, nranges, dirty;	/* all 0 while not logging */
};

struct vdlog_range {
	u64 first, last;		/* inclusive IOVAs */
	unsigned long nbits, *bits;
};

struct vdlog {
	struct vfio_device vdev;
	struct mutex lock;		/* all below */
	struct vdlog_range *ranges;	/* NULL: not logging */
	u32 nranges, shift;
};

static struct platform_device **pdevs;

static struct vdlog *to_vdlog(struct vfio_device *vdev)
{
	return container_of(vdev, struct vdlog, vdev);
}

static void vdlog_free_ranges(struct vdlog *d)
{
	u32 i;

	for (i = 0; d->ranges && i < d->nranges; i++)
		vfree(d->ranges[i].bits);
	kvfree(d->ranges);
	d->ranges = NULL;
	d->nranges = 0;
}

static int vdlog_start(struct vfio_device *vdev, struct rb_root_cached *root,
		       u32 nnodes, u64 *page_size)
{
	struct vdlog *d = to_vdlog(vdev);
	struct interval_tree_node *n;
	unsigned long total = 0;
	int ret = -EINVAL;

	mutex_lock(&d->lock);
	if (d->ranges)
		goto out;
	d->shift = clamp_t(u32, *page_size ? ilog2(*page_size) : 0,
			   min_shift, max_shift);
	ret = -ENOMEM;
	d->ranges = kvcalloc(nnodes, sizeof(*d->ranges), GFP_KERNEL);
	if (!d->ranges)
		goto out;
	for (n = interval_tree_iter_first(root, 0, ULONG_MAX); n;
	     n = interval_tree_iter_next(n, 0, ULONG_MAX)) {
		struct vdlog_range *r = &d->ranges[d->nranges];

		if (d->nranges == nnodes)
			break;
		r->first = n->start;
		r->last = n->last;
		r->nbits = (n->last >> d->shift) - (n->start >> d->shift) + 1;
		total += r->nbits;
		ret = -EOPNOTSUPP;
		if (r->nbits > VDLOG_MAX_BITS || total > VDLOG_MAX_BITS)
			goto free;
		ret = -ENOMEM;
		r->bits = vzalloc(BITS_TO_LONGS(r->nbits ?: 1) * sizeof(long));
		if (!r->bits)
			goto free;
		d->nranges++;
	}
	*page_size = 1ULL << d->shift;
	ret = 0;
	goto out;
free:
	vdlog_free_ranges(d);
out:
	mutex_unlock(&d->lock);
	return ret;
}

static int vdlog_stop(struct vfio_device *vdev)
{
	struct vdlog *d = to_vdlog(vdev);

	mutex_lock(&d->lock);
	vdlog_free_ranges(d);
	mutex_unlock(&d->lock);
	return 0;
}

/* The part of [iova, last] in @r as bit numbers; false if there is none. */
static bool vdlog_overlap(struct vdlog *d, struct vdlog_range *r, u64 iova,
			  u64 last, unsigned long *b, unsigned long *e)
{
	if (!r->nbits || iova > r->last || last < r->first)
		return false;
	*b = (max(iova, r->first) >> d->shift) - (r->first >> d->shift);
	*e = (min(last, r->last) >> d->shift) - (r->first >> d->shift);
	return true;
}

static int vdlog_read_and_clear(struct vfio_device *vdev, unsigned long iova,
				unsigned long length, struct iova_bitmap *dirty)
{
	struct vdlog *d = to_vdlog(vdev);
	u64 last = iova + length - 1;
	unsigned long b, e;
	u32 i;

	if (!length)
		return 0;
	mutex_lock(&d->lock);
	if (!d->ranges) {
		mutex_unlock(&d->lock);
		return -EINVAL;
	}
	for (i = 0; i < d->nranges; i++) {
		struct vdlog_range *r = &d->ranges[i];

		if (!vdlog_overlap(d, r, iova, last, &b, &e))
			continue;
		for_each_set_bit_from(b, r->bits, e + 1) {
			u64 pa = ((r->first >> d->shift) + b) << d->shift;
			u64 pz = min(pa + (1ULL << d->shift) - 1, r->last);
			u64 a = max3(pa, r->first, (u64)iova);
			u64 z = min(pz, last);

			iova_bitmap_set(dirty, a, z - a + 1);
			/* asked for only a part of the page: keep the rest */
			if (a == max(pa, r->first) && z == pz)
				clear_bit(b, r->bits);
		}
	}
	mutex_unlock(&d->lock);
	return 0;
}

static const struct vfio_log_ops vdlog_log_ops = {
	.log_start = vdlog_start,
	.log_stop = vdlog_stop,
	.log_read_and_clear = vdlog_read_and_clear,
};

static int vdlog_dma(struct vdlog *d, struct vdlog_cmd *c)
{
	u64 pos = c->iova, left = c->length;
	u8 buf[256];
	int ret = 0;

	memset(buf, c->fill, sizeof(buf));
	while (left && !ret) {
		size_t n = min_t(u64, left, sizeof(buf));

		ret = vfio_dma_rw(&d->vdev, pos, buf, n,
				  !(c->flags & VDLOG_READ));
		pos += n;
		left -= n;
	}
	return ret;
}

static ssize_t vdlog_write(struct vfio_device *vdev, const char __user *buf,
			   size_t count, loff_t *ppos)
{
	struct vdlog *d = to_vdlog(vdev);
	unsigned long b, e;
	struct vdlog_cmd c;
	u64 end;
	u32 i;
	int ret;

	if (*ppos || count != sizeof(c))
		return -EINVAL;
	if (copy_from_user(&c, buf, sizeof(c)))
		return -EFAULT;
	if (!c.length || check_add_overflow(c.iova, c.length - 1, &end))
		return -EINVAL;
	if (c.flags & VDLOG_DO_DMA) {
		ret = vdlog_dma(d, &c);
		if (ret)
			return ret;
	}
	mutex_lock(&d->lock);
	for (i = 0; !(c.flags & VDLOG_READ) && i < d->nranges; i++)
		if (vdlog_overlap(d, &d->ranges[i], c.iova, end, &b, &e))
			bitmap_set(d->ranges[i].bits, b, e - b + 1);
	mutex_unlock(&d->lock);
	return count;
}

static ssize_t vdlog_read(struct vfio_device *vdev, char __user *buf,
			  size_t count, loff_t *ppos)
{
	struct vdlog *d = to_vdlog(vdev);
	struct vdlog_status s = {};
	u32 i;

	if (*ppos || count != sizeof(s))
		return -EINVAL;
	mutex_lock(&d->lock);
	s.page_size = d->ranges ? 1ULL << d->shift : 0;
	s.nranges = d->nranges;
	for (i = 0; i < d->nranges; i++)
		s.dirty += bitmap_weight(d->ranges[i].bits, d->ranges[i].nbits);
	mutex_unlock(&d->lock);
	return copy_to_user(buf, &s, sizeof(s)) ? -EFAULT : count;
}

static int vdlog_region_info(struct vfio_device *vdev,
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 19, 0)
			     struct vfio_region_info *info,
			     struct vfio_info_cap *caps)
#else
			     struct vfio_region_info *info)
#endif
{
	if (info->index)
		return -EINVAL;
	info->flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
	info->offset = 0;
	info->size = 4096;
	return 0;
}

static long vdlog_ioctl(struct vfio_device *vdev, unsigned int cmd,
			unsigned long arg)
{
	struct vfio_device_info info = {};
	unsigned long minsz = offsetofend(struct vfio_device_info, num_irqs);

	if (cmd == VFIO_DEVICE_GET_INFO) {
		if (copy_from_user(&info, (void __user *)arg, minsz))
			return -EFAULT;
		if (info.argsz < minsz)
			return -EINVAL;
		info.flags = VFIO_DEVICE_FLAGS_PLATFORM;
		info.num_regions = 1;
		info.num_irqs = 0;
		return copy_to_user((void __user *)arg, &info, minsz) ? -EFAULT : 0;
	}
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 19, 0)
	if (cmd == VFIO_DEVICE_GET_REGION_INFO) {
		struct vfio_region_info r;
		int ret;

		minsz = offsetofend(struct vfio_region_info, offset);
		if (copy_from_user(&r, (void __user *)arg, minsz))
			return -EFAULT;
		if (r.argsz < minsz)
			return -EINVAL;
		ret = vdlog_region_info(vdev, &r);
		return ret ?: copy_to_user((void __user *)arg, &r, minsz) ? -EFAULT : 0;
	}
#endif
	return -ENOTTY;
}

static int vdlog_open(struct vfio_device *vdev)
{
	return 0;
}

static void vdlog_close(struct vfio_device *vdev)
{
	vdlog_stop(vdev);
}

static void vdlog_dma_unmap(struct vfio_device *vdev, u64 iova, u64 length)
{
}

static int vdlog_init(struct vfio_device *vdev)
{
	mutex_init(&to_vdlog(vdev)->lock);
	vdev->log_ops = &vdlog_log_ops;
	return 0;
}

static void vdlog_release(struct vfio_device *vdev)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 2, 0)
	vfio_free_device(vdev);
#endif
}

static const struct vfio_device_ops vdlog_ops = {
	.name = "vdlog",
	.init = vdlog_init,
	.release = vdlog_release,
	.open_device = vdlog_open,
	.close_device = vdlog_close,
	.read = vdlog_read,
	.write = vdlog_write,
	.ioctl = vdlog_ioctl,
	.dma_unmap = vdlog_dma_unmap,
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 19, 0)
	.get_region_info_caps = vdlog_region_info,
#endif
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
	.bind_iommufd = vfio_iommufd_emulated_bind,
	.unbind_iommufd = vfio_iommufd_emulated_unbind,
	.attach_ioas = vfio_iommufd_emulated_attach_ioas,
	.detach_ioas = vfio_iommufd_emulated_detach_ioas,
#endif
};

static int vdlog_probe(struct platform_device *pdev)
{
	struct vdlog *d = vfio_alloc_device(vdlog, vdev, &pdev->dev, &vdlog_ops);
	int ret;

	if (IS_ERR(d))
		return PTR_ERR(d);
	ret = vfio_register_emulated_iommu_dev(&d->vdev);
	if (ret) {
		vfio_put_device(&d->vdev);
		return ret;
	}
	platform_set_drvdata(pdev, d);
	return 0;
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 11, 0)
static void vdlog_remove(struct platform_device *pdev)
#else
static int vdlog_remove(struct platform_device *pdev)
#endif
{
	struct vdlog *d = platform_get_drvdata(pdev);

	vfio_unregister_group_dev(&d->vdev);
	vfio_put_device(&d->vdev);
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 11, 0)
	return 0;
#endif
}

static struct platform_driver vdlog_driver = {
	.probe = vdlog_probe,
	.remove = vdlog_remove,
	.driver = { .name = "vdlog" },
};

static void vdlog_del(uint n)
{
	while (n--)
		platform_device_unregister(pdevs[n]);
	platform_driver_unregister(&vdlog_driver);
	kfree(pdevs);
}

static int __init vdlog_mod_init(void)
{
	uint i;
	int ret;

	pdevs = kcalloc(ndev, sizeof(*pdevs), GFP_KERNEL);
	if (!pdevs)
		return -ENOMEM;
	ret = platform_driver_register(&vdlog_driver);
	if (ret) {
		kfree(pdevs);
		return ret;
	}
	for (i = 0; i < ndev; i++) {
		pdevs[i] = platform_device_register_simple("vdlog", i, NULL, 0);
		if (IS_ERR(pdevs[i])) {
			ret = PTR_ERR(pdevs[i]);
			vdlog_del(i);
			return ret;
		}
	}
	return 0;
}

static void __exit vdlog_mod_exit(void)
{
	vdlog_del(ndev);
}

module_init(vdlog_mod_init);
module_exit(vdlog_mod_exit);
MODULE_LICENSE("GPL v2");
MODULE_DESCRIPTION("VFIO test device with working DMA logging");
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 13, 0)
MODULE_IMPORT_NS("IOMMUFD");
#elif LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
MODULE_IMPORT_NS(IOMMUFD);
#endif
