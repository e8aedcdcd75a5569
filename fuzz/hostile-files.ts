import { mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import koffi from 'koffi';
import { createEventFd, createMemoryFile, OwnedFd, socketPair } from '../src/native/index.js';

const library = koffi.load(null);
const memfdCreate = library.func('int memfd_create(const char *name, unsigned int flags)');
const ftruncate = library.func('int ftruncate64(int fd, int64_t size)');
const pipe = library.func('int pipe2(void *pair, int flags)');
const write = library.func('int64_t write(int fd, const void *from, size_t count)');

const O_CLOEXEC = 0o2000000;
const MFD_CLOEXEC = 1;

/** Size of the memory files, bytes. */
export const FILE_SIZE = 0x20000;

/** What a peer may send where a descriptor is expected, and where none is. */
export const FILE_KINDS = [
  'sealed memory',
  'memory that may shrink',
  'eventfd',
  'full eventfd',
  'socket',
  'pipe to read',
  'pipe to write',
  'file to read',
  'folder',
  'null device',
] as const;
export type FileKind = (typeof FILE_KINDS)[number];

/** One descriptor of each kind, open for as long as the fuzzer runs. */
export class HostileFiles {
  readonly #folder = mkdtempSync(join(tmpdir(), 'dmalog-fuzz-'));
  readonly #open = new Map<FileKind, OwnedFd>();
  readonly #others: OwnedFd[] = [];

  constructor() {
    const [socket, otherEnd] = socketPair();
    const pair = new Int32Array(2);
    pipe(pair, O_CLOEXEC);
    const readOnly = join(this.#folder, 'file');
    writeFileSync(readOnly, new Uint8Array(FILE_SIZE));
    const full = createEventFd();
    write(full.fd, BigUint64Array.of(2n ** 64n - 2n), 8);
    this.#others.push(otherEnd);
    this.#open
      .set('sealed memory', createMemoryFile('fuzz-sealed', FILE_SIZE))
      .set('memory that may shrink', new OwnedFd(memfdCreate('fuzz-open', MFD_CLOEXEC)))
      .set('eventfd', createEventFd())
      .set('full eventfd', full)
      .set('socket', socket)
      .set('pipe to read', new OwnedFd(pair[0]!))
      .set('pipe to write', new OwnedFd(pair[1]!))
      .set('file to read', new OwnedFd(openSync(readOnly, 'r')))
      .set('folder', new OwnedFd(openSync(this.#folder, 'r')))
      .set('null device', new OwnedFd(openSync('/dev/null', 'r+')));
    this.resize(FILE_SIZE);
  }

  /** The descriptor; it stays this object's. */
  fd(kind: FileKind): number {
    return this.#open.get(kind)!.fd;
  }

  /** Shrinks or grows the memory file that may, whoever has it mapped. */
  resize(size: number): void {
    ftruncate(this.fd('memory that may shrink'), size);
  }

  close(): void {
    for (const file of [...this.#open.values(), ...this.#others]) file.close();
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
