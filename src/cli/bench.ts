// `kvring bench`: options in, a suite's rows out. What is measured, and how, is in bench/.
import { type Command, Option } from 'commander';
import { readEnvironment } from '../../bench/environment.ts';
import { parseIntegers } from '../../bench/grid.ts';
import { type Format, FORMATS, formatRows, type ReportRow } from '../../bench/report.ts';
import type { BenchCase, SuiteContext } from '../../bench/suite.ts';
import { ConfigError } from '../errors.ts';
import { checkWritable } from '../node/files.ts';
import { addGridOptions, type GridFlags, spanGrid } from './bench-grid.ts';
import { type CliContext, EXIT_FAILED, EXIT_OK } from './context.ts';
import {
  addAdapterOption,
  addTransferOptions,
  addUnsupportedOptions,
  checkWireDtype,
  type DeviceFlags,
} from './options.ts';
import { createProgress } from './progress.ts';
import { parseIndex, parsePositiveInteger, parseText, parseWord, valueOption } from './values.ts';

/** Options that every suite takes. */
interface SuiteFlags extends DeviceFlags {
  output: Format;
  iters: number;
  warmup: number;
  check: boolean;
  trace?: string;
}

interface TransportFlags extends SuiteFlags {
  bytes: number[];
  chunkBytes?: number;
}

const SUITES = ['attention', 'ring', 'transport'];
const LATER_SUITES = ['scaling', 'peers'];
const DEFAULT_TRANSPORT_BYTES = [2 ** 20, 2 ** 24, 2 ** 26];

/** Adds `bench` and its suites. Without a suite it runs the main job: what a ring does on this machine, in a minute. */
export function addBenchCommand(program: Command, context: CliContext): void {
  const bench = program
    .command('bench')
    .description('verify, then time: a sized ring job, or the suite that is named')
    .addHelpText('after', '\nOptions of every suite, and of bench alone: kvring bench ring --help');

  const main = bench.command('main [suite]', { isDefault: true, hidden: true });
  addSuiteOptions(main);
  addTraceOption(addAdapterOption(addTransferOptions(main)));
  addUnsupportedOptions(main).action(async (suite: string | undefined, flags: SuiteFlags) => {
    if (suite !== undefined) throw unknownSuite(suite);
    const { mainJob } = await import('../../bench/suites/ring.ts');
    await report(flags, context, (suiteContext) => mainJob(suiteContext));
  });

  const ring = addGridOptions(bench.command('ring').description('context-parallel attention on several ranks'), 4);
  addSuiteOptions(ring);
  addTraceOption(addAdapterOption(addTransferOptions(ring)));
  addUnsupportedOptions(ring).action(async (flags: SuiteFlags & GridFlags) => {
    const cases = spanCases(flags);
    const other = cases.find(({ direction }) => direction !== 'forward');
    if (other) {
      const remedy = 'bench attention times the others on 1 rank';
      throw new ConfigError(
        'ERR_UNSUPPORTED',
        `bench ring: times forward, got direction=${other.direction}; ${remedy}`,
      );
    }
    const { benchRing } = await import('../../bench/suites/ring.ts');
    await report(flags, context, (suiteContext) => benchRing(cases, suiteContext));
  });

  const attention = addGridOptions(bench.command('attention').description('forward and backward on one device'), 1);
  addSuiteOptions(attention);
  addUnsupportedOptions(addAdapterOption(attention)).action(async (flags: SuiteFlags & GridFlags) => {
    const cases = spanCases(flags);
    const several = cases.find(({ ranks }) => ranks > 1);
    if (several) {
      const remedy = 'bench ring times several ranks';
      throw new ConfigError('ERR_UNSUPPORTED', `bench attention: takes 1 rank, got ranks=${several.ranks}; ${remedy}`);
    }
    const { benchAttention } = await import('../../bench/suites/attention.ts');
    await report(flags, context, (suiteContext) => benchAttention(cases, suiteContext));
  });

  const transport = bench.command('transport').description('one edge of the ring beside a raw socket');
  addTransferOptions(addSuiteOptions(transport))
    .addOption(
      valueOption('--bytes <list>', 'bytes of a block', parseIntegers).default(
        DEFAULT_TRANSPORT_BYTES,
        '1, 16 and 64 MiB',
      ),
    )
    .addOption(valueOption('--chunk-bytes <bytes>', 'largest payload of a frame', parsePositiveInteger));
  addUnsupportedOptions(transport).action(async (flags: TransportFlags) => {
    const { benchTransport } = await import('../../bench/suites/transport.ts');
    const { bytes, chunkBytes } = flags;
    const options = chunkBytes === undefined ? { bytes } : { bytes, chunkBytes };
    await report(flags, context, (suiteContext) => benchTransport(options, suiteContext));
  });
}

function addSuiteOptions(command: Command): Command {
  const parseFormat = (name: string, text: string) => parseWord(name, text, { supported: FORMATS });
  return command
    .addOption(valueOption('-o, --output <format>', FORMATS.join(', '), parseFormat).default('md'))
    .addOption(valueOption('--iters <number>', 'timed runs of a case', parsePositiveInteger).default(10))
    .addOption(valueOption('--warmup <number>', 'untimed runs before them', parseIndex).default(2))
    .addOption(new Option('--no-check', 'time without verifying first'));
}

function addTraceOption(command: Command): Command {
  return command.addOption(valueOption('--trace <file>', 'write the last timed run for ui.perfetto.dev', parseText));
}

function spanCases(flags: SuiteFlags & GridFlags): BenchCase[] {
  const cases = spanGrid(flags);
  for (const { dtype } of cases) checkWireDtype(flags.wireDtype, dtype);
  return cases;
}

function unknownSuite(suite: string): ConfigError {
  const known = `this version has ${SUITES.join(', ')}`;
  if (SUITES.includes(suite)) {
    return new ConfigError('ERR_USAGE', `bench: the suite comes before its options: kvring bench ${suite} …`);
  }
  return LATER_SUITES.includes(suite)
    ? new ConfigError('ERR_UNSUPPORTED', `bench: ${known}, got suite='${suite}'`)
    : new ConfigError('ERR_USAGE', `bench: '${suite}' is no suite; ${known}`);
}

/** Runs a suite and prints its rows; JSON lines appear one by one. */
async function report(
  flags: SuiteFlags,
  context: CliContext,
  measure: (suiteContext: SuiteContext) => AsyncIterable<ReportRow>,
): Promise<void> {
  const { output, iters, warmup, check, trace, adapter, timeoutMs, checksum } = flags;
  if (trace !== undefined) await checkWritable(trace);
  const header = { ...readEnvironment(), argv: context.argv };
  const { update: progress, log, clear } = createProgress(context.stderr);
  const { signal } = context;
  const suiteContext = { iters, warmup, check, trace, adapter, timeoutMs, checksum, signal, progress, log };
  const rows: ReportRow[] = [];
  try {
    for await (const row of measure(suiteContext)) {
      clear();
      rows.push(row);
      if (output === 'jsonl') context.stdout.write(formatRows([row], output, header));
    }
  } finally {
    clear();
  }
  if (output !== 'jsonl') context.stdout.write(formatRows(rows, output, header));
  context.exitCode = exitCodeOf(rows);
}

/** Fails when an element of any row was wrong; a row that was not checked is not wrong. */
export function exitCodeOf(rows: readonly Pick<ReportRow, 'wrong'>[]): number {
  return rows.some(({ wrong }) => wrong !== null && wrong !== 0) ? EXIT_FAILED : EXIT_OK;
}
