import { onTestFinished } from 'vitest';
import { listen, type OwnedFd, socketPair } from '../../src/native/index.js';
import { type ClientOptions, Command, VfioUserClient } from '../../src/vfio-user/index.js';
import { ERROR_REPLY, message, Peer, REPLY, type ReceivedMessage, versionPayload } from './peer.js';

/** A client, and a server that is the test itself; gone after the test. */
export async function rawServer(
  path: string,
  options: ClientOptions = {},
  json = '{}',
  fds: readonly OwnedFd[] = [],
): Promise<{ client: VfioUserClient; server: Peer }> {
  const listener = listen(path);
  const connecting = VfioUserClient.connect(path, options);
  const server = await Peer.accept(listener);
  onTestFinished(async () => {
    server.close();
    listener.close();
    await (await connecting.catch(() => undefined))?.close();
  });
  const { id } = await server.reply();
  const numbers = fds.map(({ fd }) => fd);
  await server.send(message(Command.VERSION, versionPayload(json), { id, flags: REPLY }), numbers);
  for (const fd of fds) fd.close();
  return { client: await connecting, server };
}

/** The same, with a second connection for the server's commands. */
export async function rawTwinServer(
  path: string,
  options: ClientOptions = {},
): Promise<{ client: VfioUserClient; server: Peer; twin: Peer }> {
  const [mine, theirs] = socketPair();
  const twin = new Peer(mine);
  onTestFinished(() => twin.close());
  const json = '{"capabilities":{"twin_socket":{"supported":true,"fd_index":0}}}';
  return { ...(await rawServer(path, options, json, [theirs])), twin };
}

/** Answers the next request with success. */
export async function answer(
  server: Peer,
  payload: Uint8Array = new Uint8Array(0),
  fds: readonly number[] = [],
): Promise<ReceivedMessage> {
  const request = await server.reply();
  await server.send(message(request.command, payload, { id: request.id, flags: REPLY }), fds);
  return request;
}

/** Refuses the next request. */
export async function refuse(server: Peer, errno: number): Promise<ReceivedMessage> {
  const request = await server.reply();
  const { id, command } = request;
  await server.send(message(command, new Uint8Array(0), { id, flags: ERROR_REPLY, errno }));
  return request;
}
