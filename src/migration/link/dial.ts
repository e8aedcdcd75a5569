import { once } from 'node:events';
import { connect } from 'node:net';
import type { Dial } from './link-keeper.js';

/** Where a peer listens. */
export interface Address {
  host: string;
  port: number;
}

/** Connects to a destination. */
export function dialTo(to: Address): Dial {
  return async signal => {
    const socket = connect(to);
    try {
      await once(socket, 'connect', { signal });
      return socket;
    } catch (error) {
      socket.destroy();
      throw error;
    }
  };
}
