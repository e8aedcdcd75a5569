import { type OwnedFd, socketPair } from '../../native/index.js';
import { VfioError } from '../../uapi/index.js';
import { commandName, MessageType } from '../wire/constants.js';
import { closeFds, type Frame } from '../wire/frame-parser.js';
import { MessageStream } from '../wire/message-stream.js';

/** What a {@link TwinSocket} tells its session. */
export interface TwinEvents {
  /** A reply came. @returns whether it answers something that was asked */
  reply(frame: Frame): boolean;
  /** The client has left this socket, or sent on it what it must not: `reason` says what. */
  ended(reason: VfioError | undefined): void;
}

/**
 * A second socket between server and client, on which the server's own commands travel (vfio-user 0.9.x, capability `twin_socket`): so that
 * a client finds no commands among the replies that it waits for. Only replies come back on it.
 */
export class TwinSocket {
  /** For the client: goes with the answer to VERSION, and is closed here then. */
  readonly clientEnd: OwnedFd;
  readonly #stream: MessageStream;

  /**
   * @param maxPayload most bytes behind the header of a reply
   * @throws VfioError EMFILE, ENFILE
   */
  constructor(maxPayload: number, events: TwinEvents) {
    const [serverEnd, clientEnd] = socketPair();
    this.clientEnd = clientEnd;
    try {
      this.#stream = new MessageStream(serverEnd, maxPayload, 0, {
        frame: frame => this.#receive(frame, events),
        broken: (_header, error) => this.#stream.destroy(error),
        drained: () => {},
        closed: reason => events.ended(reason),
      });
    } catch (error) {
      clientEnd.close();
      throw error;
    }
  }

  /** Sends a command. */
  send(message: Uint8Array): void {
    this.#stream.send(message);
  }

  /** Ends the socket. A second call does nothing. */
  close(): void {
    this.clientEnd.close();
    this.#stream.destroy(undefined);
  }

  #receive(frame: Frame, events: TwinEvents): void {
    closeFds(frame.fds);
    const { header } = frame;
    if (header.type === MessageType.REPLY && events.reply(frame)) return;
    const operation = commandName(header.command);
    const message = `message ${header.id} on the twin socket answers nothing`;
    this.#stream.destroy(new VfioError('EPROTO', { operation, field: 'id', message }));
  }
}
