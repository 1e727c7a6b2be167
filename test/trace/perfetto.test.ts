// The Perfetto writer: names, lanes, aligned clocks, arrows between ranks, and slices that nest whatever was recorded.
import { expect } from 'chai';
import fc from 'fast-check';
import { buildChromeTrace, type ChromeTraceEvent, nestSpans } from '../../src/trace/perfetto.ts';
import { createTimeline, LANES, type SpanEvent } from '../../src/trace/timeline.ts';

/** Two ranks: 0 sends a block to 1, whose clock is 100 ms behind. */
function recordTwoRanks() {
  const key = { opSeq: 7, step: 1, from: 0, to: 1 };
  const sender = createTimeline({ rank: 0, label: 'lavapipe' });
  sender.span('compute', 'attend kv 0', 1000, 1008, { args: { step: 0 } });
  sender.span('send', 'kv 0', 1001, 1003, { sends: key });
  const receiver = createTimeline({ rank: 1, clockOffsetMs: 100 });
  receiver.span('receive', 'kv 0', 902, 905, { receives: key });
  receiver.span('upload', 'kv 0', 904, 905);
  return [sender.take(), receiver.take()];
}

function eventsOf(events: readonly ChromeTraceEvent[], ph: ChromeTraceEvent['ph']): ChromeTraceEvent[] {
  return events.filter((event) => event.ph === ph);
}

describe('buildChromeTrace', () => {
  const { traceEvents } = buildChromeTrace(recordTwoRanks());

  it('names one process per rank and one thread per lane', () => {
    const names = eventsOf(traceEvents, 'M').filter(({ name }) => name.endsWith('_name'));
    expect(names.map(({ name, pid, args }) => [pid, name, args?.['name']])).to.deep.equal([
      [0, 'process_name', 'rank 0 (lavapipe)'],
      ...LANES.map((lane) => [0, 'thread_name', lane]),
      [1, 'process_name', 'rank 1'],
      ...LANES.map((lane) => [1, 'thread_name', lane]),
    ]);
  });

  it('puts every rank on the shared clock, in microseconds from the earliest span', () => {
    const slices = eventsOf(traceEvents, 'X').map(({ pid, cat, ts, dur }) => ({ pid, cat, ts, dur }));
    expect(slices).to.deep.equal([
      { pid: 0, cat: 'compute', ts: 0, dur: 8000 },
      { pid: 0, cat: 'send', ts: 1000, dur: 2000 },
      { pid: 1, cat: 'receive', ts: 2000, dur: 3000 },
      { pid: 1, cat: 'upload', ts: 4000, dur: 1000 },
    ]);
  });

  it('draws an arrow from the start of a send to just before the end of its receive', () => {
    const [start] = eventsOf(traceEvents, 's');
    const [end] = eventsOf(traceEvents, 'f');
    expect(start).to.include({ pid: 0, tid: 2, ts: 1000, id: '7/1/0>1' });
    expect(end).to.include({ pid: 1, tid: 3, ts: 4999, id: '7/1/0>1', bp: 'e' });
  });

  it('says how many spans are missing', () => {
    const full = createTimeline({ rank: 0, maxEvents: 0 });
    full.span('compute', 'attend', 0, 1);
    expect(buildChromeTrace([full.take()]).otherData).to.deep.equal({ droppedSpans: 1 });
  });

  it('makes a trace without slices of ranks that recorded nothing', () => {
    const { traceEvents: events } = buildChromeTrace([createTimeline({ rank: 0, enabled: false }).take()]);
    expect(eventsOf(events, 'X')).to.deep.equal([]);
    expect(eventsOf(events, 'M')).to.have.length(10);
  });

  it('gives the slices of a lane whole microseconds that nest after rounding too', () => {
    const spans = fc.array(
      fc.tuple(fc.double({ min: 0, max: 9, noNaN: true }), fc.double({ min: 0, max: 9, noNaN: true })),
    );
    fc.assert(
      fc.property(spans, (times) => {
        const timeline = createTimeline({ rank: 0 });
        for (const [start, length] of times) timeline.span('compute', 'x', start, start + length);
        const slices = eventsOf(buildChromeTrace([timeline.take()]).traceEvents, 'X');
        // Nanoseconds: ts and dur are multiples of 0.001 µs, which a double does not hold exactly.
        expectNested(
          slices.map(({ ts = 0, dur = 0 }) => [Math.round(ts * 1e3), Math.round(ts * 1e3) + Math.round(dur * 1e3)]),
        );
      }),
    );
  });
});

function expectNested(intervals: readonly (readonly [number, number])[]): void {
  for (const [index, [start, end]] of intervals.entries()) {
    for (const [otherStart, otherEnd] of intervals.slice(index + 1)) {
      const apart = otherStart >= end || otherEnd <= start;
      const inside = (otherStart >= start && otherEnd <= end) || (start >= otherStart && end <= otherEnd);
      expect(apart || inside, `[${start}, ${end}] and [${otherStart}, ${otherEnd}]`).to.equal(true);
    }
  }
}

function span(name: string, startMs: number, endMs: number): SpanEvent {
  return { lane: 'receive', name, startMs, endMs };
}

describe('nestSpans', () => {
  it('leaves spans alone that follow one another or nest', () => {
    const spans = [span('outer', 0, 10), span('inner', 2, 5), span('inner 2', 5, 10), span('next', 10, 12)];
    expect(nestSpans(spans)).to.deep.equal(spans);
  });

  it('draws a span that waited for the one before it from the end of that one, and says how long it waited', () => {
    expect(nestSpans([span('a', 0, 10), span('b', 4, 20)])).to.deep.equal([
      span('a', 0, 10),
      { ...span('b', 10, 20), args: { queuedMs: 6 } },
    ]);
  });

  it('adds up the waits of a span that is moved twice', () => {
    const [, , last] = nestSpans([span('a', 0, 10), span('b', 5, 15), span('c', 6, 20)]);
    expect(last).to.deep.equal({ ...span('c', 15, 20), args: { queuedMs: 9 } });
  });

  it('loses no span, moves no end, and nests whatever it is given', () => {
    const spans = fc.array(fc.tuple(fc.nat(30), fc.nat(30)), { maxLength: 30 });
    fc.assert(
      fc.property(spans, (times) => {
        const given = times.map(([start, length], index) => span(String(index), start, start + length));
        const placed = nestSpans(given);
        const ends = (list: readonly SpanEvent[]) => list.map(({ name, endMs }) => `${name}:${endMs}`).toSorted();
        expect(ends(placed)).to.deep.equal(ends(given));
        expectNested(placed.map(({ startMs, endMs }) => [startMs, endMs]));
      }),
    );
  });
});
