import { checkGroups } from '../../../src/conformance/index.js';
import * as bitmaps from './bitmaps.js';
import * as clearing from './clearing.js';
import * as connections from './connections.js';
import * as conversions from './conversions.js';
import { byDevice, byLog, type KnownDeviation } from './deviation.js';
import * as marks from './marks.js';
import * as migrations from './migrations.js';
import * as refusals from './refusals.js';
import * as requests from './requests.js';
import * as starts from './starts.js';

/*
 * Every deviation that is known of a real implementation, and its relatives: what each does, and the check that is there for it. Where they are known
 * from: docs/contract.md "Behaviour of the real implementations", docs/vfio-user.md "libvfio-user, measured", docs/kernel.md.
 */

/** Where all that is told of the log goes wrong, checks of any group may stumble over it. */
const reporting = checkGroups;

const ofRequests: KnownDeviation[] = [
  byDevice('says yes to a PROBE in every direction', 'request/probe-direction', refusals.ProbesInEveryDirection),
  byDevice('stops on a STOP with GET', 'request/direction', refusals.TakesStopWithGet),
  byDevice('does not look at argsz', 'request/argsz-below-header', requests.IgnoresArgsz, { also: ['report'] }),
  byDevice('refuses an argsz above 1 GiB', 'request/probe-needs-the-header-only', refusals.RefusesLargeArgsz),
  byDevice('wants the argsz that is needed, and no other', 'request/argsz-above-structure', refusals.WantsExactArgsz),
  byDevice('answers with the argsz of the request', 'request/reply-header', refusals.EchoesArgsz, {
    profile: 'vfio-user',
  }),
  byDevice('reads START beyond the message', 'request/short-data', refusals.ReadsBeyondMessage, {
    profile: 'vfio-user',
    also: ['start'],
  }),
  byDevice('takes messages without a whole header', 'request/short-message', refusals.TakesShortMessages, {
    profile: 'vfio-user',
  }),
  byDevice('takes flag bits that nobody knows', 'request/unknown-flags', requests.IgnoresUnknownFlags, {
    also: ['report'],
  }),
  byDevice('takes GET together with SET', 'request/get-with-set', requests.TakesGetWithSet),
  byDevice('answers EINVAL to unknown features', 'request/unknown-feature', requests.AnswersUnknownFeatureWrongly),
  byDevice('does not look at argsz', 'request/argsz-below-structure', requests.IgnoresArgsz, { also: ['report'] }),
  byDevice('does not look at argsz', 'report/argsz-too-small', requests.IgnoresArgsz, {
    profile: 'vfio-user',
    also: ['request'],
  }),
  byDevice('starts on a PROBE with data', 'request/probe-changes-nothing', requests.StartsOnProbe),
  byDevice('cannot STOP', 'request/all-three-or-none', requests.HasNoStop, { also: reporting }),
];

