/** The vfio-user protocol: a device in its own process behind a UNIX socket, and a host's client of it. @module */
export * from './client.js';
export { Command, commandName } from './constants.js';
export { OWN_LIMITS, PROTOCOL_LIMITS, type VfioUserLimits } from './limits.js';
export * from './server.js';
