// A peer in a process of its own, written without dmalog: koffi's structures instead of hand-packed ones, blocking calls.
//   node peer.mjs <socket path>
// It makes a memory file that says "from the peer", sends it with the bytes "hello", waits for the answer, checks that the file
// then says "from the host", and sends the checked bytes back.
import koffi from 'koffi';

const libc = koffi.load(null);
koffi.struct('iovec', { base: 'void *', length: 'size_t' });
koffi.struct('message', {
  name: 'void *',
  nameLength: 'uint32_t',
  iov: 'iovec *',
  iovCount: 'size_t',
  control: 'void *',
  controlLength: 'size_t',
  flags: 'int',
});
const socket = libc.func('int socket(int, int, int)');
const connect = libc.func('int connect(int, const void *, uint32_t)');
const memfd = libc.func('int memfd_create(const char *, unsigned int)');
const pwrite = libc.func('int64_t pwrite(int, const void *, size_t, int64_t)');
const pread = libc.func('int64_t pread(int, _Out_ uint8_t *, size_t, int64_t)');
const recv = libc.func('int64_t recv(int, _Out_ uint8_t *, size_t, int)');
const send = libc.func('int64_t send(int, const void *, size_t, int)');
const sendmsg = libc.func('int64_t sendmsg(int, const message *, int)');

const path = process.argv[2];
const address = Buffer.alloc(110);
address.writeUInt16LE(1, 0);
address.write(path, 2);
const fd = socket(1, 1, 0);
if (connect(fd, address, 110) !== 0) throw new Error(`connect: ${koffi.errno()}`);

const file = memfd('peer', 0);
pwrite(file, Buffer.from('from the peer'), 13, 0);

const control = Buffer.alloc(24);
control.writeBigUInt64LE(20n, 0);
control.writeInt32LE(1, 8);
control.writeInt32LE(1, 12);
control.writeInt32LE(file, 16);
const hello = Buffer.from('hello');
const sent = sendmsg(
  fd,
  {
    name: null,
    nameLength: 0,
    iov: [{ base: hello, length: hello.length }],
    iovCount: 1,
    control,
    controlLength: 24,
    flags: 0,
  },
  0,
);
if (sent !== 5) throw new Error(`sendmsg: ${sent} ${koffi.errno()}`);

const answer = Buffer.alloc(16);
if (recv(fd, answer, 16, 0) <= 0) throw new Error('no answer');
const now = Buffer.alloc(13);
pread(file, now, 13, 0);
send(fd, now, 13, 0);
