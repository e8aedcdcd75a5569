import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);
const folder = fileURLToPath(new URL('.', import.meta.url));

/** What a guest is booted from. */
export interface MachineParts {
  /** The program. */
  readonly qemu: string;
  /** Linux, an ELF image. */
  readonly kernel: string;
  /** Its first root, a cpio archive. */
  readonly initrd: string;
  /** `tool sbin/e2fsck …` runs e2fsprogs on this machine. */
  readonly tool: string;
  readonly accelerator: 'kvm' | 'tcg';
}

/** Fetches what is not in the cache yet, and finds out whether KVM works. Calls may come at the same time, from several processes too. */
export async function machineParts(): Promise<MachineParts> {
  const [qemu, guest] = (await run(join(folder, 'fetch'), ['qemu', 'guest'])).stdout.trim().split('\n') as [
    string,
    string,
  ];
  const { stdout } = await run(join(folder, 'accelerator'));
  return {
    qemu: join(qemu, 'qemu'),
    kernel: join(guest, 'vmlinux'),
    initrd: join(guest, 'initrd.cpio'),
    tool: join(guest, 'tool'),
    accelerator: stdout.trim() === 'kvm' ? 'kvm' : 'tcg',
  };
}
