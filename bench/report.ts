// Rows as text: a Markdown table for people, CSV for spreadsheets, JSON and JSON lines for programs. Pure.
// A number that was not measured is an em dash in Markdown, empty in CSV and null in JSON, never 0.
import { markdownTable } from 'markdown-table';
import type { Environment } from './environment.ts';
import type { BenchRow, TransportRow } from './suite.ts';

export const FORMATS = ['md', 'csv', 'json', 'jsonl'] as const;
export type Format = (typeof FORMATS)[number];

/** Grows when a field changes its meaning or goes away. */
export const SCHEMA_VERSION = 1;

export type ReportRow = BenchRow | TransportRow;

/** What a JSON file says about the run besides its rows. */
export interface ReportHeader extends Environment {
  /** The arguments after `kvring`. */
  argv: readonly string[];
}

/** A whole JSON file. */
export interface ReportFile extends ReportHeader {
  schemaVersion: number;
  /** The adapters of the rows, each once. */
  adapters: string[];
  rows: readonly ReportRow[];
}

/** The rows in one format, with a newline at the end; the rows of one call are of one suite. */
export function formatRows(rows: readonly ReportRow[], format: Format, header: ReportHeader): string {
  switch (format) {
    case 'md':
      return `${formatMarkdown(rows)}\n`;
    case 'csv':
      return formatCsv(rows);
    case 'json':
      return `${JSON.stringify(buildFile(rows, header), null, 2)}\n`;
    case 'jsonl':
      return rows.map((row) => `${JSON.stringify(row)}\n`).join('');
  }
}

function buildFile(rows: readonly ReportRow[], { version, commit, argv, host }: ReportHeader): ReportFile {
  const adapters = [...new Set(rows.flatMap((row) => ('adapter' in row ? [row.adapter] : [])))];
  return { schemaVersion: SCHEMA_VERSION, version, commit, argv, host, adapters, rows };
}

/** A title with its unit, the cell of a row, and whether a row makes the column worth showing (default: every row). */
type Column<Row> = readonly [title: string, cell: (row: Row) => string, matters?: (row: Row) => boolean];

const MIB = 2 ** 20;

const BENCH_COLUMNS: readonly Column<BenchRow>[] = [
  ['suite', (row) => row.suite],
  ['ranks', (row) => String(row.ranks)],
  ['layout', (row) => row.layout],
  ['B', (row) => String(row.batch)],
  ['S', (row) => String(row.seqLen)],
  ['Skv', (row) => String(row.seqLenKv), ({ seqLen, seqLenKv }) => seqLenKv !== seqLen],
  ['H', (row) => String(row.numHeads)],
  ['Hkv', (row) => String(row.numKvHeads)],
  ['D', (row) => String(row.headDim)],
  ['dtype', (row) => row.dtype, ({ dtype }) => dtype !== 'f32'],
  ['mask', (row) => row.maskType],
  ['window', ({ window }) => window.join(), ({ window }) => window.some((extent) => extent >= 0)],
  ['direction', (row) => row.direction, ({ direction }) => direction !== 'forward'],
  ['p50 ms', (row) => formatNumber(row.timeMs.p50)],
  ['p95 ms', (row) => formatNumber(row.timeMs.p95)],
  ['TFLOP/s', (row) => formatNumber(row.tflops)],
  ['% of ideal', (row) => formatFixed(row.percentOfIdeal, 1)],
  ['sent MiB/rank', (row) => formatNumber(row.commBytesPerRank, MIB)],
  ['exposed ms', (row) => formatNumber(row.exposedCommMs)],
  ['overlap %', (row) => formatFixed(row.overlapPercent, 1)],
  ['KV slots', (row) => formatFixed(row.kvSlots, 0)],
  ['peak GPU MiB', (row) => formatNumber(row.peakGpuBytes, MIB)],
  ['max abs error', (row) => row.maxAbsError?.toExponential(1) ?? DASH],
  ['wrong', (row) => formatFixed(row.wrong, 0)],
  ['adapter', (row) => row.adapter],
];

const TRANSPORT_COLUMNS: readonly Column<TransportRow>[] = [
  ['transport', (row) => row.transport],
  ['payload MiB', (row) => formatNumber(row.bytes, MIB)],
  ['chunk KiB', (row) => formatNumber(row.chunkBytes, 1024)],
  ['checksum', (row) => (row.checksum ? 'yes' : 'no')],
  ['p50 ms', (row) => formatNumber(row.timeMs.p50)],
  ['p95 ms', (row) => formatNumber(row.timeMs.p95)],
  ['GB/s', (row) => formatNumber(row.bandwidthGBps)],
  ['of raw socket', (row) => formatFixed(row.ratioToRawSocket, 2)],
  ['sender CPU s/GiB', (row) => formatNumber(row.senderCpuSecondsPerGiB)],
  ['receiver CPU s/GiB', (row) => formatNumber(row.receiverCpuSecondsPerGiB)],
  ['wrong', (row) => formatFixed(row.wrong, 0)],
];

const DASH = '—';

function formatMarkdown(rows: readonly ReportRow[]): string {
  const transport = rows.filter((row): row is TransportRow => row.suite === 'transport');
  return transport.length > 0
    ? tabulate(TRANSPORT_COLUMNS, transport)
    : tabulate(
        BENCH_COLUMNS,
        rows.filter((row): row is BenchRow => row.suite !== 'transport'),
      );
}

/** Several rows side by side are compared by column; one row alone is easier to read from top to bottom. */
function tabulate<Row>(all: readonly Column<Row>[], rows: readonly Row[]): string {
  const columns = all.filter(([, , matters]) => matters === undefined || rows.some(matters));
  if (rows.length === 1) {
    const lines = columns.map(([title, cell]) => [title, cell(rows[0])]).filter(([, value]) => value !== DASH);
    return markdownTable([['', 'value'], ...lines], { align: ['l', 'r'] });
  }
  const titles = columns.map(([title]) => title);
  const cells = rows.map((row) => columns.map(([, cell]) => cell(row)));
  const isNumeric = (index: number) =>
    cells.every((line) => line[index] === DASH || !Number.isNaN(Number(line[index])));
  return markdownTable([titles, ...cells], { align: titles.map((_, index) => (isNumeric(index) ? 'r' : 'l')) });
}

/** Three significant digits, in units of `unit`. */
function formatNumber(value: number | null, unit = 1): string {
  if (value === null) return DASH;
  const scaled = value / unit;
  return Math.abs(scaled) >= 100 ? scaled.toFixed(0) : String(Number(scaled.toPrecision(3)));
}

function formatFixed(value: number | null, digits: number): string {
  return value === null ? DASH : value.toFixed(digits);
}

/** Quoted as in RFC 4180; nested fields are `timeMs.p50`, samples are separated by spaces. */
function formatCsv(rows: readonly ReportRow[]): string {
  const records = rows.map((row) => flattenRow(row));
  const lines = [Object.keys(records[0] ?? {}), ...records.map((record) => Object.values(record))];
  return lines.map((cells) => `${cells.map(quoteCell).join(',')}\n`).join('');
}

function flattenRow(row: object, prefix = ''): Record<string, string> {
  return Object.fromEntries(
    Object.entries(row).flatMap(([key, value]: [string, unknown]) => {
      if (Array.isArray(value)) return [[prefix + key, value.join(' ')]];
      if (typeof value === 'object' && value !== null) return Object.entries(flattenRow(value, `${prefix}${key}.`));
      return [[prefix + key, (value as string | number | boolean | null)?.toString() ?? '']];
    }),
  );
}

function quoteCell(cell: string): string {
  return /[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell;
}
