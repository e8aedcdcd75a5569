import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';
import { KernelDevice } from '../../../src/kernel/index.js';
import { encodeDeviceState, encodeFeatureRequest, Feature, MigrationState } from '../../../src/uapi/index.js';
import { createMtty, type Mtty, WITHOUT_CDEV } from './devices.js';
import { openFiles } from './open-files.js';
import { WAYS } from './ways.js';

/*
 * The client on the kernel's own sample of a device that migrates: a serial port, whose scratch register is a byte that moves with it.
 */

const { RUNNING, STOP, STOP_COPY, RESUMING, PRE_COPY, PRE_COPY_P2P } = MigrationState;
/** Register 7 of the port in region 0. */
const SCRATCH = 7;
/** STOP_COPY, P2P and PRE_COPY. */
const ALL_MIGRATION = 7;

for (const by of WITHOUT_CDEV ? [] : WAYS) {
  describe(`the migration of mtty, by ${by}`, () => {
    let mttys: Mtty[];
    before(() => {
      mttys = [createMtty(), createMtty()];
    });
    after(() => {
      for (const mtty of mttys) mtty.remove();
    });
    const opened = (index: number) => KernelDevice.open(mttys[index]!.uuid, { by });
    const allData = async (device: KernelDevice): Promise<Uint8Array> => {
      const pieces: Uint8Array[] = [];
      for (;;) {
        const piece = await device.readMigrationData(50);
        if (piece.length === 0) return new Uint8Array(Buffer.concat(pieces));
        pieces.push(piece);
      }
    };
    const stateOf = async (device: KernelDevice): Promise<Uint8Array> => {
      await device.features.setMigrationState(STOP_COPY);
      const data = await allData(device);
      await device.features.setMigrationState(RUNNING);
      return data;
    };

    it('brings the state of one device into another, while the first still runs at the beginning', async () => {
      await using source = await opened(0);
      await using destination = await opened(1);
      assert.equal(await source.features.migrationFlags(), ALL_MIGRATION);
      await source.regionWrite(0, SCRATCH, new Uint8Array([0x5a]));

      await source.features.setMigrationState(PRE_COPY);
      const offered = await source.precopyInfo();
      const early = await allData(source);
      assert.equal(BigInt(early.length), offered?.initialBytes);
      await source.regionWrite(0, SCRATCH, new Uint8Array([0xa5]));
      await source.features.setMigrationState(STOP_COPY);
      const late = await allData(source);
      assert.equal(BigInt(late.length), (await source.features.migrationDataSize()) - BigInt(early.length));

      await destination.features.setMigrationState(RESUMING);
      await destination.writeMigrationData(early);
      await destination.writeMigrationData(late);
      await destination.features.setMigrationState(RUNNING);
      assert.deepEqual([...(await destination.regionRead(0, SCRATCH, 1))], [0xa5]);
      await source.features.setMigrationState(STOP);
    });

    it('stays where it is when it cannot leave RESUMING for want of data', async () => {
      await using device = await opened(0);
      await device.features.setMigrationState(RESUMING);
      await assert.rejects(device.features.setMigrationState(RUNNING), { errno: 'EINVAL' });
      assert.equal(await device.features.migrationState(), RESUMING);
      await device.reset();
      assert.equal(await device.features.migrationState(), RUNNING);
    });

    it('takes no data that is none, and is RUNNING again after a reset', async () => {
      await using device = await opened(0);
      await device.features.setMigrationState(RESUMING);
      await assert.rejects(device.writeMigrationData(new Uint8Array(96).fill(0xee)), { errno: 'EFAULT' });
      await device.reset();
      assert.equal(await device.features.migrationState(), RUNNING);
      assert.equal((await stateOf(device)).length, 96);
    });

    it('is not asked to go from STOP_COPY to PRE_COPY, which Linux never answers, whoever brought it there', async () => {
      const first = await opened(0);
      await first.features.setMigrationState(STOP_COPY);
      for (const state of [PRE_COPY, PRE_COPY_P2P]) {
        await assert.rejects(first.features.setMigrationState(state), { errno: 'EINVAL', message: /RUNNING first/ });
        const data = encodeDeviceState({ state, dataFd: -1 });
        const request = encodeFeatureRequest({ index: Feature.MIG_DEVICE_STATE, set: true, data });
        await assert.rejects(first.door.request(request), { errno: 'EINVAL' });
        await assert.rejects(first.door.requestAsIs!(request), { errno: 'EINVAL' });
      }
      assert.ok((await first.readMigrationData(1000)).length > 0);
      await first.close();

      await using second = await opened(0);
      assert.equal(await second.features.migrationState(), STOP_COPY);
      await assert.rejects(second.features.setMigrationState(PRE_COPY), { errno: 'EINVAL', message: /RUNNING first/ });
      await second.features.setMigrationState(RUNNING);
      await second.features.setMigrationState(PRE_COPY);
      await second.features.setMigrationState(RUNNING);
    });

    it('is reset where a user before has left it in RESUMING, and goes nowhere else from there', async () => {
      const first = await opened(0);
      await first.features.setMigrationState(RESUMING);
      await first.close();

      await using second = await opened(0);
      assert.equal(await second.features.migrationState(), RESUMING);
      for (const state of [RUNNING, STOP, STOP_COPY, PRE_COPY]) {
        await assert.rejects(second.features.setMigrationState(state), {
          errno: 'EINVAL',
          message: /reset the device/,
        });
      }
      await second.reset();
      await second.features.setMigrationState(RESUMING);
      await second.reset();
      assert.equal(await second.features.migrationState(), RUNNING);
    });

    it('has data in the states that have some, and nowhere else', async () => {
      await using device = await opened(0);
      await assert.rejects(device.readMigrationData(1), { errno: 'EINVAL' });
      await assert.rejects(device.precopyInfo(), { errno: 'EINVAL' });
      await device.features.setMigrationState(STOP_COPY);
      await assert.rejects(device.precopyInfo(), { errno: 'EINVAL' });
      assert.ok((await device.readMigrationData(1000)).length > 0);
      await device.features.setMigrationState(STOP);
      await assert.rejects(device.readMigrationData(1), { errno: 'EINVAL' });
    });

    it('gives the same state twice', async () => {
      await using device = await opened(0);
      await device.regionWrite(0, SCRATCH, new Uint8Array([0x11]));
      assert.deepEqual(await stateOf(device), await stateOf(device));
    });

    it('leaks no descriptor of migration data on any way out of a state', async () => {
      const atFirst = openFiles();
      const device = await opened(0);
      const opening = openFiles();
      for (const states of [
        [STOP_COPY, RUNNING],
        [PRE_COPY, RUNNING],
        [PRE_COPY, STOP_COPY, STOP],
        [STOP_COPY, STOP],
        [RESUMING],
      ]) {
        for (const state of states) await device.features.setMigrationState(state);
        if (states.at(-1) === RESUMING) await device.reset();
        assert.deepEqual(openFiles(), opening, states.join(' '));
      }
      await assert.rejects(device.features.setMigrationState(100 as MigrationState), { errno: 'EINVAL' });
      assert.deepEqual(openFiles(), opening);
      await device.features.setMigrationState(PRE_COPY);
      await device.close();
      assert.deepEqual(openFiles(), atFirst);
    });
  });
}
