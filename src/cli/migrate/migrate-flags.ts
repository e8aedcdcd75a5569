import type { MigrateOptions } from '../../migration/index.js';
import type { Address } from '../arguments.js';
import type { MachineFlags } from '../machine/machine-options.js';

/** What `dmalog migrate` is told. Times are milliseconds, sizes bytes. */
export interface MigrateFlags extends MachineFlags {
  to?: Address;
  tlsName?: string;
  beside?: boolean;
  downtimeLimit: number;
  maxPasses?: number;
  maxTime?: number;
  maxBytes?: number;
  bandwidth?: number;
  onStall: NonNullable<MigrateOptions['onStall']>;
  compression: NonNullable<MigrateOptions['compression']>;
  verify: NonNullable<MigrateOptions['verify']>;
  dryRun?: boolean;
}

/** What is wrong with them together, if something is. */
export function wrongMigrate({ to, bandwidth, dryRun, tlsName, tlsCa }: MigrateFlags): string | undefined {
  if (to === undefined && !dryRun) return "required option '--to <host:port>' not specified";
  if (to === undefined && bandwidth === undefined)
    return '--dry-run needs a link: --to <host:port>, or --bandwidth <size>';
  if (tlsName !== undefined && tlsCa === undefined) return '--tls-name goes with --tls-ca, --tls-cert and --tls-key';
  return undefined;
}
