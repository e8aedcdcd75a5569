/**
 * Status of a completed command: status code type in bits 10:8, status code in bits 7:0 (NVMe 1.4, section 4.6.1.2). Only those that this
 * controller answers.
 */
export const NvmeStatus = {
  SUCCESS: 0x000,
  INVALID_OPCODE: 0x001,
  INVALID_FIELD: 0x002,
  DATA_TRANSFER_ERROR: 0x004,
  INTERNAL_ERROR: 0x006,
  ABORT_REQUESTED: 0x007,
  INVALID_NAMESPACE: 0x00b,
  COMMAND_SEQUENCE_ERROR: 0x00c,
  INVALID_PRP_OFFSET: 0x013,
  NAMESPACE_WRITE_PROTECTED: 0x020,
  LBA_OUT_OF_RANGE: 0x080,
  CAPACITY_EXCEEDED: 0x081,
  COMPLETION_QUEUE_INVALID: 0x100,
  INVALID_QUEUE_ID: 0x101,
  INVALID_QUEUE_SIZE: 0x102,
  ASYNC_EVENT_LIMIT_EXCEEDED: 0x105,
  INVALID_INTERRUPT_VECTOR: 0x108,
  INVALID_LOG_PAGE: 0x109,
  INVALID_QUEUE_DELETION: 0x10c,
  FEATURE_NOT_SAVEABLE: 0x10d,
  FEATURE_NOT_CHANGEABLE: 0x10e,
  WRITE_FAULT: 0x280,
  UNRECOVERED_READ_ERROR: 0x281,
  COMPARE_FAILURE: 0x285,
} as const;

/** A value of {@link NvmeStatus}. */
export type NvmeStatus = (typeof NvmeStatus)[keyof typeof NvmeStatus];

/** Status field bit 13 (M): the error log has more about it. */
export const STATUS_MORE = 0x2000;
/** Status field bit 14 (DNR): the same command will fail again. */
export const STATUS_DO_NOT_RETRY = 0x4000;

/** What may go well the next time: all others fail again for as long as the command is the same. */
const RETRYABLE: ReadonlySet<NvmeStatus> = new Set([
  NvmeStatus.DATA_TRANSFER_ERROR,
  NvmeStatus.INTERNAL_ERROR,
  NvmeStatus.ABORT_REQUESTED,
  NvmeStatus.WRITE_FAULT,
  NvmeStatus.UNRECOVERED_READ_ERROR,
]);

/** Whether the same command may succeed later. */
export function isRetryable(status: NvmeStatus): boolean {
  return RETRYABLE.has(status);
}

/** The status's name, for people: `'LBA_OUT_OF_RANGE'`. */
export function statusName(status: number): string {
  const known = Object.entries(NvmeStatus).find(([, value]) => value === status);
  return known?.[0] ?? `0x${status.toString(16)}`;
}