const ofStart: KnownDeviation[] = [
  byDevice('refuses every START', 'start/one-range', refusals.NeverStarts, { also: reporting }),
  byLog('wants ranges in ascending order', 'start/any-order', starts.WantsAscendingRanges),
  byLog('takes 64 ranges and no more', 'start/256-ranges', starts.Takes64Ranges),
  byDevice(
    'does not hold the number of ranges against what it was sent',
    'start/more-ranges-than-sent',
    refusals.BelievesNoRangeCount,
    { profile: 'vfio-user', also: ['request'] },
  ),
  byLog('says EOVERFLOW to 512 GiB', 'start/large-ranges', starts.OverflowsEarly),
  byDevice('starts with ranges that it cannot read', 'start/bad-pointer', refusals.StartsAtBadPointer),
  byDevice("wants START's reserved field to be 0", 'start/reserved', requests.WantsReservedZero),
  byDevice('takes ranges that overlap', 'start/overlap', requests.TakesOverlaps),
  byDevice('takes ranges that are not aligned', 'start/unaligned', requests.TakesUnaligned),
  byDevice('takes ranges that reach 2^64', 'start/overflow', requests.TakesOverflow),
  byDevice('takes more than 256 ranges', 'start/257-ranges', requests.TakesTooManyRanges),
  byDevice('takes no ranges', 'start/no-ranges', requests.TakesNoRanges),
  byDevice('takes a page size of 0', 'start/page-size-0', requests.TakesPageSize0),
  byDevice('refuses no ranges', 'start/no-ranges-is-everything', requests.RefusesEverything, { profile: 'vfio-user' }),
  byLog(
    'logs nothing where no ranges mean everything',
    'start/no-ranges-is-everything',
    marks.LogsNothingForEverything,
    { profile: 'vfio-user' },
  ),
  byLog('gives the page size hint back as it is', 'start/page-size-choice', starts.AnswersHint),
  byLog('refuses page sizes that it cannot do', 'start/any-hint', starts.RefusesOtherSizes),
  byLog('takes another page size than the closest that it can do', 'start/closest-page-size', starts.TakesOtherSize, {
    profile: 'rfc',
  }),
  byLog('has what was written before START', 'start/begins-clean', starts.BeginsWithThePast, { also: reporting }),
  byLog('takes a second START of the same page size', 'start/second-fails', clearing.TakesSecondStart),
  byLog('starts anew on a second START', 'start/second-fails', clearing.RestartsOnSecondStart),
  byLog('empties the log on a second START that fails', 'start/second-keeps-the-log', clearing.SecondStartClears),
  byLog("does not log a range's last page", 'start/logs-both-edges', marks.ForgetsLastPageOfRange, {
    also: ['report', 'conversion'],
  }),
  byLog('logs everything, whatever the ranges', 'start/logs-only-the-ranges', marks.IgnoresRanges, { also: ['stop'] }),
  byLog(
    'marks outside of the range what a write that straddles its end touches',
    'start/logs-only-the-ranges',
    marks.StraddlesOutwards,
  ),
  byLog("does not log a write that straddles a range's end", 'start/logs-only-the-ranges', marks.DropsStraddlingWrites),
  byLog('logs the first of several ranges', 'start/many-ranges-lose-nothing', marks.KeepsOneRange, {
    also: ['report', 'bitmap'],
  }),
];

const ofStop: KnownDeviation[] = [
  byDevice('takes a STOP without START', 'stop/not-started', refusals.TakesStopWithoutStart, {
    profile: 'vfio-user',
    also: ['request'],
  }),
  byLog('counts STOPs against STARTs', 'stop/not-started-is-harmless', starts.CountsStops, { also: reporting }),
  byLog('logs between STOP and START', 'stop/logs-nothing-meanwhile', starts.BeginsWithThePast, { also: reporting }),
  byLog('has no memory after 40 STARTs', 'stop/again-and-again', starts.LeaksUnreportedLogs, { also: reporting }),
  byLog('goes on logging after STOP', 'stop/ends-logging', clearing.IgnoresStop, { also: reporting }),
  byLog('has the old log after STOP and START', 'stop/forgets-the-log', clearing.SurvivesStop, {
    also: ['conversion'],
  }),
];

