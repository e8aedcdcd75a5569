import { VfioError } from '../uapi/index.js';
import type { Hello } from './stream-format.js';

/**
 * Whether two ends fit: the same stream version and page size, the same memory, as many devices with the same abilities.
 * @throws VfioError EPROTO for another version; EINVAL for another machine, saying what differs
 */
export function checkHello(ours: Hello, theirs: Hello): void {
  if (theirs.version !== ours.version) {
    throw new VfioError('EPROTO', {
      operation: 'HELLO',
      field: 'version',
      message: `the other end speaks version ${theirs.version} of the migration stream, this one ${ours.version}`,
    });
  }
  requireEqual('pageSize', ours.pageSize, theirs.pageSize);
  requireEqual('memory', describeMemory(ours), describeMemory(theirs));
  requireEqual('devices', ours.devices.join(' '), theirs.devices.join(' '));
}

function requireEqual(field: string, ours: string | number, theirs: string | number): void {
  if (ours === theirs) return;
  throw new VfioError('EINVAL', { operation: 'HELLO', field, message: `here ${ours}, at the other end ${theirs}` });
}

function describeMemory({ memory }: Hello): string {
  return memory.map(({ iova, length }) => `0x${iova.toString(16)}+0x${length.toString(16)}`).join(' ');
}
