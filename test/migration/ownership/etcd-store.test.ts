import { readFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  EtcdOwnershipStore,
  type EtcdOwnershipStoreOptions,
  encodeRecord,
  firstRecord,
  successor,
} from '../../../src/migration/index.js';
import { EtcdServer } from './etcd-server.js';
import { describeStore, newMachine } from './store-rules.js';

const NOBODY = 'http://127.0.0.1:1';

let etcd: EtcdServer;
beforeAll(async () => {
  etcd = await EtcdServer.start();
}, 300_000);
afterAll(() => etcd.stop());

const servers: Server[] = [];
afterEach(() => {
  for (const server of servers.splice(0)) server.close().closeAllConnections();
});

function storeAt(endpoints: string[], options: Partial<EtcdOwnershipStoreOptions> = {}): EtcdOwnershipStore {
  return new EtcdOwnershipStore({ endpoints, ...options });
}

/** A member that does as a test says with each request, with what etcd would answer. */
async function memberWith(
  play: (respond: { answer(): Promise<void>; raw(status: number, body: string): void; cut(): void }) => void,
): Promise<string> {
  const server = createServer(async (request, response) => {
    const pieces: Buffer[] = [];
    for await (const piece of request) pieces.push(piece as Buffer);
    const raw = (status: number, body: string) => void response.writeHead(status).end(body);
    const ask = async () => {
      const { authorization } = request.headers;
      const reply = await fetch(new URL(request.url!, etcd.endpoint), {
        method: 'POST',
        body: Buffer.concat(pieces),
        ...(authorization && { headers: { authorization } }),
      });
      return { status: reply.status, body: await reply.text() };
    };
    play({
      raw,
      cut: () => void ask().then(() => response.destroy()),
      async answer() {
        const { status, body } = await ask();
        raw(status, body);
      },
    });
  });
  servers.push(server);
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve));
  return `http://127.0.0.1:${(server.address() as { port: number }).port}`;
}

describe('etcd', () => {
  describeStore(() => storeAt([etcd.endpoint]));

  it('is asked at the next member when one is not there', async () => {
    const store = storeAt([NOBODY, etcd.endpoint]);
    const record = firstRecord(newMachine(), 'a');
    expect(await store.compareAndSet(undefined, record)).toEqual({ outcome: 'set' });
    expect(await store.read(record.machine)).toEqual(record);
  });

  it('has surely set nothing when no member is there', async () => {
    const result = await storeAt([NOBODY, NOBODY]).compareAndSet(undefined, firstRecord(newMachine(), 'a'));
    expect(result).toMatchObject({ outcome: 'not-set', error: { errno: 'ECONNREFUSED' } });
    await expect(storeAt([NOBODY]).read('vm')).rejects.toMatchObject({ errno: 'ECONNREFUSED' });
  });

  it('leaves open what became of a request whose answer was lost, and says so', async () => {
    const member = await memberWith(({ cut }) => cut());
    const record = firstRecord(newMachine(), 'a');
    const result = await storeAt([member]).compareAndSet(undefined, record);
    expect(result).toMatchObject({ outcome: 'unknown', error: { errno: 'ECONNRESET' } });
    // That another member is not there does not make it known.
    expect(await storeAt([member, NOBODY]).compareAndSet(record, record)).toMatchObject({ outcome: 'unknown' });
    expect(await storeAt([etcd.endpoint]).read(record.machine)).toEqual(record);
  });

  it('shows a record that was set by the request before, whose answer was lost', async () => {
    const member = await memberWith(({ cut }) => cut());
    const record = firstRecord(newMachine(), 'a');
    const result = await storeAt([member, etcd.endpoint]).compareAndSet(undefined, record);
    expect(result).toEqual({ outcome: 'conflict', current: record });
  });

  it.each([
    ['no leader', 503, '{"code":14,"message":"etcdserver: no leader"}', 'EIO'],
    ['a proxy’s page', 502, '<html>', 'EIO'],
    ['an answer that is none', 200, '{}', 'EBADMSG'],
    ['a transaction without its range', 200, '{"responses":[{}]}', 'EBADMSG'],
    ['an endless answer', 200, ' '.repeat(100_000), 'EIO'],
  ])('leaves open what became of a request that is answered with %s', async (_, status, body, errno) => {
    const store = storeAt([await memberWith(({ raw }) => raw(status, body))]);
    const result = await store.compareAndSet(undefined, firstRecord(newMachine(), 'a'));
    expect(result).toMatchObject({ outcome: 'unknown', error: { errno } });
    await expect(store.read('vm')).rejects.toMatchObject({ errno });
  });

  it('is not waited for longer than asked', async () => {
    const store = storeAt([await memberWith(() => {})], { timeoutMs: 100 });
    const result = await store.compareAndSet(undefined, firstRecord(newMachine(), 'a'));
    expect(result).toMatchObject({ outcome: 'unknown', error: { errno: 'ETIMEDOUT' } });
  });

  it('neither believes nor replaces a key that is no record', async () => {
    const record = firstRecord(newMachine(), 'a');
    const key = Buffer.from(`/dmalog/ownership/${record.machine}`).toString('base64');
    const value = Buffer.from(`${encodeRecord(record)} `).toString('base64');
    await fetch(`${etcd.endpoint}/v3/kv/put`, { method: 'POST', body: JSON.stringify({ key, value }) });
    const store = storeAt([etcd.endpoint]);
    await expect(store.read(record.machine)).rejects.toMatchObject({ errno: 'EBADMSG' });
    expect(await store.compareAndSet(record, successor(record, 'b'))).not.toMatchObject({ outcome: 'set' });
  });

  it.each([[[]], [['127.0.0.1:2379']], [['ftp://127.0.0.1']]])('refuses the endpoints %j', endpoints => {
    expect(() => storeAt(endpoints)).toThrow(expect.objectContaining({ errno: 'EINVAL', field: 'endpoints' }));
  });
});

