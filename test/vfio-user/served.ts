import { readFileSync } from 'node:fs';
import { onTestFinished } from 'vitest';
import { createMemoryFile, type OwnedFd } from '../../src/native/index.js';
import { VfioError } from '../../src/uapi/index.js';
import { type ServerOptions, VfioUserServer } from '../../src/vfio-user/index.js';
import { Peer } from './peer.js';
import { StampDevice } from './stamp-device.js';

/** A stamp device on a socket, gone after the test. */
export async function serve(
  path: string,
  options: Partial<ServerOptions> = {},
  device = new StampDevice(),
): Promise<{ device: StampDevice; server: VfioUserServer }> {
  const server = await VfioUserServer.listen(device, { path, ...options });
  onTestFinished(() => {
    device.release();
    return server.close();
  });
  return { device, server };
}

/** A peer that has agreed on a version, gone after the test. */
export async function greeted(path: string, json?: string): Promise<Peer> {
  const peer = Peer.connect(path);
  onTestFinished(() => peer.close());
  await peer.greet(json);
  return peer;
}

/** A sealed memory file, gone after the test. */
export function memoryFile(size: number): OwnedFd {
  const file = createMemoryFile('test-guest', size);
  onTestFinished(() => file.close());
  return file;
}

/** How many mappings of memory files this process has. */
export function mappedFiles(): number {
  return readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .filter(line => line.includes('memfd:')).length;
}

/** The errno that a promise is rejected with; undefined when it is resolved. */
export async function rejection(promise: Promise<unknown>): Promise<string | undefined> {
  try {
    await promise;
    return undefined;
  } catch (error) {
    return error instanceof VfioError ? error.errno : `not a VfioError: ${String(error)}`;
  }
}
