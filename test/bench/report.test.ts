// The formats of the bench: what a person reads, and what programs read back.
import { expect } from 'chai';
import { readEnvironment } from '../../bench/environment.ts';
import { formatRows, type ReportFile, SCHEMA_VERSION } from '../../bench/report.ts';
import type { BenchRow, TransportRow } from '../../bench/suite.ts';

const HEADER = {
  version: '1.2.3',
  commit: null,
  argv: ['bench', 'ring'],
  host: { os: 'linux 6', arch: 'x64', cpu: 'A', cores: 2, memoryGiB: 8, node: '20.0.0' },
};

const ROW: BenchRow = {
  suite: 'ring',
  ranks: 4,
  cpCommType: 'p2p',
  layout: 'zigzag',
  batch: 1,
  seqLen: 1024,
  seqLenKv: 1024,
  numHeads: 8,
  numKvHeads: 2,
  headDim: 64,
  dtype: 'f32',
  maskType: 'causal',
  window: [-1, -1],
  direction: 'forward',
  timeMs: { p50: 12.3456, p95: 1234.5, min: 12, max: 1300, samples: [12, 1300] },
  tflops: 0.04567,
  percentOfIdeal: 85.25,
  commBytesPerRank: 3 * 2 ** 20,
  exposedCommMs: 0,
  overlapPercent: null,
  kvSlots: 2,
  peakGpuBytes: 1.5 * 2 ** 20,
  maxAbsError: 1.234e-6,
  wrong: 0,
  adapter: 'lavapipe, "LLVM"',
};

const TRANSPORT_ROW: TransportRow = {
  suite: 'transport',
  transport: 'websocket',
  bytes: 2 ** 24,
  chunkBytes: 2 ** 20,
  checksum: false,
  timeMs: { p50: 10, p95: 11, min: 9, max: 12, samples: [10, 9, 12] },
  bandwidthGBps: 1.6777216,
  senderCpuSecondsPerGiB: 0.5,
  receiverCpuSecondsPerGiB: 0.75,
  ratioToRawSocket: null,
  wrong: null,
};

/** The cells of a line of a Markdown table. */
function cellsOf(line: string): string[] {
  return line
    .split('|')
    .slice(1, -1)
    .map((cell) => cell.trim());
}

describe('formatRows md', () => {
  it('is a table with units in its titles, numbers to the right, and a dash for what was not measured', () => {
    const [titles, rule, cells, again, ...rest] = formatRows([ROW, ROW], 'md', HEADER).split('\n');
    expect([again, ...rest]).to.deep.equal([cells, '']);
    const row = Object.fromEntries(cellsOf(titles).map((title, index) => [title, cellsOf(cells)[index]]));
    expect(row).to.include({
      ranks: '4',
      mask: 'causal',
      'p50 ms': '12.3',
      'p95 ms': '1235',
      'TFLOP/s': '0.0457',
      '% of ideal': '85.3',
      'sent MiB/rank': '3',
      'exposed ms': '0',
      'overlap %': '—',
      'KV slots': '2',
      'peak GPU MiB': '1.5',
      'max abs error': '1.2e-6',
      wrong: '0',
      adapter: 'lavapipe, "LLVM"',
    });
    const alignments = cellsOf(rule);
    expect(alignments[cellsOf(titles).indexOf('p50 ms')]).to.match(/^-+:$/);
    expect(alignments[cellsOf(titles).indexOf('layout')]).to.match(/^:-+$/);
  });

  it('shows dtype, window and direction when some row has another than f32, unlimited and forward', () => {
    const shown = (...rows: BenchRow[]) => {
      const titles = cellsOf(formatRows(rows, 'md', HEADER).split('\n')[0]);
      return titles.filter((title) => ['dtype', 'window', 'direction'].includes(title)).join();
    };
    expect(shown(ROW, ROW)).to.equal('');
    expect(shown(ROW, { ...ROW, dtype: 'bf16' })).to.equal('dtype');
    expect(shown(ROW, { ...ROW, direction: 'backward' })).to.equal('direction');
    expect(shown({ ...ROW, window: [0, -1] }, ROW)).to.equal('window');
    const [titles, , full, windowed] = formatRows([ROW, { ...ROW, window: [127, 0] }], 'md', HEADER).split('\n');
    const at = cellsOf(titles).indexOf('window');
    expect([cellsOf(full)[at], cellsOf(windowed)[at]]).to.deep.equal(['-1,-1', '127,0']);
  });

  it('has the columns of the transport for rows of the transport', () => {
    const [titles, , cells] = formatRows([TRANSPORT_ROW, TRANSPORT_ROW], 'md', HEADER).split('\n');
    const row = Object.fromEntries(cellsOf(titles).map((title, index) => [title, cellsOf(cells)[index]]));
    expect(row).to.include({
      transport: 'websocket',
      'payload MiB': '16',
      'chunk KiB': '1024',
      checksum: 'no',
      'GB/s': '1.68',
      'of raw socket': '—',
      wrong: '—',
    });
  });

  it('is read from top to bottom when there is one row, without what was not measured', () => {
    const lines = formatRows([ROW], 'md', HEADER).trim().split('\n').map(cellsOf);
    expect(lines[0]).to.deep.equal(['', 'value']);
    expect(lines).to.deep.include(['p50 ms', '12.3']).and.to.deep.include(['% of ideal', '85.3']);
    expect(lines.map(([title]) => title)).not.to.include('overlap %');
  });

  it('is a table without lines when there is no row', () => {
    expect(formatRows([], 'md', HEADER).trim().split('\n')).to.have.length(2);
  });
});

