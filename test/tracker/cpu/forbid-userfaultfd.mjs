// Forbids this process, and all that it starts, the system call userfaultfd, as the seccomp profile of a container does: `node --import` this.
import koffi from 'koffi';

const PR_SET_NO_NEW_PRIVS = 38;
const PR_SET_SECCOMP = 22;
const SECCOMP_MODE_FILTER = 2;
const EPERM = 1;

/** A filter's instruction: u16 code, u8 jumps if true and if false, u32 operand. */
const instruction = (code, whenTrue, whenFalse, operand) => {
  const bytes = Buffer.alloc(8);
  bytes.writeUInt16LE(code, 0);
  bytes[2] = whenTrue;
  bytes[3] = whenFalse;
  bytes.writeUInt32LE(operand, 4);
  return bytes;
};
const LOAD_NUMBER = instruction(0x20, 0, 0, 0);
const SKIP_UNLESS_USERFAULTFD = instruction(0x15, 0, 1, 323);
const REFUSE = instruction(0x06, 0, 0, 0x00050000 | EPERM);
const ALLOW = instruction(0x06, 0, 0, 0x7fff0000);
const filter = Buffer.concat([LOAD_NUMBER, SKIP_UNLESS_USERFAULTFD, REFUSE, ALLOW]);
const program = Buffer.alloc(16);
program.writeUInt16LE(filter.length / 8, 0);
program.writeBigUInt64LE(koffi.address(filter), 8);

const prctl = koffi.load(null).func('int prctl(int option, uint64_t a, void *b, uint64_t c, uint64_t d)');
const failed =
  prctl(PR_SET_NO_NEW_PRIVS, 1, null, 0, 0) !== 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0) !== 0;
if (failed) throw new Error(`prctl: errno ${koffi.errno()}`);
