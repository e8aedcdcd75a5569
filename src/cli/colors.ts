import pc from 'picocolors';

/**
 * Colours for what goes to `stream`: on a terminal, and where `FORCE_COLOR` asks for them; never with `NO_COLOR`. The library alone looks at
 * standard output only, and colours files and pipes too where a variable `CI` is set.
 */
export function colorsFor(stream: { isTTY?: boolean }): ReturnType<typeof pc.createColors> {
  const { NO_COLOR, FORCE_COLOR, TERM } = process.env;
  const isTerminal = stream.isTTY === true && TERM !== 'dumb';
  return pc.createColors(!NO_COLOR && (isTerminal || Boolean(FORCE_COLOR)));
}
