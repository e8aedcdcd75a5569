import { VfioError } from '../../uapi/index.js';
import { describeRecord } from '../ownership/index.js';
import type { Hello } from './stream-format.js';

/**
 * Whether two ends fit: the same stream version and page size, the same memory, as many devices with the same abilities, the same record of
 * the machine's owner.
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
  requireEqual('ownership', describeOwnership(ours), describeOwnership(theirs));
  if (ours.ownership === undefined || ours.ownership.self !== theirs.ownership?.self) return;
  throw new VfioError('EINVAL', {
    operation: 'HELLO',
    field: 'ownership',
    message: `both ends are called ${ours.ownership.self}`,
  });
}

/** Two ends with stores of their own would never agree at the switch: here they show, because every record has a mark of its own. */
function describeOwnership({ ownership }: Hello): string {
  if (ownership === undefined) return 'no ownership is asked for';
  const { record } = ownership;
  return record === undefined
    ? 'nobody is recorded'
    : `${record.machine} belongs to ${describeRecord(record)} (${record.change})`;
}

function requireEqual(field: string, ours: string | number, theirs: string | number): void {
  if (ours === theirs) return;
  throw new VfioError('EINVAL', { operation: 'HELLO', field, message: `here ${ours}, at the other end ${theirs}` });
}

function describeMemory({ memory }: Hello): string {
  return memory.map(({ iova, length }) => `0x${iova.toString(16)}+0x${length.toString(16)}`).join(' ');
}
