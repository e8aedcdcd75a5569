import { inject, onTestFinished } from 'vitest';
import type { Device } from '../../src/device/index.js';
import { VfioUserServer } from '../../src/vfio-user/index.js';
import { Guest, type GuestOptions } from '../machines/guest.js';

/** Serves a device on a socket, until the test is over. Whatever a guest asks of it must not fail unseen. */
export async function serve(device: Device, path: string): Promise<VfioUserServer> {
  const server = await VfioUserServer.listen(device, {
    path,
    onError: error => console.error(`${device.name}:`, error),
  });
  onTestFinished(() => server.close());
  return server;
}

/** Boots a guest that is gone after the test. */
export async function boot(options: GuestOptions): Promise<Guest> {
  const guest = await Guest.boot(inject('machine'), options);
  onTestFinished(() => guest.close());
  return guest;
}
