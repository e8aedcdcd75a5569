import { VfioError } from '../../uapi/index.js';
import { postJson, type Reply, type TlsOptions } from './post-json.js';

/** How etcd is reached. */
export interface EtcdOptions {
  /** Addresses of its members, such as `https://etcd-1:2379`. They are asked in this order until one answers. */
  endpoints: readonly string[];
  /** How long one member may take to answer, milliseconds; default 3000. */
  timeoutMs?: number;
  /** Where etcd's authentication is on. */
  user?: { name: string; password: string };
  /** For https. */
  tls?: TlsOptions;
}

/** What became of a request. */
export type EtcdAnswer =
  | { outcome: 'answered'; body: object }
  /** It was refused, or never left. */
  | { outcome: 'not-set'; error: VfioError }
  /** It may have been carried out, or may be later still. */
  | { outcome: 'unknown'; error: VfioError };

/** gRPC codes that say that a request was refused as it is: whatever else an error says, the request may have been carried out. */
const REFUSED = new Map([
  [3, 'EINVAL'],
  [5, 'ENOENT'],
  [7, 'EACCES'],
  [12, 'EOPNOTSUPP'],
  [16, 'EACCES'],
] as const);
const UNAUTHENTICATED = 16;

/** etcd v3 by its JSON gateway: what it says of a request, and what it leaves open. */
export class EtcdGateway {
  readonly #options: EtcdOptions;
  readonly #endpoints: readonly URL[];
  #token: string | undefined;

  constructor(options: EtcdOptions) {
    this.#options = options;
    this.#endpoints = options.endpoints.map(endpointUrl);
    if (this.#endpoints.length === 0) throw badEndpoint('there must be one at least');
  }

  /**
   * Asks the members in turn. The answer of a later one stands, although an earlier one may have carried the request out: so it must be one
   * that can be asked twice.
   */
  async call(path: string, request: object): Promise<EtcdAnswer> {
    let answer: EtcdAnswer | undefined;
    for (const endpoint of this.#endpoints) {
      const next = await this.#callAt(endpoint, path, request);
      if (next.outcome === 'answered') return next;
      // That a second member refuses says nothing of what the first has done.
      answer = answer?.outcome === 'unknown' ? answer : next;
    }
    return answer!;
  }

  async #callAt(endpoint: URL, path: string, request: object): Promise<EtcdAnswer> {
    const hadToken = this.#token !== undefined;
    const first = await this.#authenticated(endpoint, path, request);
    // Tokens run out; a request without a valid one was not carried out.
    if (!hadToken || this.#token !== undefined) return first;
    return this.#authenticated(endpoint, path, request);
  }

  async #authenticated(endpoint: URL, path: string, request: object): Promise<EtcdAnswer> {
    const refusal = await this.#logIn(endpoint);
    if (refusal !== undefined) return refusal;
    const reply = await this.#post(endpoint, path, request);
    if (grpcCode(reply) === UNAUTHENTICATED) this.#token = undefined;
    return judge(endpoint, reply);
  }

  /** `undefined` when it worked, or there is nothing to do. */
  async #logIn(endpoint: URL): Promise<EtcdAnswer | undefined> {
    const { user } = this.#options;
    if (user === undefined || this.#token !== undefined) return undefined;
    const answer = judge(endpoint, await this.#post(endpoint, '/v3/auth/authenticate', user));
    const token = answer.outcome === 'answered' ? (answer.body as { token?: unknown }).token : undefined;
    if (typeof token === 'string') {
      this.#token = token;
      return undefined;
    }
    const error = answer.outcome === 'answered' ? failure('EPROTO', endpoint, 'gave no token') : answer.error;
    return { outcome: 'not-set', error };
  }

  #post(endpoint: URL, path: string, body: object): Promise<Reply> {
    const { timeoutMs = 3000, tls } = this.#options;
    const headers = this.#token === undefined ? {} : { authorization: this.#token };
    return postJson(new URL(path, endpoint), body, { timeoutMs, headers, tls });
  }
}

function judge(endpoint: URL, reply: Reply): EtcdAnswer {
  if (reply.outcome === 'unsent') return { outcome: 'not-set', error: reply.error };
  if (reply.outcome === 'unanswered') return { outcome: 'unknown', error: reply.error };
  if (reply.status === 200) return { outcome: 'answered', body: reply.body };
  const code = grpcCode(reply);
  const words = (reply.body as { message?: unknown }).message;
  const message = `answered ${reply.status}: ${typeof words === 'string' ? words.slice(0, 200) : 'no reason given'}`;
  const errno = REFUSED.get(code as never);
  if (errno !== undefined) return { outcome: 'not-set', error: failure(errno, endpoint, message) };
  return { outcome: 'unknown', error: failure('EIO', endpoint, message) };
}

function grpcCode(reply: Reply): number | undefined {
  if (reply.outcome !== 'answered' || reply.status === 200) return undefined;
  const { code } = reply.body as { code?: unknown };
  return typeof code === 'number' ? code : undefined;
}

function failure(errno: VfioError['errno'], endpoint: URL, message: string): VfioError {
  return new VfioError(errno, { operation: 'etcd', message: `${endpoint.origin} ${message}` });
}

function endpointUrl(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url?.protocol === 'http:' || url?.protocol === 'https:') return url;
  throw badEndpoint(`${JSON.stringify(text)} is no http or https address`);
}

function badEndpoint(message: string): VfioError {
  return new VfioError('EINVAL', { operation: 'etcd', field: 'endpoints', message });
}
