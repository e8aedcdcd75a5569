import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import typescript from 'typescript';
import { afterAll, beforeAll, onTestFinished } from 'vitest';

/*
 * Processes of their own. Node runs no TypeScript, so the sources are translated, without checking types, into a folder that looks like the
 * project: once for a test file.
 */

const root = fileURLToPath(new URL('../../', import.meta.url));
const TEST_FILES = ['child-process.ts', 'stamp-device.ts'];

/** Starts processes in a role of child-process.ts. Call it at the top of a test file. */
export function childProcesses(): (role: 'serve' | 'use', path: string) => Promise<ChildProcess> {
  let folder = '';
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'dmalog-child-'));
    translateProject(folder);
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return (role, path) => start(join(folder, 'test/vfio-user/child-process.js'), role, path);
}

function translateProject(folder: string): void {
  symlinkSync(join(root, 'node_modules'), join(folder, 'node_modules'));
  writeFileSync(join(folder, 'package.json'), '{"type":"module"}');
  cpSync(join(root, 'src'), join(folder, 'src'), { recursive: true });
  for (const name of TEST_FILES) cpSync(join(root, 'test/vfio-user', name), join(folder, 'test/vfio-user', name));
  for (const name of readdirSync(folder, { recursive: true, encoding: 'utf8' })) {
    if (name.endsWith('.ts') && !name.startsWith('node_modules')) translate(join(folder, name));
  }
}

function translate(path: string): void {
  const { outputText } = typescript.transpileModule(readFileSync(path, 'utf8'), {
    compilerOptions: {
      module: typescript.ModuleKind.ESNext,
      target: typescript.ScriptTarget.ES2022,
      verbatimModuleSyntax: true,
    },
  });
  writeFileSync(`${path.slice(0, -3)}.js`, outputText);
}

/** Starts a process, and waits until it says that it is ready. It is killed after the test at the latest. */
async function start(program: string, role: string, path: string): Promise<ChildProcess> {
  const child = spawn(process.execPath, [program, role, path], { stdio: ['ignore', 'pipe', 'inherit'] });
  onTestFinished(() => killed(child));
  const gone = once(child, 'exit').then(() => Promise.reject(new Error(`the child that should ${role} is gone`)));
  gone.catch(() => {});
  await Promise.race([once(child.stdout!, 'data'), gone]);
  child.stdout!.destroy();
  await once(child.stdout!, 'close');
  return child;
}

/** Kills a child at once, and waits until it is gone. */
export async function killed(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'exit');
  child.kill('SIGKILL');
  await gone;
}
