import { expect, test } from 'vitest';
import {
  DMA_ENGINE_MAGIC,
  DmaEngine,
  DmaEngineCommand,
  DmaEngineRegister as Register,
} from '../../src/devices/dma-engine/index.js';
import { temporaryFolder } from '../native/helpers.js';
import { boot, serve } from './guests.js';
import { DeviceTracker } from './tracker.js';

const path = temporaryFolder();

/** Memory that the guest's kernel leaves alone. */
const AREA = 0x800_0000;
const AREA_LENGTH = 0x10_0000;
const PATTERN = '0x1122334455667788';

test('a guest drives a device by its registers, finds in memory what the device wrote, and the log names those pages', async () => {
  const engine = new DmaEngine();
  await serve(engine, path('engine'));
  const tracker = await DeviceTracker.start(path('engine'), AREA + AREA_LENGTH);

  const guest = await boot({ devices: [path('engine')], kernelArguments: `memmap=${AREA_LENGTH}$${AREA}` });
  const answer = await guest.run(`
    cd "$(dirname "$(grep -l 0xd3a0 /sys/bus/pci/devices/*/device)")"
    echo -ne '\\006' | dd of=config bs=1 seek=4 conv=notrunc 2> /dev/null
    bar=$(head -1 resource | cut -d' ' -f1)
    read_register() { devmem $((bar + $1)) $2; }
    write_register() { devmem $((bar + $1)) $2 $3; }
    read_register ${Register.MAGIC} 32
    write_register ${Register.DESTINATION} 64 ${AREA + 0x1800}
    write_register ${Register.LENGTH} 64 0x1000
    write_register ${Register.PATTERN} 64 ${PATTERN}
    write_register ${Register.COMMAND} 32 ${DmaEngineCommand.FILL}
    while [ $(read_register ${Register.COMPLETIONS} 32) = 0x00000000 ]; do :; done
    read_register ${Register.COMMAND_STATUS} 32
    for offset in 0x17f8 0x1800 0x27f8 0x2800; do devmem $((${AREA} + offset)) 64; done
  `);
  const zeros = '0x0000000000000000';
  const magic = `0x${DMA_ENGINE_MAGIC.toString(16).toUpperCase()}`;
  expect(answer.trim().split('\n')).toEqual([magic, '0x00000000', zeros, PATTERN, PATTERN, zeros]);

  expect([...(await tracker.report())]).toEqual([AREA / 4096 + 1, AREA / 4096 + 2]);
});
