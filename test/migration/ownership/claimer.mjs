// claimer.mjs FOLDER MACHINE TIMES: claims a machine again and again, and tells its parent each epoch that it got.
import { claimOwnership, FileOwnershipStore } from '../../../dist/migration/index.js';

const [folder, machine, times] = process.argv.slice(2);
const ownership = { store: new FileOwnershipStore(folder), machine, self: 'a' };
for (let done = 0; done < Number(times); ) {
  try {
    const { epoch } = await claimOwnership(ownership);
    await new Promise(resolve => process.send(epoch, resolve));
    done++;
  } catch (error) {
    // Another process was faster.
    if (error.errno !== 'ESTALE') throw error;
  }
}
process.disconnect();
