import type { DeviceHandle } from '../../device/index.js';
import type { Tracker } from '../../tracker/index.js';
import type { TlsIdentity } from '../link/tls-identity.js';
import type { MachineMemory } from '../memory/machine-memory.js';
import type { Ownership } from '../ownership/index.js';
import type { MigrationEvent } from './migration-report.js';
import type { PassOptions } from './pass-options.js';

/** What a migration moves, where to, and how. */
export interface MigrateOptions extends PassOptions {
  /** The destination's migration port. */
  to: { host: string; port: number };
  /** May change while it is moved, until the machine is stopped: {@link MachineMemory.add}, {@link MachineMemory.remove}. */
  memory: MachineMemory;
  /** In the order in which the destination has its own. All must be able to migrate. */
  devices: readonly DeviceHandle[];
  /** Who says which pages were written; default: the DMA log of every device. An empty list moves memory once, and loses what changes. */
  trackers?: readonly Tracker[];
  /**
   * `abort`: compare digests of all memory at the switch, and stay at the source when they differ. `report`: compare, and only say so. Both
   * keep the machine stopped while hashing. Default `off`.
   */
  verify?: 'off' | 'abort' | 'report';
  /** Whom to trust, and who this end is. Without it the destination must be on this host. */
  tls?: TlsIdentity;
  /**
   * How long the destination may be silent, or out of reach, milliseconds; default 60,000. A connection that is lost is made again meanwhile; while
   * the machine is stopped it is waited for no longer than twice the downtime limit, or a second. Where every attempt is refused, nobody listens
   * there any more, and a tenth of the time is enough.
   */
  timeoutMs?: number;
  /**
   * How many connections memory takes at a time, each with a thread at either end; 1 to 16. The destination may take fewer. Default 1: memory
   * takes the migration's own connection, in this thread.
   */
  connections?: number;
  /** Gives up, at once and in any phase: the machine then runs on at the source. Too late once the destination was told to run;
   * then it only ends the waiting for an ownership store that does not answer. */
  signal?: AbortSignal;
  /**
   * Where it is recorded who may run the machine, and who this side is. The destination must have the same store and machine. Without it the
   * source cannot know whose the machine is when the link breaks at the switch.
   */
  ownership?: Ownership;
  onEvent?: (event: MigrationEvent) => void;
}
