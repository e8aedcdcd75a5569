import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { FileOwnershipStore, type MigrationReport, type OwnershipRecord } from '../../../src/migration/index.js';
import { Authority } from '../certificates.js';
import { BadLink, type Rest } from './bad-link.js';
import type { Fault } from './cells.js';
import type { Child } from './child.js';
import type { TlsEnds } from './passage.js';
import { DEVICES, type Run } from './run.js';
import { type DeviceStatus, type Resources, type RunFiles, Side } from './side.js';

/** How much longer than its patience an end may take to end by itself, on a busy machine. */
const SLACK_MS = 15_000;
/** How long what is closed may take to be gone. */
const SETTLE_MS = 5000;
/** Descriptors that a host may have, when none are denied: no hard limit is lower. */
const FILES = 1024;
/** How often a link is cut that is cut again and again. */
const CUTS = 3;

/** What the owner of a machine says of it: see children/host.mjs. */
export interface Check {
  engines: { running: boolean; errno?: string; pagesWritten: number; checkErrors: number; bad: number }[];
  isUntouched: boolean;
}

/** What became of one side. */
export interface SideEnd {
  hostIsAlive: boolean;
  devices: (DeviceStatus | undefined)[];
  /** Only of the record's owner, if it has all that it needs to run. */
  check: Check | undefined;
  /** What is open now and was not before the run. */
  leftBehind: string[];
}

/** What is open at both sides, the source first. */
interface Open {
  hosts: Resources[];
  devices: (DeviceStatus | undefined)[][];
}

/** What became of a run. */
export interface RunEnd {
  /** The fault has come to pass. */
  hasStruck: boolean;
  record: OwnershipRecord | undefined;
  /** `undefined`: the source was killed. */
  report: MigrationReport | undefined;
  /** Why the destination did not receive, or `'received'`; `undefined`: it was killed. */
  received: string | undefined;
  source: SideEnd;
  destination: SideEnd;
  /** Files of the record's folder that do not belong there. */
  strangeFiles: string[];
}

/** Both sides, and all the runs that they play. */
export class World {
  readonly #folder: string;
  readonly #source: Side;
  readonly #destination: Side;
  readonly #tls: TlsEnds;
  #runs = 0;

  private constructor(folder: string) {
    this.#folder = folder;
    const authority = new Authority(name => join(folder, name), 'authority');
    this.#tls = { source: authority.identity('source'), destination: authority.identity('destination') };
    this.#source = new Side('source', folder);
    this.#destination = new Side('destination', folder);
  }

  static async open(): Promise<World> {
    return new World(await mkdtemp(join(tmpdir(), 'dmalog-matrix-')));
  }

