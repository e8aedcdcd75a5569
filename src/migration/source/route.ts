import { asVfioError, VfioError } from '../../uapi/index.js';
import { decodeLanePorts, lanesOf } from '../lane/lane-ports.js';
import type { TlsIdentity } from '../link/tls-identity.js';
import type { MachineMemory } from '../memory/machine-memory.js';
import { LZ4_FEATURE } from '../stream/hello.js';
import type { Compression } from '../stream/memory-encoder.js';
import { FrameType, type Hello } from '../stream/stream-format.js';
import { ControlLane } from './control-lane.js';
import type { Interruption } from './interruption.js';
import type { MemoryLane } from './memory-lane.js';
import { MemoryLanes } from './memory-lanes.js';
import type { MigrationEvent } from './migration-report.js';
import { SourceLink } from './source-link.js';

/** What a {@link Route} is made of. */
export interface RouteOptions {
  to: { host: string; port: number };
  tls: TlsIdentity | undefined;
  timeoutMs: number | undefined;
  compression: Compression | undefined;
  interruption: Interruption;
  onLinkEvent: (event: MigrationEvent) => void;
}

/** The way to the destination: the migration's own connection, and those that memory takes beside it. */
export class Route {
  readonly link: SourceLink;
  readonly #options: RouteOptions;
  #lanes: MemoryLanes | undefined;
  #lane: MemoryLane | undefined;

  constructor(options: RouteOptions) {
    const { to, tls, timeoutMs, interruption, onLinkEvent } = options;
    this.#options = options;
    this.link = new SourceLink({ to, tls, timeoutMs, interruption, onLinkEvent });
  }

  /**
   * Connects, agrees with the destination, and opens as many lanes as both ends want.
   * @param memory what `ours` says
   * @returns what the destination said
   * @throws VfioError as {@link SourceLink.connect}, {@link SourceLink.agree}, {@link MemoryLanes.joined}
   */
  async open(ours: Hello, memory: MachineMemory): Promise<Hello> {
    await this.link.connect();
    const theirs = await this.link.agree(ours);
    const lanes = lanesOf(ours.connections ?? 1, theirs.connections);
    if (lanes > 0) await this.#openLanes(theirs, memory, lanes);
    this.#lane = this.#lanes ?? new ControlLane(memory, this.link, this.#compression);
    return theirs;
  }

  async #openLanes(theirs: Hello, memory: MachineMemory, agreed: number): Promise<void> {
    const { to, tls, onLinkEvent, interruption } = this.#options;
    const { channel } = this.link;
    const ports = decodeLanePorts(await this.link.expect(FrameType.LANES));
    if (ports.length !== agreed) {
      const message = `there are ${ports.length}, for the ${agreed} lanes that were agreed on`;
      throw new VfioError('EBADMSG', { operation: 'LANES', field: 'ports', message });
    }
    const lanes = await MemoryLanes.start({
      host: to.host,
      tls,
      ports,
      token: channel.token!,
      memory,
      compression: this.#compression,
      timeoutMs: channel.timeoutMs,
      peerTimeoutMs: theirs.timeoutMs,
      onLinkEvent,
    });
    this.#lanes = lanes;
    this.link.whenPeerFails(error => lanes.giveUp(asVfioError(error, 'migrate')));
    await interruption.unlessInterrupted(lanes.joined());
  }

  get #compression(): Compression {
    return this.link.agreement!.features.has(LZ4_FEATURE) ? (this.#options.compression ?? 'auto') : 'off';
  }

  /** What memory takes. Only of a route that is open. */
  get lane(): MemoryLane {
    return this.#lane!;
  }

  /** How long to wait for another connection after one is lost, milliseconds. */
  set patienceMs(ms: number) {
    this.link.channel.patienceMs = ms;
    if (this.#lanes !== undefined) this.#lanes.patienceMs = ms;
  }

  /** All memory is sent: the lanes may end. */
  finishLanes(): void {
    this.#lanes?.finish();
  }

  /** Whoever waits for the way gets `error`, now and later. The destination is not told yet. */
  giveUp(error: VfioError): void {
    this.link.channel.giveUp(error);
    this.#lanes?.giveUp(error);
  }

  async closeLanes(): Promise<void> {
    await this.#lanes?.close();
  }

  /** Says that nothing more comes, waits a second at most for the destination to close too, and closes. */
  async end(): Promise<void> {
    await this.#lanes?.close();
    await this.link.channel.end();
    this.link.channel.destroy();
  }
}
