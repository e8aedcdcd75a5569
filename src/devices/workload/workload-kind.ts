/** How a workload chooses the pages that it writes, as devices number it. */
export const WorkloadKind = { SEQUENTIAL: 0, UNIFORM: 1, HOT_SET: 2, RINGS: 3 } as const;

/** The same by name. */
export type WorkloadKindName = 'sequential' | 'uniform' | 'hot-set' | 'rings';

/** The number of each name. */
export const workloadKindNumbers: Readonly<Record<WorkloadKindName, number>> = {
  sequential: WorkloadKind.SEQUENTIAL,
  uniform: WorkloadKind.UNIFORM,
  'hot-set': WorkloadKind.HOT_SET,
  rings: WorkloadKind.RINGS,
};
