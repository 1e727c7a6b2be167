// The recorder of a rank: what it keeps, that its memory is bounded, and that a disabled one does nothing.
import { expect } from 'chai';
import { createTimeline } from '../../src/trace/timeline.ts';

describe('createTimeline', () => {
  it('keeps spans with their arguments and flows, in the order in which they were recorded', () => {
    const timeline = createTimeline({ rank: 2, label: 'host a', clockOffsetMs: -3 });
    const sends = { opSeq: 1, step: 0, from: 2, to: 3 };
    timeline.span('send', 'kv 2', 1, 2, { args: { byteLength: 64 }, sends });
    timeline.span('compute', 'attend', 0, 5);
    expect(timeline.take()).to.deep.equal({
      rank: 2,
      label: 'host a',
      clockOffsetMs: -3,
      dropped: 0,
      events: [
        { lane: 'send', name: 'kv 2', startMs: 1, endMs: 2, args: { byteLength: 64 }, sends },
        { lane: 'compute', name: 'attend', startMs: 0, endMs: 5 },
      ],
    });
  });

  it('starts again from nothing after take()', () => {
    const timeline = createTimeline({ rank: 0, maxEvents: 1 });
    for (let index = 0; index < 3; index++) timeline.span('upload', 'kv', index, index + 1);
    timeline.take();
    const { events, dropped } = timeline.take();
    expect({ events, dropped }).to.deep.equal({ events: [], dropped: 0 });
  });

  it('keeps at most maxEvents spans and counts the rest', () => {
    const timeline = createTimeline({ rank: 0, maxEvents: 3 });
    for (let index = 0; index < 5; index++) timeline.span('compute', `step ${index}`, index, index + 1);
    const { events, dropped } = timeline.take();
    expect(events.map(({ name }) => name)).to.deep.equal(['step 0', 'step 1', 'step 2']);
    expect(dropped).to.equal(2);
  });

  it('records nothing when it is disabled', () => {
    const timeline = createTimeline({ rank: 0, enabled: false });
    timeline.span('compute', 'attend', 0, 1);
    expect(timeline.enabled).to.equal(false);
    expect(timeline.take().events).to.deep.equal([]);
  });

  it('is plain JSON, so that it can cross a process border', () => {
    const timeline = createTimeline({ rank: 0 });
    timeline.span('receive', 'kv 1', 0.5, 1.5, { receives: { opSeq: 0, step: 1, from: 1, to: 0 } });
    const taken = timeline.take();
    expect(JSON.parse(JSON.stringify(taken))).to.deep.equal(taken);
  });
});
