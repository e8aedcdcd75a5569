import { createHash } from 'node:crypto';
import { realpathSync } from 'node:fs';
import { Command, InvalidArgumentError, Option } from 'commander';
import {
  DEFAULT_QUEUES,
  type Disk,
  FileDisk,
  isSerial,
  MAX_QUEUES,
  MemoryDisk,
  NvmeController,
  SERIAL_SIZE,
} from '../../devices/nvme/index.js';
import { asVfioError, VfioError } from '../../uapi/index.js';
import { oneOf, parseSize, wholeNumber } from '../arguments.js';
import { qemuExample, SERVED_UNTIL } from './help.js';
import { serve } from './serve.js';

interface NvmeArguments {
  socket: string;
  file?: string;
  size?: number;
  memory?: number;
  queues: number;
  blockSize: string;
  serial?: string;
  readOnly?: boolean;
  shared?: boolean;
}

/** `dmalog device nvme`. */
export function nvmeCommand(): Command {
  return new Command('nvme')
    .description('an NVMe 1.4 disk, on a file or in memory')
    .requiredOption('--socket <path>', 'UNIX socket to serve vfio-user on')
    .addOption(new Option('--file <path>', 'file that holds the disk').conflicts('memory'))
    .addOption(
      new Option('--size <bytes>', 'make the file, sparse, if it is not there yet')
        .argParser(parseSize)
        .conflicts(['memory', 'readOnly']),
    )
    .addOption(new Option('--memory <bytes>', 'a disk in memory instead, gone at the end').argParser(parseSize))
    .addOption(new Option('--read-only', 'the guest cannot write').conflicts('memory'))
    .addOption(
      new Option('--shared', 'take the file although it is in use: at the other end of a migration').conflicts(
        'memory',
      ),
    )
    .option(
      '--queues <count>',
      "I/O queue pairs, one for each of the guest's CPUs",
      wholeNumber(1, MAX_QUEUES),
      DEFAULT_QUEUES,
    )
    .option('--block-size <bytes>', 'logical block', oneOf(['512', '1024', '2048', '4096']), '512')
    .option(
      '--serial <text>',
      "serial number, at most 20 characters (default: one that follows from the file's path)",
      serialNumber,
    )
    .addHelpText(
      'after',
      `
Examples:
  $ dmalog device nvme --file disk.img --size 8G --socket /run/disk.sock
  $ dmalog device nvme --memory 256M --socket /run/disk.sock
${qemuExample('/run/disk.sock')}

${SERVED_UNTIL}`,
    )
    .action(async (options: NvmeArguments, command: Command) => {
      if (options.file === undefined && options.memory === undefined) {
        command.error("error: one of '--file <path>' and '--memory <bytes>' is needed");
      }
      const disk = await openDisk(options);
      const controller = new NvmeController({
        disk,
        queues: options.queues,
        blockSize: Number(options.blockSize),
        ...serialOption(options),
      });
      const code = await serve(controller, options.socket);
      await disk.close();
      process.exit(code);
    });
}

async function openDisk(options: NvmeArguments): Promise<Disk> {
  const { file, size, memory, readOnly = false, shared = false } = options;
  if (file === undefined) return new MemoryDisk(memory!);
  try {
    const disk = await FileDisk.open(file, { readOnly, shared });
    if (size === undefined || size === disk.size) return disk;
    await disk.close();
    throw new VfioError('EEXIST', {
      operation: '--size',
      message: `${file} is there already and has ${disk.size} bytes; leave --size out to use it`,
    });
  } catch (error) {
    if (asVfioError(error, 'open').errno !== 'ENOENT') throw error;
    if (size !== undefined) return createDisk(file, size, Number(options.blockSize));
    throw new VfioError('ENOENT', {
      operation: '--file',
      message: `there is no ${file}; --size makes one`,
      cause: error,
    });
  }
}

/** A file that no controller takes must not be left behind. */
async function createDisk(file: string, size: number, blockSize: number): Promise<Disk> {
  if (size % blockSize === 0) return FileDisk.create(file, size);
  throw new VfioError('EINVAL', {
    operation: '--size',
    message: `${size} bytes are not a multiple of ${blockSize}, a block's`,
  });
}

function serialNumber(text: string): string {
  if (isSerial(text)) return text;
  throw new InvalidArgumentError(`It takes 1 to ${SERIAL_SIZE} printable ASCII characters.`);
}

/** The same file gets the same serial number, so that a guest that names its disks by that finds them again. */
function serialOption({ serial, file }: NvmeArguments): { serial?: string } {
  if (serial !== undefined) return { serial };
  if (file === undefined) return {};
  const hash = createHash('sha256').update(realpathSync(file)).digest('hex');
  return { serial: `DMALOG${hash.slice(0, 12).toUpperCase()}` };
}
