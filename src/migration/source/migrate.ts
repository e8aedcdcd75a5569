import { VfioError } from '../../uapi/index.js';
import { MOST_LANES } from '../lane/lane-ports.js';
import type { MigrateOptions } from './migrate-options.js';
import type { MigrationReport } from './migration-report.js';
import { MigrationSource } from './migration-source.js';
import { checkPassOptions } from './pass-options.js';

/**
 * Moves a running machine: passes over its memory while it runs, until the rest fits the downtime limit or another rule ends them
 * ({@link MigrateOptions.onStall}); then it is stopped, the rest and the devices' states follow, and the destination runs it.
 *
 * The source gives the machine away with one word, GO, which it sends only after the destination has said that it has loaded everything.
 * Before GO every failure ends with the machine running at the source. After GO the source never runs it again, unless the destination
 * says that it has not taken it; or unless a record outside the two ends says so: see {@link MigrateOptions.ownership}, docs/ownership.md.
 *
 * Every device must be in state RUNNING. One that is not (a machine that was moved away already) is left as it is.
 *
 * @returns how it ended, whatever happens; only wrong arguments throw
 * @throws VfioError EINVAL for wrong arguments
 */
export async function migrate(options: MigrateOptions): Promise<MigrationReport> {
  const { connections = 1 } = options;
  if (!(Number.isInteger(connections) && connections >= 1 && connections <= MOST_LANES)) {
    throw new VfioError('EINVAL', { operation: 'migrate', field: 'connections', message: `${connections}` });
  }
  return new MigrationSource(options, checkPassOptions(options)).run();
}
