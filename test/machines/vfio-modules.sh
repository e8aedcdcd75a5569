# Sourced. Linux 6.12's own VFIO and iommufd, as modules for a kernel whose configuration leaves iommufd and VFIO's character device out.

# linux_source ROOT VERSION PATHS...: these files and folders of Debian's source of a kernel, in ROOT/source. ROOT holds xz-utils.
linux_source() {
  local root=$1 name=linux-source-$2
  shift 2
  (cd "$root" && debian_download "$name")
  mkdir "$root/source"
  dpkg-deb --fsys-tarfile "$root/$name"_*.deb | tar -xO "./usr/src/$name.tar.xz" | run_program "$root" usr/bin/xz -dc -T0 |
    tar -x -C "$root/source" --no-same-owner --strip-components=1 "${@/#/$name/}"
  rm "$root/$name"_*.deb
}

# vfio_sources SOURCE BUILD: the sources of the modules and their Kbuild file; vdlog.c has to be added.
vfio_sources() {
  local source=$1 build=$2
  mkdir -p "$build"/{iommufd,mdev,pci}
  cp "$source"/drivers/vfio/{vfio_main,group,container,device_cdev,virqfd,vfio_iommu_type1}.c "$source/drivers/vfio/vfio.h" "$build/"
  # A module iommufd.o is made here as well.
  cp "$source/drivers/vfio/iommufd.c" "$build/vfio_iommufd.c"
  cp "$source"/drivers/vfio/mdev/*.[ch] "$build/mdev/"
  cp "$source"/drivers/vfio/pci/*.[ch] "$build/pci/"
  cp "$source"/drivers/iommu/iommufd/*.[ch] "$source/drivers/iommu/iommu-priv.h" "$build/iommufd/"
  cp "$source/samples/vfio-mdev/mtty.c" "$build/"
  sed -i 's|"../iommu-priv.h"|"iommu-priv.h"|' "$build"/iommufd/*.[ch]
  # The span iterator is in a kernel only where iommufd is: this is a copy of it.
  {
    printf '#include <linux/%s.h>\n' interval_tree export
    sed -n '/^#ifdef CONFIG_INTERVAL_TREE_SPAN_ITER/,$p' "$source/lib/interval_tree.c"
  } > "$build/iommufd/span.c"
  cat > "$build/Kbuild" <<'K'
ccflags-y += -DCONFIG_IOMMUFD_MODULE=1 -DCONFIG_IOMMUFD_DRIVER=1 -DCONFIG_VFIO_DEVICE_CDEV=1 -DCONFIG_INTERVAL_TREE_SPAN_ITER=1 -Wno-error
obj-m := iommufd.o vfio.o vfio_iommu_type1.o vfio-pci-core.o vfio-pci.o mdev.o mtty.o vdlog.o
iommufd-y := $(addprefix iommufd/,device.o fault.o hw_pagetable.o io_pagetable.o ioas.o main.o pages.o vfio_compat.o span.o iova_bitmap.o)
vfio-y := vfio_main.o device_cdev.o group.o vfio_iommufd.o container.o virqfd.o
vfio-pci-core-y := $(addprefix pci/,vfio_pci_core.o vfio_pci_intrs.o vfio_pci_rdwr.o vfio_pci_config.o)
vfio-pci-y := pci/vfio_pci.o pci/vfio_pci_igd.o
mdev-y := $(addprefix mdev/,mdev_core.o mdev_sysfs.o mdev_driver.o)
K
}
