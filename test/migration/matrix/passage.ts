import { connect, type Socket } from 'node:net';
import { TLSSocket, connect as tlsConnect } from 'node:tls';
import type { TlsIdentity } from '../../../src/migration/index.js';
import { tlsSettings } from '../../../src/migration/link/tls-identity.js';

/** Who each end is. A link that has both can speak for either, and see what goes by. */
export interface TlsEnds {
  readonly source: TlsIdentity;
  readonly destination: TlsIdentity;
}

/** A connection through the link, from whoever has dialled to where it leads. */
export class Passage {
  #sockets: Socket[];

  /** @param dialled where it begins */
  constructor(dialled: Socket) {
    this.#sockets = [dialled];
    dialled.on('error', () => {});
  }

  get isCut(): boolean {
    return this.#sockets.some(socket => socket.destroyed);
  }

  /** Leads it on. What closes one half closes the other. @param tls ends here, and begins anew */
  leadTo(port: number, tls: TlsEnds | undefined): { incoming: Socket; outgoing: Socket } {
    const [dialled] = this.#sockets as [Socket];
    const onward = connect({ host: '127.0.0.1', port });
    const incoming = tls === undefined ? dialled : asDestination(dialled, tls.destination);
    const outgoing = tls === undefined ? onward : asSource(onward, tls.source);
    this.#sockets = [incoming, outgoing];
    for (const end of [incoming, outgoing, onward]) end.on('error', () => this.cut());
    for (const end of [incoming, outgoing]) {
      end.on('close', () => {
        for (const socket of [incoming, outgoing, dialled, onward]) socket.destroy();
      });
    }
    return { incoming, outgoing };
  }

  /** Ends it without a word. Idempotent. */
  cut(): void {
    for (const socket of this.#sockets) {
      // What lies below TLS is TLS's own: reset behind its back it would stay open.
      if (socket instanceof TLSSocket) socket.destroy();
      else if (!socket.destroyed) socket.resetAndDestroy();
    }
  }
}

function asDestination(socket: Socket, identity: TlsIdentity): Socket {
  return new TLSSocket(socket, { ...tlsSettings(identity), isServer: true });
}

function asSource(socket: Socket, identity: TlsIdentity): Socket {
  return tlsConnect({ ...tlsSettings(identity), socket, host: '127.0.0.1' });
}
