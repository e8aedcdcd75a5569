/*
 * SET_IRQS gives eventfds to vectors in a row, as many as the receiver takes descriptors with one message, or takes them away from vectors
 * in a row. Example: eventfds a, b, none, c for a server that takes 16 descriptors are three messages: a and b, none, c.
 */

/** Cuts triggers into messages: each gives eventfds to all of its vectors, at most `maxFds`, or takes them all away. */
export function* triggerMessages(
  eventfds: readonly (number | undefined)[],
  maxFds: number,
): Iterable<{ offset: number; count: number; fds: number[] }> {
  for (let offset = 0; offset < eventfds.length; ) {
    const takesAway = eventfds[offset] === undefined;
    let end = offset + 1;
    while (end < eventfds.length && (eventfds[end] === undefined) === takesAway) {
      if (!takesAway && end - offset === maxFds) break;
      end++;
    }
    const fds = eventfds.slice(offset, end).filter(fd => fd !== undefined);
    yield { offset, count: end - offset, fds };
    offset = end;
  }
}
