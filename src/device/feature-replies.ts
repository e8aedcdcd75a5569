import {
  bitmapBytes,
  decodeFeatureRequest,
  decodeReportInline,
  featureName,
  isPowerOfTwo,
  type LoggingReport,
  type Profile,
  REPORT_INLINE_SIZE,
  requireBytes,
  understand,
  VfioError,
  viewOf,
} from '../uapi/index.js';

/*
 * What a device answers to feature requests, as the host reads it. A device is a stranger: an answer that does not say what was asked for is
 * EPROTO, never a guess.
 */

/** The data of a reply, behind its header. @throws VfioError EPROTO for a reply that is no feature's, or another one's */
export function replyData(reply: Uint8Array, profile: Profile, index: number): Uint8Array {
  const operation = featureName(profile, index);
  const { index: answered, data } = understand(operation, () => decodeFeatureRequest(reply));
  if (answered === index) return data;
  throw new VfioError('EPROTO', { operation, message: `the reply is of feature ${answered}` });
}

/**
 * The page size that START's answer begins with, in every profile; some peers answer no more than that.
 * @throws VfioError EPROTO when it is not there, or no power of two
 */
export function startedPageSize(data: Uint8Array): bigint {
  const operation = 'DMA_LOGGING_START';
  understand(operation, () => requireBytes(data, 8, operation));
  const pageSize = viewOf(data).getBigUint64(0, true);
  if (isPowerOfTwo(pageSize)) return pageSize;
  throw new VfioError('EPROTO', { operation, field: 'page_size', message: `${pageSize} is no power of two` });
}

/**
 * The bitmap behind REPORT's structure, whole.
 * @throws VfioError EPROTO when it is not the one asked for: a success that says nothing, taken for "no page is dirty", would lose pages
 */
export function reportBitmap(data: Uint8Array, asked: LoggingReport): Uint8Array {
  const operation = 'DMA_LOGGING_REPORT';
  const echoed = understand(operation, () => decodeReportInline(data));
  const size = Number(bitmapBytes(asked.length, asked.pageSize));
  const bitmap = data.subarray(REPORT_INLINE_SIZE, REPORT_INLINE_SIZE + size);
  if (bitmap.length === size && echoed.iova === asked.iova && echoed.pageSize === asked.pageSize) return bitmap;
  const message = `the reply has ${data.length - REPORT_INLINE_SIZE} bytes of bitmap for ${size}, from 0x${echoed.iova.toString(16)} on`;
  throw new VfioError('EPROTO', { operation, field: 'bitmap', message });
}
