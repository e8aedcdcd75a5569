import type { Duplex } from 'node:stream';
import { asVfioError, VfioError } from '../../uapi/index.js';
import { checkPayload, decodeFrameHeader, FRAME_HEADER_SIZE, isSequenced } from '../stream/stream-format.js';

/** What a connection begins with. */
export interface FirstFrame {
  type: number;
  /** Of a frame without a sequence. Others are left in the connection, for the channel that it begins. */
  payload: Uint8Array;
}

/**
 * Finds out what a connection is for. Everything but that one frame, and a frame with a sequence as well, is left in it, and it is paused.
 * @throws VfioError ETIMEDOUT, ECONNRESET, EBADMSG, EPROTO, EMSGSIZE: it is of no use
 */
export function readFirstFrame(socket: Duplex, timeoutMs: number): Promise<FirstFrame> {
  return new Promise((resolve, reject) => {
    let bytes = Buffer.alloc(0);
    const settle = (end: () => void) => {
      clearTimeout(deadline);
      socket.pause();
      socket.off('data', onData).off('close', onClose).off('end', onClose).off('error', onError);
      // Whoever takes it over listens for errors; until then one must not end the process.
      socket.on('error', () => {});
      end();
    };
    const onError = (error: unknown) => settle(() => reject(asVfioError(error, 'migration stream', 'ECONNRESET')));
    const onClose = () =>
      onError(new VfioError('ECONNRESET', { operation: 'migration stream', message: 'it was closed' }));
    const onData = (piece: Buffer) => {
      bytes = Buffer.concat([bytes, piece]);
      try {
        const found = firstFrameOf(bytes);
        if (found === undefined) return;
        settle(() => {
          if (found.size < bytes.length) socket.unshift(bytes.subarray(found.size));
          resolve(found.frame);
        });
      } catch (error) {
        onError(error);
      }
    };
    const deadline = setTimeout(
      () =>
        onError(
          new VfioError('ETIMEDOUT', { operation: 'migration stream', message: `nothing came for ${timeoutMs} ms` }),
        ),
      timeoutMs,
    );
    socket.on('data', onData).on('close', onClose).on('end', onClose).on('error', onError);
    if (socket.destroyed) onClose();
  });
}

function firstFrameOf(bytes: Uint8Array): { frame: FirstFrame; size: number } | undefined {
  if (bytes.length < FRAME_HEADER_SIZE) return undefined;
  const header = decodeFrameHeader(bytes.subarray(0, FRAME_HEADER_SIZE), 0);
  if (isSequenced(header.type)) return { frame: { type: header.type, payload: new Uint8Array(0) }, size: 0 };
  const size = FRAME_HEADER_SIZE + header.length;
  if (bytes.length < size) return undefined;
  const payload = Uint8Array.from(bytes.subarray(FRAME_HEADER_SIZE, size));
  checkPayload(header, payload);
  return { frame: { type: header.type, payload }, size };
}
