// A whole ring in one process: every rank attends on the CPU and talks over the memory network.
import { gatherShard, scatterShard, shardLength } from '../../src/attention/layout.ts';
import { isMasked } from '../../src/attention/merge.ts';
import { CpuBlockAttention, type ShardInputs } from '../../src/context-parallel/cpu-block-attention.ts';
import { KvExchange } from '../../src/context-parallel/kv-exchange.ts';
import { ringAttention } from '../../src/context-parallel/ring-attention.ts';
import { planRing, type RingCall, type RingPlan } from '../../src/context-parallel/ring-plan.ts';
import { createTimeline } from '../../src/trace/timeline.ts';
import { createMemoryNetwork } from '../../src/transport/memory.ts';
import type { TransportCounters } from '../../src/transport/transport.ts';
import { seededNormal } from './seeded.ts';

export interface MemoryRing extends ShardInputs {
  bias: Float32Array | undefined;
  out: Float32Array;
  lse: Float32Array;
  plans: RingPlan[];
  counters: TransportCounters[];
}

/** Seeded whole tensors of a call. One bias in eight removes its key. */
function createInputs({ shape, options, bias, alibi }: RingCall) {
  const { batch, seqLenQ, seqLenKv, numHeads, numKvHeads, headDimQk, headDimV } = shape;
  const biasLength = (bias?.batch ?? 0) * (bias?.heads ?? 0) * seqLenQ * seqLenKv;
  return {
    q: seededNormal(batch * seqLenQ * numHeads * headDimQk, 1),
    k: seededNormal(batch * seqLenKv * numKvHeads * headDimQk, 2),
    v: seededNormal(batch * seqLenKv * numKvHeads * headDimV, 3),
    bias: bias ? seededNormal(biasLength, 4).map((value) => (value > 1.15 ? -2e30 : value)) : undefined,
    sink: options.sink === 'learnable' ? seededNormal(numHeads, 5) : undefined,
    alibiSlopes: alibi ? seededNormal(numHeads, 6).map(Math.abs) : undefined,
  };
}

/** Runs one forward of `call` over `worldSize` ranks on seeded inputs and puts the shards together. */
export async function runMemoryRing(call: RingCall, worldSize: number, chunkBytes = 512): Promise<MemoryRing> {
  const { batch, seqLenQ, seqLenKv, numHeads, numKvHeads, headDimQk, headDimV } = call.shape;
  const inputs = createInputs(call);
  const { q, k, v, bias } = inputs;
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
        bias: bias && gatherShard(bias, plan.queryShard, call.bias!.batch * call.bias!.heads, seqLenQ, seqLenKv),
        sink: inputs.sink,
        alibiSlopes: inputs.alibiSlopes,
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
  return { ...inputs, out, lse, plans, counters };
}
