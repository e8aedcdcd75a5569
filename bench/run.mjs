// All benches that measure beside C, one after the other, with the same arguments; each has its own for more.
//
//   npm run bench [-- --json] [-- --only report] [-- --rounds 15]
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

for (const name of ['log-engine.mjs', 'vfio-user.mjs']) {
  const program = fileURLToPath(new URL(name, import.meta.url));
  const { status } = spawnSync(process.execPath, ['--expose-gc', program, ...process.argv.slice(2)], {
    stdio: 'inherit',
  });
  if (status !== 0) process.exit(status ?? 1);
}
