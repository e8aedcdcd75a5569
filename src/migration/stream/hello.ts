import { VfioError } from '../../uapi/index.js';
import { describeRecord } from '../ownership/index.js';
import { type Hello, STREAM_VERSIONS } from './stream-format.js';

/** Memory may come compressed: see lz4.ts. */
export const LZ4_FEATURE = 'lz4';

/** A source may come for a rehearsal only. */
export const REHEARSAL_FEATURE = 'rehearsal';

/** What this release can do beyond the version of its stream. A name that was once given out keeps its meaning. */
export const FEATURES: readonly string[] = [LZ4_FEATURE, REHEARSAL_FEATURE];

/** Most characters of what either end is that an error quotes. */
const MOST_WORDS = 500;

/** What this release says of itself in HELLO. */
export const OWN_PROTOCOL = { versions: STREAM_VERSIONS, features: FEATURES, requires: [] } satisfies Partial<Hello>;

/** What both ends can do. */
export interface Agreement {
  /** The version of the stream that they speak: the highest that both can. */
  version: number;
  features: ReadonlySet<string>;
}

/**
 * Whether two ends fit: a version of the stream that both speak, the features that either needs, the same page size, the same memory, as many
 * devices with the same abilities, the same record of the machine's owner.
 * @throws VfioError EPROTO for releases too far apart, naming the versions or features; EINVAL for another machine, saying what differs
 */
export function checkHello(ours: Hello, theirs: Hello): Agreement {
  const agreement = agreeOnProtocol(ours, theirs);
  requireSameMachine(ours, theirs);
  return agreement;
}

function agreeOnProtocol(ours: Hello, theirs: Hello): Agreement {
  const version = Math.min(ours.versions[1], theirs.versions[1]);
  if (version < Math.max(ours.versions[0], theirs.versions[0])) {
    const spoken = `versions ${theirs.versions.join(' to ')} of the migration stream, this one ${ours.versions.join(' to ')}`;
    throw tooFarApart('versions', `the other end speaks ${spoken}: ${olderOf(ours, theirs)} must be updated`);
  }
  const lacking = (needed: Hello, by: Hello) => needed.requires.filter(name => !by.features.includes(name));
  const theyNeed = lacking(theirs, ours);
  if (theyNeed.length > 0) {
    throw tooFarApart('features', `the other end needs ${theyNeed.join(', ')}, which this release of dmalog cannot do`);
  }
  const weNeed = lacking(ours, theirs);
  if (weNeed.length > 0) {
    throw tooFarApart('features', `the release of dmalog at the other end cannot do ${weNeed.join(', ')}, needed here`);
  }
  return { version, features: new Set(ours.features.filter(name => theirs.features.includes(name))) };
}

function olderOf(ours: Hello, theirs: Hello): string {
  return ours.versions[1] < theirs.versions[1] ? 'dmalog here' : 'dmalog at the other end';
}

function tooFarApart(field: string, message: string): VfioError {
  return new VfioError('EPROTO', { operation: 'HELLO', field, message });
}

function requireSameMachine(ours: Hello, theirs: Hello): void {
  requireEqual('pageSize', ours.pageSize, theirs.pageSize);
  requireEqual('memory', describeMemory(ours), describeMemory(theirs));
  requireEqual('devices', ours.devices.join(' '), theirs.devices.join(' '));
  requireEqual('ownership', describeOwnership(ours), describeOwnership(theirs));
  if (ours.ownership === undefined || ours.ownership.self !== theirs.ownership?.self) return;
  throw new VfioError('EINVAL', {
    operation: 'HELLO',
    field: 'ownership',
    message: `both ends are called ${ours.ownership.self}`,
  });
}

/** Two ends with stores of their own would never agree at the switch: here they show, because every record has a mark of its own. */
function describeOwnership({ ownership }: Hello): string {
  if (ownership === undefined) return 'no ownership is asked for';
  const { record } = ownership;
  return record === undefined
    ? 'nobody is recorded'
    : `${record.machine} belongs to ${describeRecord(record)} (${record.change})`;
}

function requireEqual(field: string, ours: string | number, theirs: string | number): void {
  if (ours === theirs) return;
  const message = `here ${shortened(ours)}, at the other end ${shortened(theirs)}`;
  throw new VfioError('EINVAL', { operation: 'HELLO', field, message });
}

/** What the other end says may be as long as a frame. */
function shortened(value: string | number): string {
  const text = `${value}`;
  return text.length <= MOST_WORDS ? text : `${text.slice(0, MOST_WORDS)}… (${text.length} characters)`;
}

function describeMemory({ memory }: Hello): string {
  return memory.map(({ iova, length }) => `0x${iova.toString(16)}+0x${length.toString(16)}`).join(' ');
}
