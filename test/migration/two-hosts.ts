import { createHash } from 'node:crypto';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import {
  MachineMemory,
  type MigrateOptions,
  MigrationReceiver,
  migrate,
  type ReceiveOptions,
} from '../../src/migration/index.js';
import { writerWithMemory } from '../tracker/writer-device.js';

/** One end of a migration in this process: real memory files, a real device, the in-process wire. */
export async function host(pages: number, options: Parameters<typeof writerWithMemory>[1] = {}) {
  const side = await writerWithMemory(pages * 4096, options);
  const slot = { iova: side.iova, length: BigInt(pages * 4096), memory: side.memory };
  return { ...side, pages, machine: new MachineMemory([slot]) };
}

/** See {@link host}. */
export type Host = Awaited<ReturnType<typeof host>>;

/** A source whose pages are all different, and an empty destination. */
export async function twoHosts(pages: number, options: Parameters<typeof writerWithMemory>[1] = {}) {
  const [source, destination] = [await host(pages, options), await host(pages, options)];
  for (let page = 0; page < pages; page++) {
    source.memory.write(page * 4096, Buffer.alloc(4096, `page ${page} of the source;`));
  }
  source.device.state = Buffer.from('the state of the device');
  return {
    source,
    destination,
    async close() {
      await source.close();
      await destination.close();
    },
  };
}

/** Moves the source's machine to the destination; the outcome on both ends. */
export async function move(
  { source, destination }: { source: Host; destination: Host },
  options: Partial<MigrateOptions> & {
    through?: (to: { host: string; port: number }) => Promise<Link>;
    receive?: Partial<ReceiveOptions>;
  } = {},
) {
  const { through, receive, ...rest } = options;
  const receiver = await MigrationReceiver.listen({
    memory: destination.machine,
    devices: [destination.handle],
    timeoutMs: rest.timeoutMs ?? 5000,
    ...receive,
  });
  const link = through === undefined ? undefined : await through(receiver.address);
  const received = receiver.finished().then(
    () => undefined,
    (error: unknown) => error,
  );
  const report = await migrate({
    to: link?.address ?? receiver.address,
    memory: source.machine,
    devices: [source.handle],
    timeoutMs: 5000,
    // Places in the stream are of what is in memory.
    compression: 'off',
    ...rest,
  });
  await link?.close();
  // A destination that was reached ends by itself; one that was not waits for the next source.
  await Promise.race([received, delay(100, undefined, { ref: false })]);
  await receiver.close();
  return { report, refusal: await received };
}

/** SHA-256 of a host's memory. */
export function hashOf(side: Host): string {
  const bytes = new Uint8Array(side.pages * 4096);
  side.memory.read(0, bytes);
  return createHash('sha256').update(bytes).digest('hex');
}

/** A TCP link in between, which a test can make worse. */
export interface Link {
  address: { host: string; port: number };
  /** Cuts the connections that there are now. */
  cut(): void;
  close(): Promise<void>;
}

/**
 * A link to `to` on which `tamper` sees every piece that goes from source to destination, with its place in the stream, and gives what goes
 * on; `undefined` cuts the link there. @param listen where the link begins
 */
export async function tamperedLink(
  to: { host: string; port: number },
  tamper: (piece: Buffer, offset: number) => Buffer | undefined,
  tamperBack: (piece: Buffer, offset: number) => Buffer | undefined = piece => piece,
  listen: { host: string; port: number } = { host: '127.0.0.1', port: 0 },
): Promise<Link> {
  const sockets: Socket[] = [];
  const server: Server = createServer(incoming => {
    const outgoing = connect(to);
    sockets.push(incoming, outgoing);
    pump(incoming, outgoing, tamper);
    pump(outgoing, incoming, tamperBack);
  });
  await new Promise<void>(resolve => server.listen(listen, () => resolve()));
  const address = server.address() as { address: string; port: number };
  const cut = () => {
    for (const socket of sockets) socket.destroy();
  };
  return {
    address: { host: address.address, port: address.port },
    cut,
    async close() {
      cut();
      await new Promise(resolve => server.close(resolve));
    },
  };
}

function pump(from: Socket, to: Socket, tamper: (piece: Buffer, offset: number) => Buffer | undefined): void {
  let offset = 0;
  from.on('data', piece => {
    const passed = tamper(piece, offset);
    offset += piece.length;
    if (passed === undefined) {
      from.destroy();
      to.destroy();
    } else if (passed.length > 0) to.write(passed);
  });
  from.on('end', () => to.end());
  from.on('error', () => to.destroy());
  from.on('close', () => to.destroy());
}
