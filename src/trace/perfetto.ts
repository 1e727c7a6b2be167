// The timelines of all ranks as a Chrome JSON trace, which ui.perfetto.dev opens: one process per rank, one thread per
// lane, an arrow from every send to its receive. Slices of a lane always nest, so that the viewer draws every one.
import { type FlowKey, LANES, type RankTimeline, type SpanEvent } from './timeline.ts';

/** One event of the Chrome trace format; `ts` and `dur` are microseconds. */
export interface ChromeTraceEvent {
  name: string;
  /** M names a process or thread, X is a slice, s and f are the two ends of an arrow. */
  ph: 'M' | 'X' | 's' | 'f';
  /** The rank. */
  pid: number;
  /** The lane, counted from 1. */
  tid: number;
  ts?: number;
  dur?: number;
  cat?: string;
  id?: string;
  /** `e`: the arrow ends at the slice that encloses it. */
  bp?: 'e';
  args?: Record<string, number | string>;
}

/** A whole trace file. */
export interface ChromeTrace {
  displayTimeUnit: 'ms';
  traceEvents: ChromeTraceEvent[];
  otherData: { droppedSpans: number };
}

/** Builds the trace of one call. Time 0 is the start of the earliest span of any rank, on the shared clock. */
export function buildChromeTrace(timelines: readonly RankTimeline[]): ChromeTrace {
  const origin = timelines.reduce(
    (earliest, { events, clockOffsetMs }) =>
      events.reduce((least, { startMs }) => Math.min(least, startMs + clockOffsetMs), earliest),
    Infinity,
  );
  return {
    displayTimeUnit: 'ms',
    traceEvents: timelines.flatMap((timeline) => [...nameEvents(timeline), ...laneEvents(timeline, origin)]),
    otherData: { droppedSpans: timelines.reduce((sum, { dropped }) => sum + dropped, 0) },
  };
}

function nameEvents({ rank, label }: RankTimeline): ChromeTraceEvent[] {
  const name = label === '' ? `rank ${rank}` : `rank ${rank} (${label})`;
  const process = { ph: 'M', pid: rank, tid: 0 } as const;
  return [
    { ...process, name: 'process_name', args: { name } },
    { ...process, name: 'process_sort_index', args: { sort_index: rank } },
    ...LANES.flatMap((lane, index): ChromeTraceEvent[] => [
      { name: 'thread_name', ph: 'M', pid: rank, tid: index + 1, args: { name: lane } },
      { name: 'thread_sort_index', ph: 'M', pid: rank, tid: index + 1, args: { sort_index: index } },
    ]),
  ];
}

function laneEvents({ rank, clockOffsetMs, events }: RankTimeline, originMs: number): ChromeTraceEvent[] {
  const toMicroseconds = (timeMs: number) => Math.round((timeMs + clockOffsetMs - originMs) * 1e6) / 1e3;
  return LANES.flatMap((lane, index) => {
    const place = { pid: rank, tid: index + 1 };
    const spans = nestSpans(events.filter((event) => event.lane === lane));
    return spans.flatMap(({ name, startMs, endMs, args, sends, receives }): ChromeTraceEvent[] => {
      const ts = toMicroseconds(startMs);
      const end = toMicroseconds(endMs);
      const slice: ChromeTraceEvent = { name, ph: 'X', cat: lane, ...place, ts, dur: round(end - ts) };
      if (args) slice.args = { ...args };
      const result = [slice];
      const arrow = { name: 'block', cat: 'flow', ...place };
      if (sends) result.push({ ...arrow, ph: 's', id: flowId(sends), ts });
      // A viewer looks for the slice that is open at the time of an arrow: the end itself would be too late.
      const arrival = round(end - Math.min(1, (end - ts) / 2));
      if (receives) result.push({ ...arrow, ph: 'f', bp: 'e', id: flowId(receives), ts: arrival });
      return result;
    });
  });
}

function round(microseconds: number): number {
  return Math.round(microseconds * 1e3) / 1e3;
}

function flowId({ opSeq, step, from, to }: FlowKey): string {
  return `${opSeq}/${step}/${from}>${to}`;
}

/**
 * Makes the spans of one lane nest. A lane is a queue, so a span that starts before an earlier one has ended, and ends
 * after it, has waited for it: it is drawn from that end on, and its `queuedMs` says how long it had waited.
 */
export function nestSpans(spans: readonly SpanEvent[]): SpanEvent[] {
  // The next one last. Of spans that start together, the one that encloses the others comes first.
  const waiting = spans.toSorted((a, b) => b.startMs - a.startMs || a.endMs - b.endMs);
  const moved = new Set<SpanEvent>();
  const placed: SpanEvent[] = [];
  const open: SpanEvent[] = [];
  for (let span = waiting.pop(); span; span = waiting.pop()) {
    while (open.length > 0 && open.at(-1)!.endMs <= span.startMs) open.pop();
    const enclosing = open.at(-1);
    if (!enclosing || span.endMs <= enclosing.endMs) {
      open.push(span);
      placed.push(span);
      continue;
    }
    const queuedMs = (moved.has(span) ? Number(span.args?.['queuedMs']) : 0) + enclosing.endMs - span.startMs;
    const later: SpanEvent = { ...span, startMs: enclosing.endMs, args: { ...span.args, queuedMs } };
    // Of spans that waited for the same end, the one that was done first was ahead in the queue.
    const isAhead = (other: SpanEvent) =>
      other.startMs < later.startMs ||
      (other.startMs === later.startMs && moved.has(other) && other.endMs <= later.endMs);
    let index = waiting.length;
    while (index > 0 && isAhead(waiting[index - 1])) index--;
    waiting.splice(index, 0, later);
    moved.add(later);
  }
  return placed;
}
