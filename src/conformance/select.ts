import { VfioError } from '../uapi/index.js';
import { type Check, checkGroups } from './check.js';

/**
 * The checks of these names and groups, in their own order; all of them without any.
 * @throws VfioError EINVAL for a name that none has
 */
export function selectChecks(checks: readonly Check[], only: readonly string[] | undefined): Check[] {
  const names: readonly string[] = only ?? [];
  for (const name of names) {
    if (checks.some(check => check.name === name || check.group === name)) continue;
    throw new VfioError('EINVAL', {
      operation: 'conform',
      field: 'only',
      message: `there is no check ${name}; groups are ${checkGroups.join(', ')}, and --list shows the checks`,
    });
  }
  if (names.length === 0) return [...checks];
  return checks.filter(({ name, group }) => names.includes(name) || names.includes(group));
}
