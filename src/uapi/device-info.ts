/* Numbers of linux/vfio.h that describe a device: what GET_INFO, GET_REGION_INFO, GET_IRQ_INFO and SET_IRQS speak of. */

/** Device flags of GET_INFO. */
export const DeviceFlag = { RESET: 1, PCI: 2 } as const;

/** Region indexes of a PCI device. */
export const PciRegion = { BAR0: 0, BAR1: 1, BAR2: 2, BAR3: 3, BAR4: 4, BAR5: 5, ROM: 6, CONFIG: 7, VGA: 8 } as const;
/** How many regions a PCI device has. */
export const PCI_NUM_REGIONS = 9;

/** Region flags of GET_REGION_INFO. */
export const RegionFlag = { READ: 1, WRITE: 2, MMAP: 4, CAPS: 8 } as const;

/** IRQ types of a PCI device. */
export const PciIrq = { INTX: 0, MSI: 1, MSIX: 2, ERR: 3, REQ: 4 } as const;
/** How many IRQ types a PCI device has. */
export const PCI_NUM_IRQS = 5;

/** IRQ flags of GET_IRQ_INFO. */
export const IrqFlag = { EVENTFD: 1, MASKABLE: 2, AUTOMASKED: 4, NORESIZE: 8 } as const;

/** SET_IRQS flags: what the data is (low three bits), and what is done with it. */
export const IrqSet = {
  DATA_NONE: 1,
  DATA_BOOL: 2,
  DATA_EVENTFD: 4,
  ACTION_MASK: 8,
  ACTION_UNMASK: 16,
  ACTION_TRIGGER: 32,
} as const;
