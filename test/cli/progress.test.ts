// Progress and findings as text: one rewritten line on a terminal, nothing on a pipe, and one line per finding.
import { expect } from 'chai';
import type { OutputStream } from '../../src/cli/context.ts';
import { formatFindings } from '../../src/cli/doctor.ts';
import { createProgress } from '../../src/cli/progress.ts';
import { TextSink } from '../helpers/run-cli.ts';

describe('createProgress', () => {
  it('writes only the lines that stay when no terminal is behind the stream', () => {
    const sink = new TextSink();
    const progress = createProgress(sink);
    progress.update('computing');
    progress.log('adapter: llvmpipe');
    progress.clear();
    expect(sink.text).to.equal('adapter: llvmpipe\n');
  });

  it('rewrites one line, cut to the width of the terminal, and removes it', () => {
    const sink: TextSink & OutputStream = Object.assign(new TextSink(), { isTTY: true, columns: 10 });
    const progress = createProgress(sink);
    progress.update('starting\n4 ranks');
    progress.log('ready');
    progress.update('done');
    progress.clear();
    progress.clear();
    const erase = '\r\u001b[2K';
    expect(sink.text).to.equal(`${erase}starting ${erase}ready\n${erase}done${erase}`);
  });
});

describe('formatFindings', () => {
  it('gives a line per finding, with the remedy below it', () => {
    const text = formatFindings([
      { topic: 'adapter', status: 'ok', detail: 'llvmpipe' },
      { topic: 'browser', status: 'missing', detail: 'no Chromium', remedy: 'npm install @sparticuz/chromium' },
    ]);
    expect(text).to.equal(
      'ok       adapter  llvmpipe\nmissing  browser  no Chromium\n         → npm install @sparticuz/chromium\n',
    );
  });
});
