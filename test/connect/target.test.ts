import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseTarget, TARGET_FORMS } from '../../src/connect/index.js';
import { VfioError } from '../../src/uapi/index.js';

const uuid = '83b8f4f2-509f-382f-3c1e-e6bfe0fa1001';

describe('a target', () => {
  it.each([
    ['vfio-user:/run/dev.sock', { transport: 'vfio-user', path: '/run/dev.sock', abstract: false }],
    ['vfio-user:dev.sock', { transport: 'vfio-user', path: 'dev.sock', abstract: false }],
    ['vfio-user:/run/a:b.sock', { transport: 'vfio-user', path: '/run/a:b.sock', abstract: false }],
    ['vfio-user:./@dev', { transport: 'vfio-user', path: './@dev', abstract: false }],
    ['vfio-user:@dev', { transport: 'vfio-user', path: '@dev', abstract: true }],
    ['vfio:0000:3b:00.2', { transport: 'vfio', name: '0000:3b:00.2' }],
    [`vfio:${uuid}`, { transport: 'vfio', name: uuid }],
    ['vfio:vdlog.0', { transport: 'vfio', name: 'vdlog.0' }],
    ['vfio:/dev/vfio/devices/vfio0', { transport: 'vfio', name: '/dev/vfio/devices/vfio0' }],
    ['vfio:/dev/vfio/12:0000:3b:00.2', { transport: 'vfio', name: '/dev/vfio/12:0000:3b:00.2' }],
    ['local:dma-engine', { transport: 'local', from: 'shipped', name: 'dma-engine' }],
    ['local:./my-device.mjs', { transport: 'local', from: 'module', name: './my-device.mjs' }],
    ['local:my-device.js', { transport: 'local', from: 'module', name: 'my-device.js' }],
    ['local:/opt/device', { transport: 'local', from: 'module', name: '/opt/device' }],
  ])('%s is read', (text, target) => {
    expect(parseTarget(text)).toEqual(target);
  });

  it.each(['', 'dma-engine', '/run/dev.sock', 'vfio-user:', 'vfio:', 'local:', 'VFIO:0000:3b:00.2'])(
    '%j is refused in one line that lists the forms',
    text => {
      let error: unknown;
      try {
        parseTarget(text);
      } catch (thrown) {
        error = thrown;
      }
      expect(error).toMatchObject({ errno: 'EINVAL', operation: 'connect', field: 'target' });
      const { message } = error as VfioError;
      expect(message).not.toContain('\n');
      for (const form of TARGET_FORMS) expect(message).toContain(form);
    },
  );

  it('is read or refused, whatever is typed', () => {
    fc.assert(
      fc.property(fc.constantFrom('', 'vfio:', 'vfio-user:', 'local:'), fc.string({ unit: 'binary' }), (head, rest) => {
        try {
          expect(['vfio', 'vfio-user', 'local']).toContain(parseTarget(head + rest).transport);
        } catch (error) {
          expect(error).toBeInstanceOf(VfioError);
        }
      }),
    );
  });

  it('in each form of the list is read', () => {
    for (const form of TARGET_FORMS) {
      expect(() => parseTarget(form.replace('UUID', uuid))).not.toThrow();
    }
  });
});
