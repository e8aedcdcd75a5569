import { readFileSync } from 'node:fs';
import { type Command, Option } from 'commander';
import { asVfioError } from '../../uapi/index.js';

/** What the command line says of TLS. */
export interface TlsFlags {
  tlsCa?: string;
  tlsCert?: string;
  tlsKey?: string;
}

/** Whom to trust and who this end is: PEM texts. */
export interface TlsFiles {
  ca: Buffer;
  cert: Buffer;
  key: Buffer;
}

/** Adds what both ends need for TLS. */
export function addTlsOptions(command: Command): Command {
  return command
    .addOption(new Option('--tls-ca <file>', "PEM: who has signed the other end's certificate"))
    .addOption(new Option('--tls-cert <file>', "PEM: this end's certificate"))
    .addOption(new Option('--tls-key <file>', 'PEM: its key'));
}

/** What is wrong with the options, if something is. */
export function wrongTls({ tlsCa, tlsCert, tlsKey }: TlsFlags): string | undefined {
  const given = [tlsCa, tlsCert, tlsKey].filter(file => file !== undefined).length;
  return given === 0 || given === 3 ? undefined : '--tls-ca, --tls-cert and --tls-key go together';
}

/** The files; `undefined` where TLS is not asked for. @throws VfioError as they cannot be read */
export function readTls({ tlsCa, tlsCert, tlsKey }: TlsFlags): TlsFiles | undefined {
  if (tlsCa === undefined || tlsCert === undefined || tlsKey === undefined) return undefined;
  return {
    ca: readPem('--tls-ca', tlsCa),
    cert: readPem('--tls-cert', tlsCert),
    key: readPem('--tls-key', tlsKey),
  };
}

/** @throws VfioError as the file cannot be read */
export function readPem(option: string, file: string): Buffer {
  try {
    return readFileSync(file);
  } catch (error) {
    throw asVfioError(error, option);
  }
}