const ofReport: KnownDeviation[] = [
  byLog('wants report pages within the range', 'report/large-page-sizes', conversions.WantsPagesWithinRange, {
    also: reporting,
  }),
  byDevice('takes reports that reach 2^64', 'report/overflow', refusals.TakesReportOverflow),
  byDevice('finds pages dirty beyond 2^64', 'report/beyond-the-address-space', refusals.FindsDirtBeyondTheEnd, {
    profile: 'vfio-user',
  }),
  byDevice('takes a bitmap that it cannot write', 'report/bad-pointer', requests.LosesLogWithBitmap),
  byDevice('answers enormous reports with nothing', 'report/enormous', refusals.AnswersEnormousReports, {
    profile: 'vfio-user',
  }),
  byDevice('empties the log when it is probed', 'report/probe-keeps-the-log', refusals.ClearsOnProbe, {
    also: ['disconnect', 'migration'],
  }),
  byDevice('refuses report pages below 4096', 'report/small-page-sizes', refusals.RefusesSmallReportPages, {
    profile: 'vfio-user',
    also: ['conversion'],
  }),
  byLog('says that it can log, and cannot report', 'report/brings-what-was-written', bitmaps.CannotReport, {
    also: reporting,
  }),
  byDevice('takes everything and does nothing', 'report/brings-what-was-written', requests.DoesNothing, {
    also: reporting,
  }),
  byDevice('reports zeros when nothing was started', 'report/not-started', requests.ReportsWithoutStart, {
    also: ['stop'],
  }),
  byDevice(
    'takes report pages that are no power of two',
    'report/page-size-no-power-of-two',
    requests.TakesAnyReportPage,
  ),
  byDevice('takes report pages below 4096', 'report/page-size-below-4096', requests.TakesSmallReportPages),
  byDevice(
    'loses the log when the bitmap cannot be written',
    'report/bad-pointer-keeps-the-log',
    requests.LosesLogWithBitmap,
  ),
  byDevice('empties the log when a report is refused', 'report/refused-keeps-the-log', requests.ClearsOnRefusedReport),
  byDevice(
    'forgets what is dirty in memory that is unmapped',
    'report/unmapped-memory',
    requests.ForgetsUnmappedMemory,
  ),
  byDevice('logs DMA reads', 'report/reads-are-not-logged', requests.LogsReads),
  byDevice(
    'answers a report of two ranges with an empty success',
    'report/across-ranges',
    requests.AnswersTwoRangesWithNothing,
    { profile: 'vfio-user', also: ['start', 'bitmap'] },
  ),
  byLog('never clears', 'report/clears', clearing.NeverClears, { also: reporting }),
  byLog('clears everything with every report', 'report/clears-only-the-interval', clearing.ClearsEverything, {
    also: reporting,
  }),
  byLog('clears a log page that is covered in part', 'report/keeps-a-partial-log-page', clearing.ClearsPartialPages, {
    also: ['bitmap', 'conversion'],
  }),
  byLog('answers ones for the holes between ranges', 'report/across-ranges', bitmaps.FillsHoles, { also: reporting }),
  byLog('reports from where a range begins, and nowhere else', 'report/any-alignment', bitmaps.WantsRangeStart, {
    also: reporting,
  }),
  byLog('answers ENOENT where no range is', 'report/anywhere', bitmaps.RefusesHoles),
  byLog('reports within one range', 'report/across-ranges', bitmaps.WantsOneRange, { also: reporting }),
  byLog(
    'marks the first page of a write that has several',
    'report/brings-what-was-written',
    marks.MarksFirstPageAlone,
    { also: reporting },
  ),
  byLog('marks the page behind a write', 'report/brings-what-was-written', marks.MarksPageBehind, { also: reporting }),
  byLog('loses a page that is written twice', 'bitmap/written-twice', marks.TogglesPages, { also: reporting }),
];

