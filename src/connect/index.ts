/** A device by its name, whatever wire it hangs on. @module */
export * from './connect.js';
export { makeLocalDevice } from './local.js';
export * from './target.js';
