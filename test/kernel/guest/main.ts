import { readdirSync } from 'node:fs';

/*
 * Runs the tests that lie beside this file, in the guest: all of them, or the files whose names contain one of the arguments.
 *
 *     node .cache/kernel/test/kernel/guest/main.js table mtty
 */

const wanted = process.argv.slice(2);
const files = readdirSync(import.meta.dirname)
  .filter(name => name.endsWith('.guest.js'))
  .filter(name => wanted.length === 0 || wanted.some(part => name.includes(part)))
  .sort();
if (files.length === 0) throw new Error(`there is no test file like ${wanted.join(', ')}`);
for (const file of files) await import(`./${file}`);
