// What one rank did and when: spans on four lanes, and the flows that join a send on one rank to its receive on another.
// Memory is bounded, a timeline is plain JSON that can cross a process border, and a disabled recorder does nothing.

/** The lanes of a rank, in the order in which they are drawn. Each is a queue: its work completes in order. */
export const LANES = ['compute', 'send', 'receive', 'upload'] as const;
export type Lane = (typeof LANES)[number];

/** Names one block on one edge of the ring. The sender's span and the receiver's carry the same key. */
export interface FlowKey {
  readonly opSeq: number;
  readonly step: number;
  /** The sending rank. */
  readonly from: number;
  /** The receiving rank. */
  readonly to: number;
}

/** What a span may carry besides its name and times. */
export interface SpanDetails {
  /** Shown by the viewer when the span is selected; units belong in the names (`byteLength`, `waitMs`). */
  readonly args?: Readonly<Record<string, number | string>> | undefined;
  /** The block that this span sends: an arrow starts where the span starts. */
  readonly sends?: FlowKey | undefined;
  /** The block that this span receives: the arrow ends where the span ends. */
  readonly receives?: FlowKey | undefined;
}

/** One piece of work. Times are ms on the clock of the rank that recorded it; `endMs` ≥ `startMs`. */
export interface SpanEvent extends SpanDetails {
  readonly lane: Lane;
  readonly name: string;
  readonly startMs: number;
  readonly endMs: number;
}

/** Everything that one rank recorded. */
export interface RankTimeline {
  readonly rank: number;
  /** Shown beside the rank number: a host, an adapter. */
  readonly label: string;
  /** Added to every time of this rank, it gives the time on the clock that all ranks share, in ms. */
  readonly clockOffsetMs: number;
  readonly events: readonly SpanEvent[];
  /** Spans that were recorded after the recorder was full, and are not in `events`. */
  readonly dropped: number;
}

/** Where a rank reports its work. */
export interface Timeline {
  /** False when spans go nowhere: callers then skip what only a trace needs, such as reading clocks. */
  readonly enabled: boolean;
  /** Records a span, in ms of this rank's clock. */
  span(lane: Lane, name: string, startMs: number, endMs: number, details?: SpanDetails): void;
  /** Returns what was recorded since the last call, and starts again from nothing. */
  take(): RankTimeline;
}

/** Options of {@link createTimeline}. */
export interface TimelineOptions {
  rank: number;
  /** Default: no label. */
  label?: string | undefined;
  /** See {@link RankTimeline.clockOffsetMs}; default 0. */
  clockOffsetMs?: number | undefined;
  /** Spans kept before later ones are only counted; default 65536, some 10 MB. */
  maxEvents?: number | undefined;
  /** Default true. */
  enabled?: boolean | undefined;
}

const DEFAULT_MAX_EVENTS = 65536;

/** A recorder, or one that does nothing when `enabled` is false. */
export function createTimeline(options: TimelineOptions): Timeline {
  const { rank, label = '', clockOffsetMs = 0, maxEvents = DEFAULT_MAX_EVENTS, enabled = true } = options;
  let events: SpanEvent[] = [];
  let dropped = 0;
  const take = (): RankTimeline => {
    const timeline = { rank, label, clockOffsetMs, events, dropped };
    events = [];
    dropped = 0;
    return timeline;
  };
  if (!enabled) return { enabled, span: () => undefined, take };
  return {
    enabled,
    take,
    span(lane, name, startMs, endMs, details) {
      if (events.length < maxEvents) events.push({ ...details, lane, name, startMs, endMs });
      else dropped++;
    },
  };
}