describe('etcd with authentication', () => {
  let guarded: EtcdServer;
  const user = { name: 'dmalog', password: 'secret' };

  async function tell(path: string, body: object): Promise<void> {
    const reply = await fetch(`${guarded.endpoint}/v3/auth/${path}`, { method: 'POST', body: JSON.stringify(body) });
    expect(reply.status).toBe(200);
  }

  beforeAll(async () => {
    guarded = await EtcdServer.start();
    const key = Buffer.from('/dmalog/').toString('base64');
    const end = Buffer.from('/dmalog0').toString('base64');
    await tell('user/add', { name: 'root', password: 'root' });
    await tell('role/add', { name: 'root' });
    await tell('user/grant', { user: 'root', role: 'root' });
    await tell('user/add', user);
    await tell('role/add', { name: 'machines' });
    await tell('role/grant', { name: 'machines', perm: { permType: 'READWRITE', key, range_end: end } });
    await tell('user/grant', { user: user.name, role: 'machines' });
    await tell('enable', {});
  }, 60_000);
  afterAll(() => guarded.stop());

  it('serves who may, also when the token has become invalid', async () => {
    const record = firstRecord(newMachine(), 'a');
    const store = storeAt([guarded.endpoint], { user });
    expect(await store.compareAndSet(undefined, record)).toEqual({ outcome: 'set' });
    // A new password makes every token of the user invalid.
    const root = await fetch(`${guarded.endpoint}/v3/auth/authenticate`, {
      method: 'POST',
      body: JSON.stringify({ name: 'root', password: 'root' }),
    });
    const { token } = (await root.json()) as { token: string };
    await fetch(`${guarded.endpoint}/v3/auth/user/changepw`, {
      method: 'POST',
      headers: { authorization: token },
      body: JSON.stringify(user),
    });
    expect(await store.compareAndSet(record, successor(record, 'b'))).toEqual({ outcome: 'set' });
  });

  it.each([
    ['nobody', {}],
    ['somebody with a wrong password', { user: { ...user, password: 'guess' } }],
    ['somebody without the right to the key', { user, prefix: '/elsewhere/' }],
  ])('has surely set nothing for %s', async (_, options) => {
    const result = await storeAt([guarded.endpoint], options).compareAndSet(undefined, firstRecord(newMachine(), 'a'));
    expect(result).toMatchObject({ outcome: 'not-set' });
  });
});

describe('etcd over TLS', () => {
  let secure: EtcdServer;
  beforeAll(async () => {
    secure = await EtcdServer.start('https');
  }, 60_000);
  afterAll(() => secure.stop());

  it('is asked when its certificate is trusted', async () => {
    const ca = readFileSync(join(secure.folder, 'fixtures/client/cert.pem'));
    const store = storeAt([secure.endpoint], { tls: { ca } });
    const record = firstRecord(newMachine(), 'a');
    expect(await store.compareAndSet(undefined, record)).toEqual({ outcome: 'set' });
    expect(await store.read(record.machine)).toEqual(record);
  });

  it('is told nothing when its certificate is not', async () => {
    const result = await storeAt([secure.endpoint]).compareAndSet(undefined, firstRecord(newMachine(), 'a'));
    expect(result).toMatchObject({ outcome: 'not-set' });
    expect((result as { error: Error }).error.message).toMatch(/self[- ]signed/);
  });
});
