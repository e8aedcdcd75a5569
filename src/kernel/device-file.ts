import { openSync } from 'node:fs';
import { OwnedFd } from '../native/index.js';
import { type DeviceFile, explainOpen, fileOf } from './diagnosis.js';

/** Opens a device file to be read and written, close-on-exec. @throws VfioError that says why not, and what helps */
export function openDeviceFile(file: DeviceFile): OwnedFd {
  try {
    return new OwnedFd(openSync(fileOf(file.path, file.roots), 'r+'));
  } catch (error) {
    throw explainOpen(error, file);
  }
}
