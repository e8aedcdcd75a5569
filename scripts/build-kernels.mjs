// Compiles assembly/ (AssemblyScript) to WebAssembly and writes it into src/bitmap/ as a module, in base64: so the kernels
// are found from src and from dist alike, and the room needs neither files nor Node. Takes seconds; does nothing when the
// module on disk was made from the same sources.
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const sources = join(root, 'assembly');
const target = join(root, 'src/bitmap/kernels-binary.ts');
const compiler = join(root, 'node_modules/assemblyscript/bin/asc.js');
const options = [
  ...['-O3', '--noAssert', '--runtime', 'stub', '--enable', 'simd,threads,bulk-memory'],
  ...['--importMemory', '--sharedMemory', '--initialMemory', '1', '--maximumMemory', '65536'],
];

export function buildKernels() {
  const stamp = `// Made by scripts/build-kernels.mjs from assembly/ (${digest()}).\n`;
  if (current().startsWith(stamp)) return;
  const folder = mkdtempSync(join(tmpdir(), 'dmalog-kernels-'));
  try {
    const binary = join(folder, 'kernels.wasm');
    execFileSync(process.execPath, [compiler, join(sources, 'index.ts'), '-o', binary, ...options], {
      stdio: 'inherit',
    });
    const base64 = readFileSync(binary).toString('base64');
    writeFileSync(target, `${stamp}export const kernelsBinary =\n  '${base64}';\n`);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function digest() {
  const hash = createHash('sha256').update(options.join(' '));
  for (const name of readdirSync(sources).sort()) hash.update(readFileSync(join(sources, name)));
  return hash.digest('hex').slice(0, 16);
}

function current() {
  try {
    return readFileSync(target, 'utf8');
  } catch {
    return '';
  }
}
