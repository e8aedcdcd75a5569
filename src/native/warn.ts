/** Tells of an error that nobody waits for: a process warning, which ends nothing. */
export function warn(error: unknown): void {
  process.emitWarning(error instanceof Error ? error : String(error));
}
