import { request as requestHttp } from 'node:http';
import { request as requestHttps } from 'node:https';
import { asVfioError, VfioError } from '../../uapi/index.js';

/** What Node's TLS needs to know: whom to trust, and who this is. PEM texts. */
export interface TlsOptions {
  ca?: string | Buffer;
  cert?: string | Buffer;
  key?: string | Buffer;
}

/** What became of a POST. */
export type Reply =
  | { outcome: 'answered'; status: number; body: object }
  /** The other side has not seen it: there was no connection, or not the right one. */
  | { outcome: 'unsent'; error: VfioError }
  /** The other side may have seen it. */
  | { outcome: 'unanswered'; error: VfioError };

/** Most bytes of an answer: many times what a record takes. */
const MOST_BYTES = 64 * 1024;

/**
 * Posts JSON and takes JSON, once. Each has a connection of its own: on one that is kept, a request that fails may have been sent or not, and
 * that is what callers must know.
 */
export function postJson(
  url: URL,
  body: object,
  options: { timeoutMs: number; headers: Record<string, string>; tls?: TlsOptions | undefined },
): Promise<Reply> {
  const { timeoutMs, tls } = options;
  const isSecure = url.protocol === 'https:';
  const signal = AbortSignal.timeout(timeoutMs);
  const headers = { 'content-type': 'application/json', ...options.headers };
  return new Promise(resolve => {
    let isConnected = false;
    const fail = (cause: unknown) => {
      const late = new VfioError('ETIMEDOUT', {
        operation: 'etcd',
        message: `${url.origin} did not answer within ${timeoutMs} ms`,
      });
      const error = signal.aborted ? late : asVfioError(cause, `etcd: ${url.origin}`);
      resolve({ outcome: isConnected ? 'unanswered' : 'unsent', error });
    };
    const post = (isSecure ? requestHttps : requestHttp)(url, {
      method: 'POST',
      agent: false,
      headers,
      signal,
      ...tls,
    });
    post.on('error', fail);
    // Node writes nothing of the request before its connection is ready, and certificates are checked before that.
    post.on('socket', socket => socket.once(isSecure ? 'secureConnect' : 'connect', () => (isConnected = true)));
    post.on('response', response => {
      const pieces: Buffer[] = [];
      let size = 0;
      response.on('error', fail);
      response.on('data', (piece: Buffer) => {
        size += piece.length;
        if (size > MOST_BYTES) post.destroy(new Error(`more than ${MOST_BYTES} bytes came`));
        else pieces.push(piece);
      });
      response.on('end', () => {
        const parsed = parseObject(Buffer.concat(pieces).toString());
        if (parsed === undefined) fail(new Error('what came is no JSON object'));
        else resolve({ outcome: 'answered', status: response.statusCode!, body: parsed });
      });
    });
    post.end(JSON.stringify(body));
  });
}

function parseObject(text: string): object | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? value : undefined;
  } catch {
    return undefined;
  }
}
