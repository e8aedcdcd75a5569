import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, test } from 'vitest';
import { temporaryFolder } from '../native/helpers.js';

const path = temporaryFolder();

/** A copy of `fetch` with one part, `thing`, made by a recipe of the test's own, and an empty cache. */
function kitchen(name: string, recipe: string): { fetch: string; cache: string; env: NodeJS.ProcessEnv } {
  const folder = path(name);
  mkdirSync(folder);
  const fetch = join(folder, 'fetch');
  copyFileSync(fileURLToPath(new URL('fetch', import.meta.url)), fetch);
  writeFileSync(join(folder, 'fetch-thing.sh'), recipe);
  const cache = join(folder, 'cache');
  return { fetch, cache: join(cache, 'machines'), env: { ...process.env, DMALOG_CACHE: cache } };
}

function run({ fetch, env }: ReturnType<typeof kitchen>, ...parts: string[]) {
  const { status, stdout, stderr } = spawnSync(fetch, parts, { env, encoding: 'utf8' });
  return { status, stdout, stderr };
}

test('a part is made once, and its folder is said every time', () => {
  const here = kitchen('once', 'echo made >> "$(dirname "$1")/count"; echo content > "$1/file"');
  const first = run(here, 'thing');
  expect(first).toMatchObject({ status: 0, stderr: '' });
  expect(readFileSync(join(first.stdout.trim(), 'file'), 'utf8')).toBe('content\n');
  expect(run(here, 'thing', 'thing').stdout).toBe(first.stdout.repeat(2));
  expect(readFileSync(join(here.cache, 'count'), 'utf8')).toBe('made\n');
});

test('of two that fetch at once, one waits and takes what the other has made', async () => {
  const here = kitchen('two', 'echo made >> "$(dirname "$1")/count"; sleep 0.3; echo content > "$1/file"');
  const both = [1, 2].map(() => spawn(here.fetch, ['thing'], { env: here.env, stdio: 'ignore' }));
  const codes = await Promise.all(both.map(async child => (await once(child, 'exit'))[0]));
  expect(codes).toEqual([0, 0]);
  expect(readFileSync(join(here.cache, 'count'), 'utf8')).toBe('made\n');
});

test('what was interrupted half-way is made again from its beginning', async () => {
  const here = kitchen('half', '[ ! -e "$1/half" ] || exit 9; touch "$1/half"; [ -e "$1/../go" ] || sleep 60');
  const child = spawn(here.fetch, ['thing'], { env: here.env, stdio: 'ignore', detached: true });
  while (!existsSync(here.cache) || !readdirSync(here.cache).some(name => existsSync(join(here.cache, name, 'half')))) {
    await new Promise(resolve => setTimeout(resolve, 20));
  }
  const gone = once(child, 'exit');
  process.kill(-child.pid!, 'SIGKILL');
  await gone;

  writeFileSync(join(here.cache, 'go'), '');
  const again = run(here, 'thing');
  expect(again).toMatchObject({ status: 0, stderr: '' });
  expect(readdirSync(again.stdout.trim())).toEqual(['half']);
});

test('other recipes make another folder, and leave the one that somebody may be using', () => {
  const here = kitchen('other', 'echo old > "$1/file"');
  const old = run(here, 'thing').stdout.trim();
  writeFileSync(join(here.fetch, '../fetch-thing.sh'), 'echo new > "$1/file"');
  const fresh = run(here, 'thing').stdout.trim();
  expect(basename(fresh)).not.toBe(basename(old));
  expect([old, fresh].map(folder => readFileSync(join(folder, 'file'), 'utf8'))).toEqual(['old\n', 'new\n']);
});

test('a part is made anew when a file that it is made of changes, and kept when another one does', () => {
  const here = kitchen(
    'sources',
    '# Made of: beside.sh ../kernel/module.c\ncat "$(dirname "$0")/beside.sh" > "$1/file"',
  );
  const beside = join(here.fetch, '../beside.sh');
  mkdirSync(path('kernel'));
  writeFileSync(path('kernel/module.c'), 'int x;');
  writeFileSync(beside, 'first');
  const first = run(here, 'thing').stdout;

  writeFileSync(join(here.fetch, '../other.sh'), 'of no part');
  expect(run(here, 'thing').stdout).toBe(first);
  writeFileSync(beside, 'second');
  const second = run(here, 'thing').stdout;
  expect(second).not.toBe(first);
  writeFileSync(path('kernel/module.c'), 'int y;');
  expect(run(here, 'thing').stdout).not.toBe(second);
  expect(readFileSync(join(first.trim(), 'file'), 'utf8')).toBe('first');
});

test('a file that a recipe is said to be made of and that is not there is a mistake, not another part', () => {
  const here = kitchen('missing', '# Made of: nothing.sh\ntrue');
  expect(run(here, 'thing')).toMatchObject({ status: 1, stdout: '' });
});

describe('each recipe says all that it is made of', () => {
  const folder = fileURLToPath(new URL('.', import.meta.url));
  const recipes = readdirSync(folder).filter(name => /^fetch-.*\.sh$/.test(name));

  /** The files that a script names by its own folder or by a list of names to source, and the recipes of the parts that it fetches. */
  function named(file: string): string[] {
    const text = readFileSync(join(folder, file), 'utf8');
    const lists = [...text.matchAll(/^for part in (.*); do \. "\$here\/\$part\.sh"/gm)];
    const sourced = lists.flatMap(([, names]) => names!.split(' ').map(name => `${name}.sh`));
    const files = [...text.matchAll(/\$here\/([\w./-]+\w)"/g)].map(([, name]) => name!);
    const parts = [...text.matchAll(/\$here\/fetch" ([\w.-]+)/g)].map(([, part]) => `fetch-${part}.sh`);
    return [...sourced, ...files, ...parts].filter(name => name !== 'fetch' && existsSync(join(folder, name)));
  }

  function allNamed(file: string, seen = new Set<string>()): Set<string> {
    for (const name of named(file)) {
      if (seen.has(name)) continue;
      seen.add(name);
      if (name.endsWith('.sh')) allNamed(name, seen);
    }
    return seen;
  }

  test.each(recipes)('%s', recipe => {
    const said = /^# Made of: (.*)$/m.exec(readFileSync(join(folder, recipe), 'utf8'))![1]!.split(' ');
    expect(said.toSorted()).toEqual([...allNamed(recipe)].filter(name => name !== recipe).toSorted());
  });
});

test('a mistake or a failure is said in one line', () => {
  const here = kitchen('wrong', 'echo trying; echo "no route to the archive" >&2; exit 1');
  expect(run(here)).toMatchObject({ status: 1, stderr: 'fetch: which part? thing\n' });
  expect(run(here, 'think').stderr).toBe("fetch: there is no part 'think': thing\n");
  const failed = run(here, 'thing');
  expect(failed).toMatchObject({ status: 1, stdout: '' });
  expect(failed.stderr).toMatch(/^fetch: thing failed: no route to the archive \(all of it: .*\.log\)\n$/);
  expect(readdirSync(here.cache).filter(name => !name.includes('.'))).toEqual([]);
});
