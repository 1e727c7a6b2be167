// The seeded inputs of a case, on a device and on the host: the same numbers, rounded to the dtype in which they are stored,
// so that the reference computes with what the device has.
import type { AttentionCall } from '../src/attention/call.ts';
import { type Shard, shardLength } from '../src/attention/layout.ts';
import type { DeviceShards } from '../src/context-parallel/gpu-block-attention.ts';
import type { RingPlan } from '../src/context-parallel/ring-plan.ts';
import type { Gpu } from '../src/gpu/device.ts';
import { BUFFER_USAGE } from '../src/gpu/webgpu-constants.ts';
import { fromFloat32, toFloat32 } from '../src/tensor/float16.ts';
import { BYTES_PER_ELEMENT, type FloatDType, type HostTensor } from '../src/tensor/tensor.ts';
import { fillNormal, INPUT_SEEDS } from './inputs.ts';

export type InputName = keyof typeof INPUT_SEEDS;

/** A tensor [batch, seqLen, inner]. */
interface SeededTensor {
  seed: number;
  batch: number;
  seqLen: number;
  inner: number;
  dtype: FloatDType;
}

function describeTensor({ shape, storage }: AttentionCall, name: InputName): SeededTensor {
  const { batch, seqLenQ, seqLenKv, numHeads, numKvHeads, headDimQk, headDimV } = shape;
  const [heads, seqLen] = name === 'q' || name === 'dout' ? [numHeads, seqLenQ] : [numKvHeads, seqLenKv];
  const inner = heads * (name === 'q' || name === 'k' ? headDimQk : headDimV);
  return { seed: INPUT_SEEDS[name], batch, seqLen, inner, dtype: storage };
}

/** A whole input, as it is stored. */
export function seededTensor(call: AttentionCall, name: InputName): HostTensor {
  const { seed, batch, seqLen, inner, dtype } = describeTensor(call, name);
  const data = new Float32Array(batch * seqLen * inner);
  fillNormal(data, seed);
  return fromFloat32(data, [data.length], dtype);
}

/** Whole inputs in f32, as the reference takes them. */
export function referenceTensors(call: AttentionCall): Record<InputName, Float32Array> {
  const widen = (name: InputName): Float32Array => toFloat32(seededTensor(call, name));
  return { q: widen('q'), k: widen('k'), v: widen('v'), dout: widen('dout') };
}

/** The shards of a plan's rank on its device, in buffers of the pool that the caller gives back. */
export function uploadShards(gpu: Gpu, { call, queryShard, kvShards, cpRank }: RingPlan): DeviceShards {
  const kvShard = kvShards[cpRank];
  return {
    q: uploadShard(gpu, queryShard, describeTensor(call, 'q')),
    k: uploadShard(gpu, kvShard, describeTensor(call, 'k')),
    v: uploadShard(gpu, kvShard, describeTensor(call, 'v')),
  };
}

function uploadShard(gpu: Gpu, shard: Shard, { seed, batch, seqLen, inner, dtype }: SeededTensor): GPUBuffer {
  const rowBytes = inner * BYTES_PER_ELEMENT[dtype];
  const usage = BUFFER_USAGE.STORAGE | BUFFER_USAGE.COPY_DST | BUFFER_USAGE.COPY_SRC;
  const byteLength = Math.max(rowBytes, batch * shardLength(shard) * rowBytes);
  const buffer = gpu.pool.acquire({ label: 'input', byteLength, usage });
  let row = 0;
  for (const { token, count } of listRuns(shard, batch, seqLen)) {
    const data = new Float32Array(count * inner);
    fillNormal(data, seed, token * inner);
    const stored = fromFloat32(data, [data.length], dtype).data as Float32Array<ArrayBuffer>;
    gpu.device.queue.writeBuffer(buffer, row * rowBytes, stored);
    row += count;
  }
  return buffer;
}

/** Runs of consecutive tokens of a shard in all batch entries, counted as [batch, seqLen], in the order of its rows. */
function listRuns(shard: Shard, batch: number, seqLen: number): { token: number; count: number }[] {
  const runs = shard.flatMap(({ start, length, stride }) =>
    stride === 1
      ? [{ token: start, count: length }]
      : Array.from({ length }, (_, index) => ({ token: start + index * stride, count: 1 })),
  );
  return Array.from({ length: batch }, (_, entry) =>
    runs.map(({ token, count }) => ({ token: entry * seqLen + token, count })),
  ).flat();
}
