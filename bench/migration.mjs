// What the demo's migration costs: pages per second and GB/s of the pass over all memory, downtime, and memory of the host processes, beside
// copying the same bytes in memory and sending them through a socket, all in one run.
//
//   npm run bench:migration [-- --runs 3 --memory 1G --json]
import { execFile } from 'node:child_process';
import { connect, createServer } from 'node:net';
import { cpus } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs, promisify } from 'node:util';

const { values } = parseArgs({
  options: {
    runs: { type: 'string', default: '3' },
    memory: { type: 'string', default: '1G' },
    json: { type: 'boolean', default: false },
  },
});
const main = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));
const BLOCK = 1 << 20;

/** GB/s of copying 512 MiB from one buffer to another, 1 MiB at a time. */
function copySpeed() {
  const from = new Uint8Array(64 * BLOCK).fill(1);
  const to = new Uint8Array(64 * BLOCK).fill(2);
  const startedAt = performance.now();
  for (let round = 0; round < 8; round++) {
    for (let at = 0; at < from.length; at += BLOCK) to.set(from.subarray(at, at + BLOCK), at);
  }
  return (8 * from.length) / 1e6 / (performance.now() - startedAt);
}

/** GB/s of 512 MiB through a loopback TCP connection between two ends in this process, 1 MiB a write. */
function socketSpeed() {
  const block = new Uint8Array(BLOCK).fill(3);
  const total = 512 * BLOCK;
  return new Promise(resolve => {
    const server = createServer(async socket => {
      const startedAt = performance.now();
      let received = 0;
      for await (const piece of socket) received += piece.length;
      server.close();
      resolve(received / 1e6 / (performance.now() - startedAt));
    });
    server.listen({ host: '127.0.0.1', port: 0 }, () => {
      const socket = connect(server.address().port, '127.0.0.1');
      let left = total;
      const send = () => {
        while (left > 0 && socket.writableLength < 8 * BLOCK) {
          socket.write(block);
          left -= BLOCK;
        }
        if (left > 0) socket.once('drain', send);
        else socket.end();
      };
      send();
    });
  });
}

async function migrateOnce() {
  const { stdout } = await promisify(execFile)(process.execPath, [main, 'demo', '--json', '--memory', values.memory], {
    maxBuffer: 1 << 26,
  });
  const lines = stdout.trim().split('\n');
  const started = JSON.parse(lines[0]);
  const result = JSON.parse(lines.at(-1));
  const bulk = result.passReports[0];
  return {
    verified: result.verified,
    bulkPagesPerSecond: (bulk.pagesSent * 1000) / bulk.durationMs,
    bulkGBPerSecond: bulk.bytesSent / 1e6 / bulk.durationMs,
    passes: result.passes,
    downtimeMs: result.downtimeMs,
    estimatedDowntimeMs: result.estimatedDowntimeMs,
    migrationMs: result.totalMs - result.verifyMs,
    hostMemoryAboveGuestMiB: Math.max(
      ...Object.values(result.peakMemoryBytes).map(bytes => (bytes - started.memoryBytes) / 2 ** 20),
    ),
  };
}

const median = numbers => [...numbers].sort((a, b) => a - b)[numbers.length >> 1];

const rows = [];
for (let run = 0; run < Number(values.runs); run++) {
  rows.push({ copyGBPerSecond: copySpeed(), socketGBPerSecond: await socketSpeed(), ...(await migrateOnce()) });
}
const medians = Object.fromEntries(
  Object.keys(rows[0])
    .filter(key => key !== 'verified')
    .map(key => [key, median(rows.map(row => row[key]))]),
);
const summary = {
  machine: `${cpus()[0].model}, ${cpus().length} cores, Node ${process.version}`,
  memory: values.memory,
  runs: rows.length,
  verified: rows.every(row => row.verified),
  ...medians,
  bulkOfSocket: median(rows.map(row => row.bulkGBPerSecond / row.socketGBPerSecond)),
  bulkOfCopy: median(rows.map(row => row.bulkGBPerSecond / row.copyGBPerSecond)),
};
if (values.json) console.log(JSON.stringify({ ...summary, rows }));
else {
  for (const [name, value] of Object.entries(summary)) {
    console.log(`${name.padEnd(26)}${typeof value === 'number' ? Number(value.toPrecision(4)) : value}`);
  }
}
