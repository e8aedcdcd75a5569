import { existsSync, statSync, writeFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { connect, openFdCount } from '../../src/native/index.js';
import { VfioUserClient, VfioUserServer } from '../../src/vfio-user/index.js';
import { expectNoFdLeak, temporaryFolder } from '../native/helpers.js';
import { childProcesses, killed } from './child.js';
import { Peer } from './peer.js';
import { rejection, serve } from './served.js';
import { StampDevice } from './stamp-device.js';

expectNoFdLeak();
const path = temporaryFolder();
const runChild = childProcesses();

test('is for its owner alone, whatever the umask', async () => {
  const before = process.umask(0);
  try {
    await serve(path('a'));
  } finally {
    process.umask(before);
  }
  expect(statSync(path('a')).mode & 0o777).toBe(0o600);
  expect(statSync(path('a')).isSocket()).toBe(true);
});

test('that a server serves on is not taken', async () => {
  await serve(path('b'));
  const fds = openFdCount();
  expect(await rejection(VfioUserServer.listen(new StampDevice(), { path: path('b') }))).toBe('EADDRINUSE');
  expect(openFdCount()).toBe(fds);
  const client = await VfioUserClient.connect(path('b'));
  await client.close();
});

test('that a killed server left behind is replaced', async () => {
  const child = await runChild('serve', path('c'));
  await killed(child);
  expect(existsSync(path('c'))).toBe(true);
  expect(await rejection(VfioUserClient.connect(path('c')))).toBe('ECONNREFUSED');
  await serve(path('c'));
  const client = await VfioUserClient.connect(path('c'));
  await client.close();
});

test('that is something else is left alone', async () => {
  writeFileSync(path('d'), 'a letter');
  expect(await rejection(VfioUserServer.listen(new StampDevice(), { path: path('d') }))).toBe('EEXIST');
  expect(statSync(path('d')).size).toBe(8);
});

test('is removed when the server is closed', async () => {
  const { server } = await serve(path('e'));
  await server.close();
  expect(existsSync(path('e'))).toBe(false);
});

test('with a path that does not fit, or in no folder, is refused', async () => {
  for (const [bad, errno] of [
    ['', 'EINVAL'],
    ['\0abstract', 'EINVAL'],
    ['@abstract', 'EINVAL'],
    [path('x'.repeat(108)), 'EINVAL'],
    [path('no/folder'), 'ENOENT'],
  ] as const) {
    expect(await rejection(VfioUserServer.listen(new StampDevice(), { path: bad }))).toBe(errno);
  }
});

test('is none for an abstract name, which is served only when that is asked for', async () => {
  const name = `@dmalog-${process.pid}`;
  await serve(name, { abstract: true });
  expect(existsSync(name)).toBe(false);
  const peer = new Peer(connect(name, { abstract: true }));
  expect((await peer.greet()).flags).toBe(1);
  peer.close();
  expect(await rejection(VfioUserServer.listen(new StampDevice(), { path: name, abstract: true }))).toBe('EADDRINUSE');
});
