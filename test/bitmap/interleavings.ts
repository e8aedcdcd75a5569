/**
 * Every state that actors can reach who take their steps in any order, from `initial` on. `actors` give the states that one
 * step of theirs leads to: none when they wait or are done. Returns the states in which nobody has a step left.
 */
export function everyEnd<State>(
  initial: State,
  actors: ((state: State) => State[])[],
): { ends: State[]; states: number } {
  const seen = new Set<string>([JSON.stringify(initial)]);
  const open = [initial];
  const ends: State[] = [];
  for (let state = open.pop(); state !== undefined; state = open.pop()) {
    const here = state;
    const next = actors.flatMap(actor => actor(here));
    if (next.length === 0) ends.push(here);
    for (const following of next) {
      const name = JSON.stringify(following);
      if (seen.has(name)) continue;
      seen.add(name);
      open.push(following);
    }
  }
  return { ends, states: seen.size };
}
