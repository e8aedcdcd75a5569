import { VfioError } from '../../uapi/index.js';
import { frameName } from './stream-format.js';

/** A frame that does not belong here. */
export function unexpected(type: number, due: string): VfioError {
  return new VfioError('EPROTO', {
    operation: 'migration stream',
    field: 'type',
    message: `${frameName(type)} came where ${due} was due`,
  });
}
