// The direction of imports: a room imports only from rooms above it in this list (docs/design.md holds the same list).
const rooms = [
  'uapi',
  'bitmap',
  'native',
  'memory',
  'log',
  'device',
  'vfio-user',
  'kernel',
  'tracker',
  'migration',
  'trace',
  'conformance',
  'devices',
  'connect',
  'cli',
  'dashboard',
];
const pure = ['uapi', 'bitmap', 'log'];

const downwards = rooms.map((room, index) => ({
  name: `${room}-imports-only-from-above`,
  severity: 'error',
  from: { path: `^src/${room}/` },
  to: { path: `^src/(index\\.ts|(${rooms.slice(index + 1).join('|') || 'none'})/)` },
}));

module.exports = {
  forbidden: [
    ...downwards,
    {
      name: 'pure-rooms-know-no-node',
      comment: 'uapi, bitmap and log run anywhere: no Node module, no package',
      severity: 'error',
      from: { path: `^src/(${pure.join('|')})/` },
      to: { dependencyTypes: ['core', 'npm'] },
    },
    {
      name: 'log-knows-no-native',
      severity: 'error',
      from: { path: '^src/log/' },
      to: { path: '^src/(native|memory)/' },
    },
    {
      name: 'koffi-only-in-native',
      severity: 'error',
      from: { path: '^src/', pathNot: '^src/native/' },
      to: { path: 'node_modules/koffi' },
    },
    {
      name: 'wire-knows-neither-end',
      severity: 'error',
      from: { path: '^src/vfio-user/wire/' },
      to: { path: '^src/vfio-user/(client|server)/' },
    },
    {
      name: 'ends-meet-on-the-wire-only',
      severity: 'error',
      from: { path: '^src/vfio-user/(client|server)/' },
      to: { path: '^src/vfio-user/(client|server)/', pathNot: '^src/vfio-user/$1/' },
    },
    {
      name: 'dashboard-and-cli-apart',
      severity: 'error',
      from: { path: '^src/cli/' },
      to: { path: '^src/dashboard/' },
    },
    { name: 'unknown-room', severity: 'error', from: {}, to: { path: `^src/(?!index\\.ts$|(${rooms.join('|')})/)` } },
    { name: 'no-circles', severity: 'error', from: {}, to: { circular: true } },
    { name: 'no-unresolved', severity: 'error', from: {}, to: { couldNotResolve: true } },
    {
      name: 'no-dev-dependencies',
      severity: 'error',
      from: { path: '^src/' },
      to: { dependencyTypes: ['npm-dev'] },
    },
  ],
  options: {
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    doNotFollow: { path: 'node_modules' },
    enhancedResolveOptions: { exportsFields: ['exports'], conditionNames: ['import', 'node', 'default', 'types'] },
  },
};
