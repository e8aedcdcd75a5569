import { type Command, InvalidArgumentError, Option } from 'commander';
import {
  EtcdOwnershipStore,
  FileOwnershipStore,
  type Ownership,
  type OwnershipStore,
  requireName,
} from '../../migration/index.js';
import { asVfioError } from '../../uapi/index.js';
import { readPem } from './tls-arguments.js';

/** What the command line says of the machine's owner. */
export interface OwnerFlags {
  ownerStore?: string;
  machine?: string;
  self?: string;
  etcdCa?: string;
  etcdCert?: string;
  etcdKey?: string;
  etcdUser?: string;
}

/** Where the password of `--etcd-user` is: command lines are for everybody on a host to see. */
export const ETCD_PASSWORD = 'DMALOG_ETCD_PASSWORD';

/** Adds who may run the machine, and where that is recorded. */
export function addOwnerOptions(command: Command): Command {
  return command
    .addOption(
      new Option(
        '--owner-store <where>',
        'where it is recorded who may run the machine: a folder, or etcd by URL[,URL…]; the same at both ends',
      ).argParser(checkStore),
    )
    .addOption(new Option('--machine <name>', "the machine's name in that record").argParser(checkName('machine')))
    .addOption(new Option('--self <name>', "this end's name in that record").argParser(checkName('self')))
    .addOption(new Option('--etcd-ca <file>', "PEM: who has signed etcd's certificates"))
    .addOption(new Option('--etcd-cert <file>', 'PEM: the certificate that etcd asks for'))
    .addOption(new Option('--etcd-key <file>', 'PEM: its key'))
    .addOption(new Option('--etcd-user <name>', `a user of etcd, whose password is in ${ETCD_PASSWORD}`));
}

/** What is wrong with the options, if something is. */
export function wrongOwner(flags: OwnerFlags): string | undefined {
  const { ownerStore, machine, self, etcdCa, etcdCert, etcdKey, etcdUser } = flags;
  const named = machine !== undefined && self !== undefined;
  if (ownerStore === undefined && (machine !== undefined || self !== undefined)) {
    return '--machine and --self go with --owner-store';
  }
  if (ownerStore !== undefined && !named) return '--owner-store needs --machine and --self';
  const forEtcd = [etcdCa, etcdCert, etcdKey, etcdUser].some(value => value !== undefined);
  if (forEtcd && !isEtcd(ownerStore ?? '')) return 'the --etcd options go with an --owner-store of URLs';
  if ((etcdCert === undefined) !== (etcdKey === undefined)) return '--etcd-cert and --etcd-key go together';
  if (etcdUser !== undefined && process.env[ETCD_PASSWORD] === undefined) {
    return `--etcd-user needs a password in the environment variable ${ETCD_PASSWORD}`;
  }
  return undefined;
}

/** This end's side of the record; `undefined` where none is asked for. @throws VfioError as a file cannot be read */
export function readOwnership(flags: OwnerFlags): Ownership | undefined {
  const { ownerStore, machine, self } = flags;
  if (ownerStore === undefined || machine === undefined || self === undefined) return undefined;
  return { store: openStore(ownerStore, flags), machine, self };
}

function openStore(where: string, { etcdCa, etcdCert, etcdKey, etcdUser }: OwnerFlags): OwnershipStore {
  if (!isEtcd(where)) return new FileOwnershipStore(where);
  const tls = {
    ...(etcdCa !== undefined && { ca: readPem('--etcd-ca', etcdCa) }),
    ...(etcdCert !== undefined && { cert: readPem('--etcd-cert', etcdCert) }),
    ...(etcdKey !== undefined && { key: readPem('--etcd-key', etcdKey) }),
  };
  return new EtcdOwnershipStore({
    endpoints: where.split(','),
    tls,
    ...(etcdUser !== undefined && { user: { name: etcdUser, password: process.env[ETCD_PASSWORD]! } }),
  });
}

function isEtcd(where: string): boolean {
  return /^[a-z][a-z0-9+.-]*:\/\//i.test(where);
}

function checkStore(where: string): string {
  if (where === '') throw new InvalidArgumentError('It takes a folder, or URLs such as https://etcd-1:2379.');
  if (!isEtcd(where)) return where;
  try {
    new EtcdOwnershipStore({ endpoints: where.split(',') });
    return where;
  } catch {
    throw new InvalidArgumentError(
      'It takes a folder, or http and https URLs such as https://etcd-1:2379,https://etcd-2:2379.',
    );
  }
}

function checkName(field: string): (text: string) => string {
  return text => {
    try {
      requireName(field, text);
      return text;
    } catch (error) {
      throw new InvalidArgumentError(asVfioError(error, field).message);
    }
  };
}
