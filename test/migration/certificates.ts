import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import type { TlsIdentity } from '../../src/migration/index.js';

/** What a certificate says, and for how long. */
export interface CertificateOptions {
  /** As X.509 spells them: `DNS:host-b`, `IP:127.0.0.1`. */
  names?: string;
  /** Days from now until it ends; negative: it has. */
  days?: number;
}

/** An authority of certificates made by openssl, as an operator would. */
export class Authority {
  readonly #path: (name: string) => string;
  readonly #name: string;

  /** @param path gives paths in a folder of the test's own */
  constructor(path: (name: string) => string, name: string) {
    this.#path = path;
    this.#name = name;
    openssl('req', '-x509', ...NEW_KEY, '-keyout', path(`${name}.key`), '-out', path(`${name}.pem`), '-days', '2', [
      '-subj',
      `/CN=${name}`,
    ]);
  }

  get certificate(): Buffer {
    return readFileSync(this.#path(`${this.#name}.pem`));
  }

  /** A certificate and its key for one end, which trusts this authority. */
  identity(name: string, { names = `DNS:${name},IP:127.0.0.1`, days = 1 }: CertificateOptions = {}): TlsIdentity {
    const file = (suffix: string) => this.#path(`${this.#name}-${name}.${suffix}`);
    openssl('req', '-new', ...NEW_KEY, '-keyout', file('key'), '-out', file('csr'), '-subj', `/CN=${name}`);
    writeFileSync(file('ext'), `subjectAltName=${names}\n`);
    const ca = ['-CA', this.#path(`${this.#name}.pem`), '-CAkey', this.#path(`${this.#name}.key`), '-CAcreateserial'];
    openssl('x509', '-req', '-in', file('csr'), ...ca, '-out', file('pem'), '-extfile', file('ext'), [
      '-days',
      `${days}`,
    ]);
    return { ca: this.certificate, cert: readFileSync(file('pem')), key: readFileSync(file('key')) };
  }
}

const NEW_KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];

function openssl(...parameters: (string | string[])[]): void {
  execFileSync('openssl', parameters.flat(), { stdio: ['ignore', 'ignore', 'pipe'] });
}
