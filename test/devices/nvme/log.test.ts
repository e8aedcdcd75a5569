import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { MemoryDisk } from '../../../src/devices/nvme/index.js';
import { addressOf, anyBuffer, describeBuffer, type HostBuffer } from './host-buffer.js';
import { MEMORY_SIZE, NvmeHost, requireSuccess } from './nvme-host.js';

const BLOCK = 512;

interface Job {
  opcode: number;
  blocks: number;
  buffer: HostBuffer;
}

const anyJob: fc.Arbitrary<Job> = fc
  .tuple(fc.constantFrom(1, 2, 2, 2, 5), fc.integer({ min: 1, max: 96 }))
  .chain(([opcode, blocks]) => anyBuffer(blocks * BLOCK, 4096, 0, 1).map(buffer => ({ opcode, blocks, buffer })));

/** The pages that a report of all memory names. */
function reported(host: NvmeHost): Set<number> {
  const bitmap = new Uint32Array(MEMORY_SIZE / 4096 / 32);
  host.controller.dma.log.report(0n, BigInt(MEMORY_SIZE), 4096n, bitmap);
  const pages = new Set<number>();
  for (let page = 0; page < bitmap.length * 32; page++) {
    if (((bitmap[page >>> 5]! >>> (page & 31)) & 1) === 1) pages.add(page);
  }
  return pages;
}

describe('the DMA log', () => {
  test.each([false, true])(
    'holds the pages that reads and completions wrote, and no others (late memory: %s)',
    async late => {
      const disk = new MemoryDisk(2 ** 20);
      disk.content.fill(0xd1);
      await fc.assert(
        fc.asyncProperty(fc.array(anyJob, { minLength: 1, maxLength: 8 }), async jobs => {
          const host = new NvmeHost({ disk, late });
          await host.start(1, 4);
          const { log } = host.controller.dma;
          log.start(4096n, [{ iova: 0n, length: BigInt(MEMORY_SIZE) }]);
          // The driver's second completion queue: the one that these commands complete to.
          const naive = new Set([0x12_0000 / 4096]);
          for (const { opcode, blocks, buffer } of jobs) {
            const prps = describeBuffer(buffer, host.memory, 4096);
            const done = await host.submit(1, { opcode, namespaceId: 1, ...prps, dwords: [0, 0, blocks - 1] });
            if (opcode !== 5) requireSuccess(done);
            if (opcode !== 2) continue;
            for (let index = 0; index < buffer.length; index += 4) {
              naive.add(Math.floor(addressOf(buffer, index, 4096) / 4096));
            }
          }
          expect(reported(host)).toEqual(naive);
          expect(reported(host).size).toBe(0);
          await host.close();
        }),
        { numRuns: late ? 15 : 60 },
      );
    },
  );
});
