// Builds dist/ from src/: a clean folder each time, so that a file that was deleted from src does not live on in dist.
import { execFileSync } from 'node:child_process';
import { chmodSync, existsSync, rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { buildKernels } from './build-kernels.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));
const dist = `${root}dist`;

buildKernels();
rmSync(dist, { recursive: true, force: true });
execFileSync(process.execPath, [`${root}node_modules/typescript/bin/tsc`, '-p', `${root}tsconfig.json`], {
  stdio: 'inherit',
});
const main = `${dist}/cli/main.js`;
if (existsSync(main)) chmodSync(main, 0o755);
