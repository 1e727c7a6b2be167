// A whole ring in one process: every rank attends on the CPU and talks over the memory network.
import { gatherShard, scatterShard, shardLength } from '../../src/attention/layout.ts';
import { isMasked } from '../../src/attention/merge.ts';
import { CpuBlockAttention } from '../../src/context-parallel/cpu-block-attention.ts';
import { KvExchange } from '../../src/context-parallel/kv-exchange.ts';
import { ringAttention } from '../../src/context-parallel/ring-attention.ts';
import { type AttentionCall, type RingPlan, planRing } from '../../src/context-parallel/ring-plan.ts';
import { createTimeline } from '../../src/trace/timeline.ts';
import { createMemoryNetwork } from '../../src/transport/memory.ts';
import type { TransportCounters } from '../../src/transport/transport.ts';
import { seededNormal } from './seeded.ts';

export interface MemoryRing {
  q: Float32Array;
  k: Float32Array;
  v: Float32Array;
  out: Float32Array;
  lse: Float32Array;
  plans: RingPlan[];
  counters: TransportCounters[];
}

/** Runs one forward of `call` over `worldSize` ranks on seeded inputs and puts the shards together. */
export async function runMemoryRing(call: AttentionCall, worldSize: number, chunkBytes = 512): Promise<MemoryRing> {
  const { batch, seqLenQ, seqLenKv, numHeads, numKvHeads, headDimQk, headDimV } = call.shape;
  const q = seededNormal(batch * seqLenQ * numHeads * headDimQk, 1);
  const k = seededNormal(batch * seqLenKv * numKvHeads * headDimQk, 2);
  const v = seededNormal(batch * seqLenKv * numKvHeads * headDimV, 3);
  // Poisoned: a row that no rank writes stands out.
  const out = new Float32Array(batch * seqLenQ * numHeads * headDimV).fill(NaN);
  const lse = new Float32Array(batch * numHeads * seqLenQ).fill(NaN);
  const network = createMemoryNetwork(worldSize, { chunkBytes, checksum: true });
  const group = network.map((_, rank) => rank);
  const plans = group.map((rank) => planRing(call, rank, worldSize));
  await Promise.all(
    plans.map(async (plan, rank) => {
      const kvShard = plan.kvShards[rank];
      const compute = new CpuBlockAttention(plan, {
        q: gatherShard(q, plan.queryShard, batch, seqLenQ, numHeads * headDimQk),
        k: gatherShard(k, kvShard, batch, seqLenKv, numKvHeads * headDimQk),
        v: gatherShard(v, kvShard, batch, seqLenKv, numKvHeads * headDimV),
      });
      const timeline = createTimeline({ rank });
      const transport = network[rank];
      const exchange = new KvExchange({ plan, transport, group, compute, opSeq: 1, timeline, transfer: {} });
      await ringAttention({ plan, compute, exchange, timeline });
      const rows = shardLength(plan.queryShard);
      if (rows === 0) return;
      scatterShard(out, compute.out, plan.queryShard, batch, seqLenQ, numHeads * headDimV);
      scatterShard(lse, compute.lse, plan.queryShard, batch * numHeads, seqLenQ, 1);
    }),
  );
  for (const [index, value] of lse.entries()) if (isMasked(value)) lse[index] = -Infinity;
  const counters = network.map((transport) => ({ ...transport.counters }));
  await Promise.all(network.map((transport) => transport.close()));
  return { q, k, v, out, lse, plans, counters };
}
