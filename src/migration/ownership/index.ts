/** Who may run a machine, recorded outside the processes that run it. @module */
export * from './claim-ownership.js';
export type { EtcdOptions } from './etcd-gateway.js';
export * from './etcd-ownership-store.js';
export * from './file-ownership-store.js';
export * from './offer-machine.js';
export * from './ownership-record.js';
export * from './ownership-store.js';
export type { Pause } from './pause.js';
export type { TlsOptions } from './post-json.js';
export * from './take-machine.js';
