import { once } from 'node:events';
import { connect, Socket } from 'node:net';
import { describe, expect, test } from 'vitest';
import { acceptConnection, TcpListener } from '../../src/native/index.js';
import { errnoOf, expectNoFdLeak, loopUntil } from './helpers.js';

expectNoFdLeak();

describe('a TCP listener', () => {
  test.each([
    ['127.0.0.1', '127.0.0.1'],
    ['0.0.0.0', '127.0.0.1'],
    ['::1', '::1'],
    ['0:0:0:0:0:0:0:1', '::1'],
    ['::', '::1'],
    ['::ffff:127.0.0.1', '127.0.0.1'],
  ])('on %s gives the connections that come to %s', async (address, to) => {
    const listener = TcpListener.listen(address, 0);
    expect(acceptConnection(listener.fd)).toBe('again');
    const client = connect(listener.port, to);
    await once(client, 'connect');
    let connection: ReturnType<typeof acceptConnection> = 'again';
    expect(
      await loopUntil(() => {
        connection = acceptConnection(listener.fd);
        return connection !== 'again';
      }),
    ).toBe(true);
    const server = new Socket({ fd: (connection as unknown as { release(): number }).release() });
    client.write('hello');
    expect(String((await once(server, 'data'))[0])).toBe('hello');
    server.destroy();
    client.destroy();
    await Promise.all([once(server, 'close'), once(client, 'close')]);
    listener.close();
    listener.close();
    expect(listener.fd).toBe(-1);
  });

  test('says why it cannot be', () => {
    const listener = TcpListener.listen('127.0.0.1', 0);
    expect(errnoOf(() => TcpListener.listen('127.0.0.1', listener.port))).toBe('EADDRINUSE');
    expect(errnoOf(() => TcpListener.listen('192.0.2.1', 0))).toBe('EADDRNOTAVAIL');
    for (const address of ['localhost', '', '1.2.3', 'fe80::1%lo', ':::']) {
      expect(
        errnoOf(() => TcpListener.listen(address, 0)),
        address,
      ).toBe('EINVAL');
    }
    for (const port of [-1, 65536, 0.5]) expect(errnoOf(() => TcpListener.listen('127.0.0.1', port))).toBe('EINVAL');
    listener.close();
  });
});