describe('formatRows json and jsonl', () => {
  it('json is one file that says where it comes from, with every adapter once', () => {
    const file = JSON.parse(formatRows([ROW, ROW], 'json', HEADER)) as ReportFile;
    const { schemaVersion, adapters, rows, ...header } = file;
    expect(schemaVersion).to.equal(SCHEMA_VERSION);
    expect(adapters).to.deep.equal(['lavapipe, "LLVM"']);
    expect(rows).to.deep.equal([ROW, ROW]);
    expect(header).to.deep.equal(HEADER);
  });

  it('jsonl is one row a line', () => {
    const lines = formatRows([ROW, TRANSPORT_ROW], 'jsonl', HEADER).trimEnd().split('\n');
    expect(lines.map((line) => JSON.parse(line) as unknown)).to.deep.equal([ROW, TRANSPORT_ROW]);
  });
});

describe('formatRows csv', () => {
  it('flattens times, quotes what needs it, and leaves null empty', () => {
    const [titles, cells, ...rest] = formatRows([ROW], 'csv', HEADER).split('\n');
    expect(rest).to.deep.equal(['']);
    expect(titles).to.equal(
      'suite,ranks,cpCommType,layout,batch,seqLen,seqLenKv,numHeads,numKvHeads,headDim,dtype,maskType,window,direction,' +
        'timeMs.p50,timeMs.p95,timeMs.min,timeMs.max,timeMs.samples,tflops,percentOfIdeal,commBytesPerRank,' +
        'exposedCommMs,overlapPercent,kvSlots,peakGpuBytes,maxAbsError,wrong,adapter',
    );
    expect(cells).to.equal(
      'ring,4,p2p,zigzag,1,1024,1024,8,2,64,f32,causal,-1 -1,forward,12.3456,1234.5,12,1300,12 1300,0.04567,85.25,3145728,' +
        '0,,2,1572864,0.000001234,0,"lavapipe, ""LLVM"""',
    );
  });
});

describe('readEnvironment', () => {
  it('knows the version, the host, and the commit of a checkout', () => {
    const { version, commit, host } = readEnvironment();
    expect(version).to.match(/^\d+\.\d+\.\d+/);
    expect(commit ?? '0'.repeat(40)).to.match(/^[0-9a-f]{40}\+?$/);
    expect(host.cores).to.be.greaterThan(0);
    expect(host.node).to.equal(process.versions.node);
  });
});
