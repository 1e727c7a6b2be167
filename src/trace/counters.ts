// The counters of one rank over one call, as `kvring run --metrics` writes them.

/** What one rank did in one call. Bytes are payload bytes of blocks, without frame headers. */
export interface RankMetrics {
  rank: number;
  /** Bytes of K and V that this rank sent in the forward, those that it only passed on included. */
  kvPayloadBytesSent: number;
  /** Bytes of every tensor but lse that this rank sent. */
  payloadBytesSent: { forward: number; backward: number };
  /** Frames sent, of every type. */
  messagesSent: number;
  /** How often a block had not come when the ring asked for it, and for how long, in ms; the device may have been busy meanwhile. */
  waits: number;
  waitMs: number;
  /** KV blocks that this rank had room for at once, its own included: the same whatever the ring's size. */
  kvSlots: number;
  /** Most bytes of GPU buffers alive at once. */
  peakGpuBytes: number;
  /** Pairs of a query tile and a key tile that were computed: with a mask, fewer than all pairs. */
  tileProducts: number;
  /** Time in kernels, in ms. */
  computeMs: number;
  /** Time of the ring in which the kernels did not run, in ms: waits, and all else that is not compute. */
  exposedCommMs: number;
}

/** The content of a `--metrics` file. */
export interface RunMetrics {
  ranks: RankMetrics[];
}

/** Counters of a rank that has done nothing yet. */
export function createRankMetrics(rank: number): RankMetrics {
  return {
    rank,
    kvPayloadBytesSent: 0,
    payloadBytesSent: { forward: 0, backward: 0 },
    messagesSent: 0,
    waits: 0,
    waitMs: 0,
    kvSlots: 0,
    peakGpuBytes: 0,
    tileProducts: 0,
    computeMs: 0,
    exposedCommMs: 0,
  };
}
