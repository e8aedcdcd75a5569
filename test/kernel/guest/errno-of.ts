/** The errno of an error of Node's or of ours, by name. */
export function errnoOf(error: unknown): string {
  const { code, errno } = error as { code?: string; errno?: unknown };
  return typeof errno === 'string' ? errno : (code ?? String(error));
}
