import { MigrationState } from '../../../src/uapi/index.js';
import type { Place } from './cells.js';
import type { RunEnd, SideEnd } from './play.js';
import type { Run } from './run.js';

/** Where the machine is: with its owner by the record, if that one has all that it takes. */
export function placeOf({ record, source, destination }: RunEnd): Place | undefined {
  if (record?.owner !== 'source' && record?.owner !== 'destination') return undefined;
  const owner = record.owner === 'source' ? source : destination;
  return runsWhole(owner) ? record.owner : 'lost';
}

function runsWhole({ hostIsAlive, devices }: SideEnd): boolean {
  return hostIsAlive && devices.every(device => device?.runs);
}

/** Everything that is not as it must be at the end of a run; nothing: it has ended well. */
export function complaintsAbout(run: Run, end: RunEnd): string[] {
  const place = placeOf(end);
  const complaints: string[] = [];
  const demand = (so: boolean, words: string) => {
    if (!so) complaints.push(words);
  };
  demand(end.hasStruck, 'the fault has not come to pass');
  demand(place !== undefined, `nobody owns the machine: ${JSON.stringify(end.record)}`);
  demand(
    place === undefined || run.places.includes(place),
    `the machine ended at ${place}, not at ${run.places.join(' or ')}`,
  );
  demand(runsOnce(end), 'two sides ran the machine at the same time');
  demand(end.record?.owner === 'source' || !someRun(end.source), 'the source runs a machine that is not its own');
  demand(
    end.record?.owner !== 'source' || !someRun(end.destination),
    'the destination runs a machine that is not its own',
  );
  demand(saysTheTruth(end, place), `the source reports it at ${end.report?.runningAt}; it is at ${place}`);
  if (place === 'source' || place === 'destination') complaints.push(...complaintsAboutMachine(end[place]));
  if (place === 'source') complaints.push(...complaintsAboutStaying(end.source));
  if (place === 'destination') demand(end.source.devices.every(stopsLogging(end)), 'a log still runs at the source');
  if (end.record?.owner === 'source') complaints.push(...complaintsAboutBlank(end.destination));
  complaints.push(...end.strangeFiles.map(file => `${file} lies in the record's folder`));
  for (const name of ['source', 'destination'] as const) {
    complaints.push(...end[name].leftBehind.map(what => `left behind at the ${name}: ${what}`));
  }
  return complaints;
}

function runsOnce({ source, destination }: RunEnd): boolean {
  return [...source.devices, ...destination.devices].every(device => device?.ranTwice !== true);
}

function someRun({ devices }: SideEnd): boolean {
  return devices.some(device => device?.runs);
}

function stopsLogging({ source }: RunEnd) {
  return (device: SideEnd['devices'][number]) => !source.hostIsAlive || device?.logging !== true;
}

function saysTheTruth({ report, record }: RunEnd, place: Place | undefined): boolean {
  if (report === undefined) return true;
  const { runningAt } = report;
  if (place !== 'lost') return runningAt === place;
  return record?.owner === 'source' ? runningAt === 'nowhere' : runningAt === 'destination' || runningAt === 'unknown';
}

/** What the machine has in its memory, where it runs. */
function complaintsAboutMachine({ check }: SideEnd): string[] {
  if (check === undefined) return ['its memory could not be checked'];
  const complaints = check.isUntouched ? [] : ['memory that nobody writes has changed'];
  for (const [index, { running, errno, pagesWritten, checkErrors, bad }] of check.engines.entries()) {
    const isWell = running && errno === undefined && pagesWritten > 0 && checkErrors === 0 && bad === 0;
    if (!isWell) complaints.push(`engine ${index}: ${JSON.stringify(check.engines[index])}`);
  }
  return complaints;
}

function complaintsAboutStaying({ devices }: SideEnd): string[] {
  return devices.flatMap((device, index) => [
    ...(device?.state === MigrationState.RUNNING ? [] : [`source device ${index} is in state ${device?.state}`]),
    ...(device?.logging ? [`source device ${index} still logs`] : []),
  ]);
}

/** A destination that did not get the machine is as it was before. */
function complaintsAboutBlank({ hostIsAlive, devices }: SideEnd): string[] {
  if (!hostIsAlive) return [];
  return devices.flatMap((device, index) =>
    device === undefined || device.state === MigrationState.RUNNING
      ? []
      : [`destination device ${index} is in state ${device.state}`],
  );
}
