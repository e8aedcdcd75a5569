import type { MaybePromise } from '../../memory/index.js';
import type { OwnedFd } from '../../native/index.js';
import { VfioError } from '../../uapi/index.js';
import { commandName, MessageType } from '../wire/constants.js';
import { closeFds, type Frame } from '../wire/frame-parser.js';
import { STRUCTURE_ROOM, type VfioUserLimits } from '../wire/limits.js';
import { MessageStream } from '../wire/message-stream.js';
import { ServedCommands } from './served-commands.js';

/**
 * The socket on which a server sends its commands, and nothing else comes (vfio-user 0.9.x, `twin_socket`). So it can be left unread for as
 * long as the server does not take the replies.
 */
export class TwinSocket {
  readonly #stream: MessageStream;
  readonly #commands: ServedCommands;

  /**
   * @param socket owned from now on; closed when this throws
   * @param closed is told once when the socket is over
   */
  constructor(
    socket: OwnedFd,
    limits: VfioUserLimits,
    serve: (frame: Frame) => MaybePromise<Uint8Array>,
    closed: (reason: VfioError | undefined) => void,
  ) {
    this.#stream = new MessageStream(socket, limits.maxDataTransfer + STRUCTURE_ROOM, limits.maxMessageFds, {
      frame: frame => this.#receive(frame),
      broken: (_header, error) => this.#stream.destroy(protocolError(error.message)),
      drained: () => this.#commands.pump(),
      closed,
    });
    this.#commands = new ServedCommands(this.#stream, serve, () => this.#stream.resume());
  }

  /** Ends it. A second call does nothing. */
  close(): void {
    this.#commands.clear();
    this.#stream.destroy(undefined);
  }

  #receive(frame: Frame): void {
    if (frame.header.type === MessageType.COMMAND) {
      this.#commands.push(frame);
      if (this.#commands.waiting) this.#stream.pause();
      return;
    }
    closeFds(frame.fds);
    const name = commandName(frame.header.command);
    this.#stream.destroy(protocolError(`${name}, type ${frame.header.type}, is no command`));
  }
}

function protocolError(message: string): VfioError {
  return new VfioError('EPROTO', { operation: 'twin socket', message });
}
