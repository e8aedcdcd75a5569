import { checkServerIdentity, type PeerCertificate, type TLSSocket } from 'node:tls';
import { VfioError } from '../../uapi/index.js';

/** Whom to trust, and who this end is. Both ends need one, each with a certificate that the other's authority has signed. */
export interface TlsIdentity {
  /** Certificates of the authority that signs the other end's, PEM. */
  ca: string | Buffer;
  /** This end's certificate, PEM. */
  cert: string | Buffer;
  /** Its private key, PEM. */
  key: string | Buffer;
  /**
   * The name that the other end's certificate must have. Default: at the end that connects the host that it connects to, at the end that listens
   * any, as the authority has signed it.
   */
  servername?: string;
}

/** What both ends want of TLS: 1.3, and the other end's certificate. */
export function tlsSettings({ ca, cert, key }: TlsIdentity) {
  return { ca, cert, key, minVersion: 'TLSv1.3', requestCert: true, rejectUnauthorized: true } as const;
}

/** Whether a client that TLS has let in is the one that is meant. @throws VfioError EACCES for a certificate with another name */
export function requireClientName(socket: TLSSocket, { servername }: TlsIdentity): void {
  if (servername === undefined) return;
  const certificate = socket.getPeerCertificate() as PeerCertificate;
  const mismatch = checkServerIdentity(servername, certificate);
  if (mismatch !== undefined) throw tlsRefusal(mismatch);
}

/** Why TLS let nobody through, as an error for people. */
export function tlsRefusal(cause: unknown): VfioError {
  const message = cause instanceof Error ? cause.message : String(cause);
  return new VfioError('EACCES', { operation: 'connect', field: 'tls', message, cause });
}

/** Whether an error is TLS's own and not the network's: Node and OpenSSL name theirs so. */
export function isTlsError(error: unknown): boolean {
  const { code } = (error ?? {}) as { code?: unknown };
  return typeof code === 'string' && /^(ERR_SSL_|ERR_TLS_|CERT_|SELF_SIGNED_|DEPTH_ZERO_|UNABLE_TO_)/.test(code);
}
