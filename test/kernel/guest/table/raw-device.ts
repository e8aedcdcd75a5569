import { closeSync, openSync } from 'node:fs';
import { basename } from 'node:path';
import { IommufdRequest } from '../../../../src/kernel/iommufd-abi.js';
import { VfioRequest } from '../../../../src/kernel/vfio-abi.js';
import { NativeBlock } from '../../../../src/native/index.js';
import { lastErrno, libc } from '../../../../src/native/libc.js';
import { errnoName } from '../../../../src/uapi/index.js';
import { cdevFile, groupFile } from '../devices.js';

/** What a call gave: the name of its errno, or its value, such as `'0'`. */
export type Outcome = string;

/** A device that is spoken to by bare calls, with any pointer one likes. */
export class RawDevice {
  readonly fd: number;
  readonly #fds: readonly number[];
  readonly #mapDma: (iova: number, address: number, length: number) => Outcome;

  private constructor(fd: number, fds: readonly number[], mapDma: RawDevice['mapDma']) {
    this.fd = fd;
    this.#fds = fds;
    this.#mapDma = mapDma;
  }

  /** Opens a device by its group, with type 1 v2. @param folder its folder in sysfs */
  static byGroup(folder: string): RawDevice {
    const container = openSync('/dev/vfio/vfio', 'r+');
    const group = openSync(groupFile(folder), 'r+');
    demand(call(group, VfioRequest.GROUP_SET_CONTAINER, words(container)));
    demand(call(container, VfioRequest.SET_IOMMU, 3));
    const name = NativeBlock.from(new TextEncoder().encode(`${basename(folder)}\0`));
    const fd = libc.ioctl(group, VfioRequest.GROUP_GET_DEVICE_FD, name.address);
    if (fd < 0) throw new Error(errnoName(lastErrno()));
    const mapDma = (iova: number, address: number, length: number) =>
      call(container, VfioRequest.IOMMU_MAP_DMA, words(32, 3, ...wide(address), ...wide(iova), ...wide(length)));
    return new RawDevice(fd, [fd, group, container], mapDma);
  }

  /** Opens a device by its character device, with an IOAS. @param folder its folder in sysfs */
  static byCdev(folder: string): RawDevice {
    const iommufd = openSync('/dev/iommu', 'r+');
    const fd = openSync(cdevFile(folder), 'r+');
    demand(call(fd, VfioRequest.DEVICE_BIND_IOMMUFD, words(16, 0, iommufd, 0)));
    const alloc = words(12, 0, 0);
    demand(call(iommufd, IommufdRequest.IOAS_ALLOC, alloc));
    const ioas = alloc.view.getUint32(8, true);
    demand(call(fd, VfioRequest.DEVICE_ATTACH_IOMMUFD_PT, words(12, 0, ioas)));
    const mapDma = (iova: number, address: number, length: number) =>
      call(iommufd, IommufdRequest.IOAS_MAP, words(40, 7, ioas, 0, ...wide(address), ...wide(length), ...wide(iova)));
    return new RawDevice(fd, [fd, iommufd], mapDma);
  }

  /** An ioctl of the device. */
  call(request: number, argument: number | NativeBlock): Outcome {
    return call(this.fd, request, argument);
  }

  /** The feature request with any pointer. */
  feature(address: number): Outcome {
    return call(this.fd, VfioRequest.DEVICE_FEATURE, address);
  }

  /** Maps memory of this process for the device. */
  mapDma(iova: number, address: number, length: number): Outcome {
    return this.#mapDma(iova, address, length);
  }

  close(): void {
    for (const fd of this.#fds) closeSync(fd);
  }
}

function call(fd: number, request: number, argument: number | NativeBlock): Outcome {
  const result = libc.ioctl(fd, request, typeof argument === 'number' ? argument : argument.address);
  return result < 0 ? errnoName(lastErrno()) : `${result}`;
}

function demand(outcome: Outcome): void {
  if (outcome !== '0') throw new Error(`a device could not be opened: ${outcome}`);
}

function words(...values: number[]): NativeBlock {
  return NativeBlock.from(new Uint8Array(Uint32Array.from(values).buffer));
}

function wide(value: number): [number, number] {
  return [value % 2 ** 32, Math.floor(value / 2 ** 32)];
}
