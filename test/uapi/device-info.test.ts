import { expect, test } from 'vitest';
import {
  DeviceFlag,
  IrqFlag,
  IrqSet,
  PCI_NUM_IRQS,
  PCI_NUM_REGIONS,
  PciIrq,
  PciRegion,
  RegionFlag,
} from '../../src/uapi/index.js';

test('a PCI device has the 9 regions and 5 irq types of linux/vfio.h, in its order', () => {
  expect(Object.keys(PciRegion)).toEqual(['BAR0', 'BAR1', 'BAR2', 'BAR3', 'BAR4', 'BAR5', 'ROM', 'CONFIG', 'VGA']);
  expect(Object.values(PciRegion)).toEqual([...Array(PCI_NUM_REGIONS).keys()]);
  expect(Object.keys(PciIrq)).toEqual(['INTX', 'MSI', 'MSIX', 'ERR', 'REQ']);
  expect(Object.values(PciIrq)).toEqual([...Array(PCI_NUM_IRQS).keys()]);
});

test('flags are single bits from bit 0 on, in the order of linux/vfio.h', () => {
  for (const flags of [DeviceFlag, RegionFlag, IrqFlag, IrqSet]) {
    expect(Object.values(flags)).toEqual(Object.keys(flags).map((_, bit) => 2 ** bit));
  }
  expect(Object.keys(IrqSet)).toEqual([
    'DATA_NONE',
    'DATA_BOOL',
    'DATA_EVENTFD',
    'ACTION_MASK',
    'ACTION_UNMASK',
    'ACTION_TRIGGER',
  ]);
  expect(Object.keys(RegionFlag)).toEqual(['READ', 'WRITE', 'MMAP', 'CAPS']);
});
