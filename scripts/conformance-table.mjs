// Writes the tables of checks into docs/conformance.md, between the lines that mark them, from the built package.
import { readFileSync, writeFileSync } from 'node:fs';
import { checks, checksMarkdown } from '../dist/conformance/index.js';

const path = new URL('../docs/conformance.md', import.meta.url);
const marks = /(<!-- checks begin -->\n)[\s\S]*(<!-- checks end -->)/;
const text = readFileSync(path, 'utf8');
writeFileSync(
  path,
  text.replace(marks, (_, begin, end) => `${begin}\n${checksMarkdown(checks)}\n${end}`),
);
