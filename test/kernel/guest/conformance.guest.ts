import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import {
  type ConformanceReport,
  type ConformOptions,
  checks,
  conform,
  VdlogStimulus,
} from '../../../src/conformance/index.js';
import { connect } from '../../../src/connect/index.js';
import type { OpenOptions } from '../../../src/kernel/index.js';
import { openDeviceFiles } from './device-files.js';
import { createMtty, KERNEL } from './devices.js';

/*
 * The whole suite on the kernel's devices gives what docs/conformance.md says, row by row of its table.
 */

/** How long a run may take, milliseconds: without KVM on a busy machine it has taken 95 s. */
const RUN_TIMEOUT_MS = 400_000;
const OPENED_BY: Readonly<Record<string, OpenOptions['by']>> = { group: 'container', 'character device': 'iommufd' };

/** A row of the table: what a device gives on a kernel. */
interface DocumentedRun {
  kernel: string;
  device: string;
  openedBy: string;
  passed: number;
  failed: number;
  notRun: number;
  failedChecks: string[];
}

function documentedRuns(): DocumentedRun[] {
  const text = readFileSync('docs/conformance.md', 'utf8');
  const table = /^\| kernel \| device \| opened by .*\n.*\n((\|.*\n)+)/m.exec(text)![1]!;
  return table.trimEnd().split('\n').map(documentedRun);
}

function documentedRun(row: string): DocumentedRun {
  const cells = row.split('|').map(cell => cell.trim());
  const [, kernel, device, openedBy, passed, failed, notRun, failedChecks] = cells as string[];
  return {
    kernel: kernel!,
    device: device!,
    openedBy: openedBy!,
    passed: Number(passed),
    failed: Number(failed),
    notRun: Number(notRun),
    failedChecks: [...failedChecks!.matchAll(/`(.*?)`/g)].map(([, name]) => name!),
  };
}

async function runSuite(target: string, by: OpenOptions['by'], options: ConformOptions): Promise<ConformanceReport> {
  const before = openDeviceFiles();
  const report = await conform(() => connect(target, { kernel: { by: by! } }), options);
  assert.deepEqual(openDeviceFiles(), before);
  return report;
}

async function runOn(device: string, by: OpenOptions['by']): Promise<ConformanceReport> {
  if (device === 'vdlog') return runSuite('vfio:vdlog.0', by, { stimulus: new VdlogStimulus() });
  const mtty = createMtty();
  try {
    return await runSuite(`vfio:${mtty.uuid}`, by, {});
  } finally {
    mtty.remove();
  }
}

describe('the conformance suite', () => {
  const runs = documentedRuns().filter(({ kernel }) => kernel === KERNEL);

  it('has results of this kernel in its document', () => {
    assert.ok(runs.length > 0);
  });

  for (const { device, openedBy, passed, failed, notRun, failedChecks } of runs) {
    const name = `gives ${device}, opened by its ${openedBy}, the result that docs/conformance.md has`;
    it(name, { timeout: RUN_TIMEOUT_MS }, async () => {
      const { results, counts, leftBehind } = await runOn(device, OPENED_BY[openedBy]);
      const failures = results.filter(({ verdict }) => verdict === 'failed' || verdict === 'error');
      const seen = failures.map(({ check, seen }) => `${check.name}: ${seen}`).join('\n');
      assert.deepEqual(failures.map(({ check }) => check.name).sort(), failedChecks.toSorted(), seen);
      assert.deepEqual(counts, { passed, failed, 'not run': notRun, error: 0 });
      assert.equal(results.length, checks.length);
      assert.equal(leftBehind, undefined);
    });
  }
});
