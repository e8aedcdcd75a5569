// What the parent asks of a child process, over Node's own channel between the two: see child.ts.

/** Serves the methods of `served` to the parent, and ends with it. */
export function serveCalls(served) {
  process.on('message', async ({ id, call, parameters }) => {
    try {
      process.send({ id, result: plain(await served[call](parameters)) });
    } catch (error) {
      process.send({ id, failure: error.stack });
    }
  });
  // Ctrl-C reaches the whole group: the parent decides.
  process.on('SIGINT', () => {});
  process.on('disconnect', () => process.exit(1));
  process.send({ event: 'ready' });
}

/** Errors lose their class on the channel: what the parent reads of them is kept. */
export function plain(value) {
  if (value instanceof Error) return { errno: value.errno, message: value.message };
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== 'object' || value === null || value.constructor !== Object) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plain(item)]));
}