const ofBitmaps: KnownDeviation[] = [
  byLog('takes an interval of no bytes for all', 'bitmap/empty-interval', bitmaps.TakesNothingForAll),
  byLog('follows the published formula', 'bitmap/bit-of-page', bitmaps.FollowsErratum, { also: reporting }),
  byLog('counts bits from the top of a word', 'bitmap/bit-of-page', bitmaps.CountsBitsFromTheTop, { also: reporting }),
  byLog('swaps the halves of words', 'bitmap/bit-of-page', bitmaps.SwapsHalvesOfWords, { also: reporting }),
  byLog('aligns bits to addresses', 'bitmap/begins-at-the-interval', bitmaps.AlignsBitsToAddresses, {
    also: reporting,
  }),
  byLog('rounds the interval down to a page', 'bitmap/interval-inside-pages', bitmaps.RoundsIntervalDown, {
    also: ['report', 'conversion'],
  }),
  byLog(
    'leaves out the last page of which the interval has a part',
    'bitmap/interval-inside-pages',
    bitmaps.LeavesOutLastPart,
    { also: ['conversion'] },
  ),
  byLog('loses reports of fewer than 8 pages', 'bitmap/every-length', bitmaps.LosesShortBitmaps, { also: reporting }),
  byLog('wants multiples of 64 pages', 'bitmap/every-length', bitmaps.WantsWholeWords, { also: reporting }),
  byLog('clears up to 63 pages beyond the interval', 'bitmap/every-length', clearing.ClearsToEndOfWord, {
    also: reporting,
  }),
  byLog('marks pages that an empty write would begin at', 'bitmap/empty-write', starts.MarksEmptyWrites),
  byLog('overwrites the bitmap', 'bitmap/ors-into-the-callers', bitmaps.OverwritesBitmap),
  byLog('sets bits beyond the interval', 'bitmap/leaves-bits-beyond', bitmaps.FillsLastWord, { also: reporting }),
  byLog(
    'sets and clears up to 63 pages beyond the interval',
    'bitmap/leaves-bits-beyond',
    clearing.ReportsToEndOfWord,
    { also: reporting },
  ),
  byLog('sets bits beyond the interval', 'bitmap/zeros-beyond', bitmaps.FillsLastWord, {
    profile: 'vfio-user',
    also: reporting,
  }),
  byLog('sets and clears up to 63 pages beyond the interval', 'bitmap/zeros-beyond', clearing.ReportsToEndOfWord, {
    profile: 'vfio-user',
    also: reporting,
  }),
  byDevice("aligns the bitmap's address", 'bitmap/at-any-address', requests.AlignsBitmapDown),
  byLog('loses the rest of a record at 2 MiB of bitmap', 'bitmap/across-64-gib', bitmaps.LosesBitsBehindWindow),
  byLog('begins anew at 2 MiB of bitmap', 'bitmap/across-64-gib', bitmaps.WrapsAtWindow),
];

const ofConversions: KnownDeviation[] = [
  byLog('clears a log page that is covered in part', 'conversion/part-of-a-log-page', clearing.ClearsPartialPages, {
    also: ['bitmap', 'report'],
  }),
  byLog(
    'tells nothing of a report page that is larger than the interval',
    'conversion/page-beyond-the-interval',
    conversions.LosesPagesBeyondInterval,
    { also: ['report'] },
  ),
  byLog('loses pages of 2^61 bytes and more', 'conversion/largest-pages', conversions.LosesLargestPages),
  byLog(
    'tells page 513 as bit 0 at twice the log page',
    'conversion/coarser-report',
    conversions.CountsCoarseBitsInBytes,
  ),
  byLog('looks at the first log page of a report page', 'conversion/coarser-report', conversions.SamplesCoarsePages),
  byLog('clears report pages that it has a part of', 'conversion/any-alignment', clearing.ClearsWholeReportPages, {
    also: ['report'],
  }),
  byLog('tells the first report page of a log page', 'conversion/finer-report', conversions.DoesNotReplicate, {
    also: ['report'],
  }),
  byLog(
    'reports its own pages, whatever was asked for',
    'conversion/coarser-report',
    conversions.IgnoresReportPageSize,
    { also: ['stop', 'report'] },
  ),
  byLog(
    'converts intervals that are aligned to the larger page',
    'conversion/any-alignment',
    conversions.ConvertsAlignedOnly,
    { also: ['report'] },
  ),
  byDevice('never answers 256 bits of half its page', 'conversion/finer-report', requests.NeverAnswersFineReports, {
    also: ['stop', 'report'],
    timeLimitMs: 1000,
  }),
];

const ofConcurrency: KnownDeviation[] = [
  byDevice(
    'clears what is written while it reports',
    'concurrency/several-reports-during-writes',
    connections.ClearsAfterCopying,
    { also: reporting },
  ),
  byDevice(
    'clears with the next write what it has told',
    'concurrency/written-again-after-a-report',
    connections.ClearsWithNextWrite,
    { also: reporting },
  ),
  byDevice(
    'clears what is written while it reports',
    'concurrency/writes-during-reports',
    connections.ClearsAfterCopying,
    { also: reporting },
  ),
  byDevice('has one buffer for all reports', 'concurrency/several-reports-at-once', connections.SharesReportBuffer),
];

