import { WITHOUT_CDEV } from './devices.js';

/** The ways to a device that this kernel has, as the client names them. */
export const WAYS: readonly ('container' | 'iommufd')[] = WITHOUT_CDEV ? ['container'] : ['container', 'iommufd'];
