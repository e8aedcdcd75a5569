import { buildKernels } from '../scripts/build-kernels.mjs';

/** The tests run on src/, where the kernels' module is made and not kept: a fresh clone may be tested without a build. */
export default function setup(): void {
  buildKernels();
}