const ofMigration: KnownDeviation[] = [
  byDevice('never answers PRE_COPY in STOP_COPY', 'migration/no-way-back-to-pre-copy', migrations.LooksForWayBack, {
    timeLimitMs: 1000,
  }),
  byDevice('cannot give its data', 'migration/data-ends', migrations.CannotReadData),
  byDevice('goes from STOP_COPY back to PRE_COPY', 'migration/no-way-back-to-pre-copy', migrations.GoesBackToPreCopy),
  byDevice('goes to ERROR when asked', 'migration/error-cannot-be-asked-for', migrations.TakesErrorState),
  byDevice('takes states that do not exist', 'migration/unknown-states', migrations.TakesUnknownStates),
  byDevice('stops for a state that does not exist', 'migration/unknown-states', migrations.StopsOnRefusedState),
  byDevice('has P2P states that it did not tell of', 'migration/unknown-states', migrations.HidesP2p),
  byDevice('refuses P2P states that it told of', 'migration/arcs', migrations.RefusesP2p),
  byDevice('migrates without STOP_COPY', 'migration/flags', migrations.HidesStopCopy),
  byDevice('wants every arc on its own', 'migration/arcs', migrations.TakesSingleArcs),
  byDevice('says RUNNING in every state', 'migration/arcs', migrations.AlwaysSaysRunning),
  byDevice('tells a data_fd where there is none', 'migration/no-stray-data-fd', migrations.KeepsDataFd, {
    profile: 'vfio-user',
  }),
  byDevice('has data without end', 'migration/data-ends', migrations.HasEndlessData),
  byDevice('has data behind the end of its data', 'migration/data-ends', migrations.HasDataBehindEnd),
  byDevice('gives data while it runs', 'migration/no-data-while-running', migrations.GivesDataWhileRunning, {
    profile: 'vfio-user',
  }),
  byDevice('does not take its own state', 'migration/state-loads-back', migrations.RefusesOwnState),
  byDevice('gives nothing but zeros in PRE_COPY', 'migration/pre-copy-data-loads-back', migrations.ForgetsPreCopyData),
  byDevice('does not run after a reset', 'migration/reset-runs', migrations.ResetKeepsState),
  byDevice('empties the log when it is reset', 'migration/log-after-reset', migrations.ResetClearsLog),
  byDevice(
    'empties the log when its state changes',
    'migration/report-in-every-state',
    migrations.StateChangeClearsLog,
  ),
  byDevice('ends logging when it stops', 'migration/report-in-every-state', migrations.StopEndsLogging),
  byDevice('refuses to report in STOP', 'migration/report-in-every-state', migrations.RefusesReportInStop),
  byDevice('refuses to start logging in STOP', 'migration/start-in-every-state', migrations.RefusesStartInStop),
];

const ofDisconnection: KnownDeviation[] = [
  byDevice('serves one client, and no other', 'disconnect/comes-back', connections.ServesOneClient),
  byDevice(
    'neither reports, stops nor starts when its client has left',
    'disconnect/comes-back',
    connections.StaysBusyAfterDisconnect,
  ),
  byDevice('waits for clients that are gone', 'disconnect/in-the-middle', connections.WaitsForLostClients),
  byDevice(
    'empties the log when its client leaves',
    'disconnect/log-kept-or-refused',
    connections.ClearsLogOnDisconnect,
  ),
  byDevice('stops logging when its client leaves', 'disconnect/keeps-its-log', connections.StopsOnDisconnect, {
    profile: 'vfio-user',
  }),
  byDevice('runs again when its client leaves', 'disconnect/keeps-its-migration-state', connections.RunsOnDisconnect, {
    profile: 'vfio-user',
  }),
];

/** All of them. */
export const knownDeviations: readonly KnownDeviation[] = [
  ...ofRequests,
  ...ofStart,
  ...ofStop,
  ...ofReport,
  ...ofBitmaps,
  ...ofConversions,
  ...ofConcurrency,
  ...ofMigration,
  ...ofDisconnection,
];
