import { Presets, SingleBar } from 'cli-progress';
import type { Check, CheckGroup, CheckResult, ConformanceReport, Verdict } from '../../conformance/index.js';
import { colorsFor } from '../colors.js';
import type { ConformOutput } from './output.js';

const pc = colorsFor(process.stdout);

const MARKS: Readonly<Record<Verdict, string>> = {
  passed: pc.green('✓'),
  failed: pc.red('✗'),
  error: pc.yellow('!'),
  'not run': pc.dim('-'),
};

/** For people: a line a check under its group, more about those that failed, and a bar meanwhile. */
export class PeopleOutput implements ConformOutput {
  readonly #showPassed: boolean;
  #group: CheckGroup | undefined;
  #bar: SingleBar | undefined;
  #done = 0;

  /** @param showPassed whether also what passed is told with what was seen */
  constructor(showPassed: boolean) {
    this.#showPassed = showPassed;
  }

  begin(target: string, checks: readonly Check[]): void {
    console.log(`${checks.length} ${checks.length === 1 ? 'check' : 'checks'} on ${pc.bold(target)}`);
    if (!process.stdout.isTTY) return;
    this.#bar = new SingleBar(
      { format: `  ${pc.cyan('{bar}')} {value}/{total}  {name}`, barsize: 20, hideCursor: true, clearOnComplete: true },
      Presets.rect,
    );
    this.#bar.start(checks.length, 0, { name: '' });
  }

  start({ name }: Check): void {
    this.#bar?.update(this.#done, { name });
  }

  result(result: CheckResult): void {
    this.#done++;
    const { check, verdict, seen } = result;
    const isNews = verdict === 'failed' || verdict === 'error' || this.#showPassed;
    if (!isNews) return;
    this.#betweenBars(() => {
      if (this.#group !== check.group) console.log(`\n${pc.bold(check.group)}`);
      this.#group = check.group;
      console.log(`  ${MARKS[verdict]} ${check.name}  ${pc.dim(seen)}`);
      if (verdict !== 'failed' && verdict !== 'error') return;
      console.log(`      demand: ${check.demand}`);
      console.log(`      source: ${check.source}`);
    });
  }

  /** Prints above the bar. */
  #betweenBars(print: () => void): void {
    if (this.#bar !== undefined) process.stdout.write('\r\x1b[K');
    print();
    this.#bar?.render();
  }

  finish({ counts, results, profile, stimulus, seed, interrupted, leftBehind }: ConformanceReport): void {
    this.#endBar();
    const withSeed = `${profile} profile, stimulus: ${stimulus ?? 'none'}, seed ${seed}`;
    console.log(`\n${summary(counts)}  (${withSeed})`);
    for (const [why, count] of reasons(results)) console.log(pc.dim(`  ${count} not run: ${why}`));
    if (interrupted) console.log(pc.yellow('The run was ended early.'));
    if (leftBehind !== undefined) console.log(pc.red(`The device may still be logging or stopped: ${leftBehind}`));
  }

  fail(): void {
    this.#endBar();
  }

  #endBar(): void {
    this.#bar?.stop();
    this.#bar = undefined;
  }
}

function summary(counts: Readonly<Record<Verdict, number>>): string {
  const parts = [pc.green(`${counts.passed} passed`)];
  if (counts.failed > 0) parts.push(pc.red(`${counts.failed} failed`));
  if (counts.error > 0) parts.push(pc.yellow(`${counts.error} could not tell`));
  if (counts['not run'] > 0) parts.push(`${counts['not run']} not run`);
  return parts.join(', ');
}

/** Why checks were not run, and how many for each reason. */
function reasons(results: readonly CheckResult[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const { verdict, seen } of results) {
    if (verdict === 'not run') counts.set(seen, (counts.get(seen) ?? 0) + 1);
  }
  return counts;
}
