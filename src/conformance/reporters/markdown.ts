import { type Check, checkGroups } from '../check.js';

/** The checks as tables of Markdown, one for each group, as docs/conformance.md has them. */
export function checksMarkdown(checks: readonly Check[]): string {
  return checkGroups
    .map(group => ({ group, own: checks.filter(check => check.group === group) }))
    .filter(({ own }) => own.length > 0)
    .map(({ group, own }) => `### ${group}\n\n${HEAD}${own.map(row).join('')}`)
    .join('\n');
}

const HEAD = '| check | a device must | profiles | needs | source |\n|---|---|---|---|---|\n';

function row({ name, demand, source, needs = ['logging'], profiles }: Check): string {
  const beyondLogging = needs.filter(need => need !== 'logging').join(', ');
  return `| ${[`\`${name}\``, demand, profiles?.join(', ') ?? 'all', beyondLogging, source].map(cell).join(' | ')} |\n`;
}

function cell(text: string): string {
  return text.replaceAll('|', '\\|');
}