  /** Ends all processes, whatever they are at. */
  async close(): Promise<void> {
    await Promise.all([this.#source.end(), this.#destination.end()]);
    await rm(this.#folder, { recursive: true, force: true });
  }

  /** Plays a run from a fresh machine at the source to its end. @throws Error for an end that does not come */
  async play(run: Run): Promise<RunEnd> {
    const folder = join(this.#folder, `run-${this.#runs++}`);
    const files: RunFiles = { folder, records: join(folder, 'records'), machine: `machine-${run.seed}` };
    mkdirSync(folder);
    await Promise.all([this.#source.mend(), this.#destination.mend()]);
    const sides = { source: this.#source, destination: this.#destination };
    const played = await new Play({ run, files, sides, tls: run.hasTls ? this.#tls : undefined }).play();
    rmSync(folder, { recursive: true, force: true });
    return played;
  }
}

/** What a {@link Play} is made of. */
interface PlayOptions {
  run: Run;
  files: RunFiles;
  sides: { source: Side; destination: Side };
  tls: TlsEnds | undefined;
}

class Play {
  readonly #run: Run;
  readonly #files: RunFiles;
  readonly #source: Side;
  readonly #destination: Side;
  readonly #tls: TlsEnds | undefined;
  #link!: BadLink;
  #hasStruck = false;
  /** What ends by itself. */
  readonly #passing: Promise<void>[] = [];
  /** What is put right when everything has ended. */
  readonly #repairs: (() => void | Promise<void>)[] = [];

  constructor({ run, files, sides: { source, destination }, tls }: PlayOptions) {
    this.#run = run;
    this.#files = files;
    this.#tls = tls;
    this.#source = source;
    this.#destination = destination;
  }

  async play(): Promise<RunEnd> {
    await this.#prepare();
    const before = await this.#open();
    await this.#listen();
    const receiving = call<string>(this.#destination.host, 'received');
    const report = await this.#inTime('the source', this.#migrate());
    const received = await this.#endOf(receiving);
    if (this.#run.instant.at === 'end') await this.#strike();
    await Promise.all(this.#passing);
    await this.#link.close();
    await call(this.#destination.host, 'stopListening');
    for (const repair of this.#repairs) await repair();
    return this.#look(report, received, before);
  }

  async #prepare(): Promise<void> {
    const { seed } = this.#run;
    for (const side of [this.#source, this.#destination]) for (const child of side.children) child.onEvent = () => {};
    await this.#source.begin(this.#files, this.#destination, false);
    await this.#destination.begin(this.#files, this.#source, false);
    await Promise.all([
      this.#source.host.call('prepare', { seed }),
      this.#destination.host.call('prepare', { seed: ~seed }),
    ]);
    await this.#source.begin(this.#files, this.#destination, true);
    await this.#source.host.call('start', { ownership: this.#source.ownership(this.#files), seed });
  }

  async #listen(): Promise<void> {
    const { instant, timeoutMs } = this.#run;
    const { host } = this.#destination;
    host.onEvent = event => void (event === 'gate' ? this.#strikeAtGate() : this.#note());
    const port = await host.call<number>('listen', {
      ownership: this.#destination.ownership(this.#files),
      timeoutMs,
      tls: this.#tls?.destination,
      gate: instant.at === 'gate' ? instant.gate : undefined,
      fault: instant.at === 'device' && instant.side === 'destination' ? instant.fault : undefined,
    });
    this.#link = await BadLink.open({ to: port, tls: this.#tls, instant, strike: () => this.#strike() });
  }

  #migrate(): Promise<MigrationReport | undefined> {
    const { instant, passes, timeoutMs, connections } = this.#run;
    this.#source.host.onEvent = () => this.#note();
    return call<MigrationReport>(this.#source.host, 'migrate', {
      port: this.#link.port,
      ownership: this.#source.ownership(this.#files),
      passes,
      timeoutMs,
      connections,
      tls: this.#tls?.source,
      fault: instant.at === 'device' && instant.side === 'source' ? instant.fault : undefined,
    });
  }

  /**
   * A destination that has agreed ends by itself; one that no source has reached waits for the next. While they agree nobody can tell from
   * outside which of the two it is.
   */
  async #endOf(receiving: Promise<string | undefined>): Promise<string | undefined> {
    const endsByItself = this.#link.hasAgreed && this.#run.cell.phase !== 'connect';
    if (!endsByItself) await call(this.#destination.host, 'stopListening');
    return this.#inTime('the destination', receiving);
  }

  async #inTime<T>(who: string, work: Promise<T>): Promise<T> {
    const ms = this.#run.timeoutMs + SLACK_MS;
    const controller = new AbortController();
    const late = delay(ms, undefined, { signal: controller.signal }).then(() => {
      throw new Error(`${who} does not end within ${ms} ms`);
    });
    late.catch(() => {});
    try {
      return await Promise.race([work, late]);
    } finally {
      controller.abort();
    }
  }

  #note(): void {
    this.#hasStruck = true;
  }

  async #strikeAtGate(): Promise<void> {
    await this.#strike();
    await call(this.#destination.host, 'openGate');
  }

  async #strike(): Promise<Rest> {
    this.#note();
    const { fault } = this.#run.cell;
    await this.#strikes[fault]?.();
    return fault.startsWith('corrupt') ? 'one-bit-wrong' : 'as-it-is';
  }

  /** Of a device's own faults nothing is to be done here. */
  readonly #strikes: Partial<Record<Fault, () => void | Promise<void>>> = {
    'kill-source': () => this.#source.host.kill(),
    'kill-destination': () => this.#destination.host.kill(),
    'kill-source-device': () => this.#source.devices[this.#run.device]!.kill(),
    'kill-destination-device': () => this.#destination.devices[this.#run.device]!.kill(),
    'freeze-source': () => this.#freeze(this.#source.host),
    'freeze-destination': () => this.#freeze(this.#destination.host),
    'freeze-device': () => this.#freeze(this.#side.devices[this.#run.device]!),
    'cut-once': () => (this.#run.cuts === 'all' ? this.#link.cut() : this.#link.cutStruck()),
    'cut-repeatedly': () => this.#link.cutAgain(CUTS),
    'cut-for-good': () => this.#link.close(),
    stall: () => this.#link.hold(delay(this.#run.lastsMs)),
    'slow-link': () => this.#link.slowDown(),
    'store-unreachable': () => this.#takeStoreAway(),
    'disk-full': () => this.#fillDisk(),
    'no-descriptors': () => this.#denyDescriptors(),
    'no-memory': () => this.#denyMemory(),
  };

  get #side(): Side {
    return this.#run.side === 'source' ? this.#source : this.#destination;
  }

  #freeze(child: Child): void {
    child.freeze();
    this.#passing.push(delay(this.#run.lastsMs).then(() => child.thaw()));
  }

  /** A file where the folder was. */
  #takeStoreAway(): void {
    const { records } = this.#files;
    renameSync(records, `${records}.away`);
    writeFileSync(records, '');
    this.#repairs.push(() => {
      rmSync(records);
      renameSync(`${records}.away`, records);
    });
  }

  /** The destination can write nothing to any file. */
  async #fillDisk(): Promise<void> {
    const { host } = this.#destination;
    await host.limit('fsize', 0);
    this.#repairs.push(() => host.limit('fsize', 'unlimited'));
  }

  /** The destination can open nothing more. */
  async #denyDescriptors(): Promise<void> {
    const { host } = this.#destination;
    await host.limit('nofile', 0);
    this.#repairs.push(() => host.limit('nofile', FILES));
  }

  /** The destination gets no more address space than it has. */
  async #denyMemory(): Promise<void> {
    const { host } = this.#destination;
    this.#destination.spoilHost();
    host.silence();
    if (!host.isAlive) return;
    const [pages] = readFileSync(`/proc/${host.pid}/statm`, 'utf8').split(' ');
    await host.limit('as', Number(pages) * 4096);
    this.#repairs.push(() => host.limit('as', 'unlimited'));
  }

  async #open(): Promise<Open> {
    const sides = [this.#source, this.#destination];
    const hosts = await Promise.all(sides.map(side => side.resources()));
    const devices = await Promise.all(sides.map(side => side.status()));
    return { hosts, devices };
  }

  async #look(report: MigrationReport | undefined, received: string | undefined, before: Open): Promise<RunEnd> {
    const record = await new FileOwnershipStore(this.#files.records).read(this.#files.machine);
    const [ofSource, ofDestination] = await this.#leftBehind(before);
    const known = [`${this.#files.machine}.json`, `${this.#files.machine}.lock`, `${this.#files.machine}.new`];
    return {
      hasStruck: this.#hasStruck,
      record,
      report,
      received,
      source: await this.#endOfSide(this.#source, record, ofSource!),
      destination: await this.#endOfSide(this.#destination, record, ofDestination!),
      strangeFiles: readdirSync(this.#files.records).filter(name => !known.includes(name)),
    };
  }

  async #endOfSide(side: Side, record: OwnershipRecord | undefined, leftBehind: string[]): Promise<SideEnd> {
    const devices = await side.status();
    const isWhole = side.host.isAlive && devices.every(device => device?.runs);
    const owns = record?.owner === side.name && isWhole;
    const check = owns ? await side.host.call<Check>('check', { seed: this.#run.seed }) : undefined;
    return { hostIsAlive: side.host.isAlive, devices, check, leftBehind };
  }

  /** What is still open when it had time to close. */
  async #leftBehind(before: Open): Promise<string[][]> {
    const deadline = performance.now() + SETTLE_MS;
    while (true) {
      const now = await this.#open();
      const left = now.hosts.map((host, side) => [
        ...grown(before.hosts[side]!, host),
        ...Array.from({ length: DEVICES }, (_, device) =>
          grown(before.devices[side]![device]?.open ?? {}, now.devices[side]![device]?.open ?? {}).map(
            what => `device ${device}: ${what}`,
          ),
        ).flat(),
      ]);
      if (left.every(side => side.length === 0) || performance.now() > deadline) return left;
      await delay(5);
    }
  }
}

function grown(before: Resources, now: Resources): string[] {
  return Object.entries(now)
    .filter(([kind, count]) => count > (before[kind] ?? 0))
    .map(([kind, count]) => `${count} ${kind}, were ${before[kind] ?? 0}`);
}

/** `undefined` when the process was killed meanwhile. @throws Error what the call throws there */
async function call<Result>(child: Child, name: string, parameters?: unknown): Promise<Result | undefined> {
  try {
    return await child.call<Result>(name, parameters);
  } catch (error) {
    if (!child.isAlive) return undefined;
    throw error;
  }
}
