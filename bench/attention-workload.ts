// One call of `bench attention` on a device, ready to run over inputs that are there already: every direction can be run,
// which is what is timed, and verified on poisoned outputs.
import type { AttentionCall } from '../src/attention/call.ts';
import { OWN_SLOT } from '../src/context-parallel/block-attention.ts';
import { type DeviceShards, GpuBlockAttention } from '../src/context-parallel/gpu-block-attention.ts';
import { GpuBlockBackward } from '../src/context-parallel/gpu-block-backward.ts';
import type { RingPlan } from '../src/context-parallel/ring-plan.ts';
import { viewData } from '../src/context-parallel/shard-tensors.ts';
import type { Gpu } from '../src/gpu/device.ts';
import { toFloat32 } from '../src/tensor/float16.ts';
import { type HostTensor, tensorBytes } from '../src/tensor/tensor.ts';
import { referenceTensors, seededTensor } from './seeded-tensors.ts';
import type { Direction, Verdict } from './suite.ts';
import { verifyGradients } from './verify-gradients.ts';
import { joinVerdicts, verifyRows } from './verify.ts';

/** A value that no attention over N(0, 1) gives: what no kernel has written stands out. */
const POISON = 12345;

export interface AttentionWorkload {
  /** Bytes of the buffers that a direction needs besides the inputs. */
  gpuBytes(direction: Direction): number;
  /** Runs a direction once; resolves when the device has finished. `backward` needs a forward before. */
  run(direction: Direction): Promise<void>;
  /** Runs a direction over poisoned outputs and compares rows with the f64 reference. Leaves a forward for `backward`. */
  verify(direction: Direction): Promise<Verdict>;
  /** Gives the buffers back; those of the inputs stay. */
  destroy(): void;
}

interface Kernels {
  forward: GpuBlockAttention;
  /** Absent when no direction needs it. */
  backward: GpuBlockBackward | undefined;
}

/** Compiles the kernels of a plan of one rank and takes its buffers; dout and its gradients only for `directions`. */
export async function createAttentionWorkload(
  gpu: Gpu,
  plan: RingPlan,
  { shards, directions }: { shards: DeviceShards; directions: readonly Direction[] },
): Promise<AttentionWorkload> {
  const { call } = plan;
  const liveBytes = gpu.pool.liveBytes;
  const forward = await GpuBlockAttention.create(gpu, plan, shards);
  const forwardBytes = gpu.pool.liveBytes - liveBytes;
  const needsBackward = directions.some((direction) => direction !== 'forward');
  const backward = needsBackward ? await GpuBlockBackward.create(gpu, forward) : undefined;
  const allBytes = gpu.pool.liveBytes - liveBytes;
  backward?.writeDout(tensorBytes(seededTensor(call, 'dout')));
  const kernels = { forward, backward };
  const run = (direction: Direction): Promise<void> => runDirection(kernels, direction);
  return {
    gpuBytes: (direction) => (direction === 'forward' ? forwardBytes : allBytes),
    run,
    async verify(direction) {
      poison(gpu, kernels, direction);
      if (direction === 'backward') await run('forward');
      await run(direction);
      return readVerdict(gpu, kernels, direction);
    },
    destroy() {
      backward?.destroy();
      forward.destroy();
    },
  };
}

async function runDirection({ forward, backward }: Kernels, direction: Direction): Promise<void> {
  // The queue keeps the two in order: the backward need not wait here for the forward.
  await Promise.all([
    direction !== 'backward' && forward.attend(0, OWN_SLOT),
    direction !== 'forward' && backward!.compute(),
  ]);
}

function poison(gpu: Gpu, { forward, backward }: Kernels, direction: Direction): void {
  const gradients = backward && direction !== 'forward' ? [backward.dq, backward.dkv] : [];
  for (const buffer of [forward.out, forward.lse, ...gradients]) {
    gpu.device.queue.writeBuffer(buffer, 0, new Float32Array(buffer.size / 4).fill(POISON));
  }
}

async function readVerdict(gpu: Gpu, { forward, backward }: Kernels, direction: Direction): Promise<Verdict> {
  const { call } = forward.plan;
  const inputs = referenceTensors(call);
  const result = await forward.readResult();
  const out = widen(result.out, call);
  const lse = viewData(result.lse, 'f32');
  const ofForward = verifyRows(call, inputs, { out, lse });
  if (direction === 'forward') return ofForward;
  const { dq, dkv } = await backward!.readGradients();
  const dKdV = widen(dkv, call);
  const numK = inputs.k.length;
  // The device's own out, before it is rounded to the dtype of the result.
  const exact = await gpu.read([{ buffer: forward.out, byteLength: out.length * Float32Array.BYTES_PER_ELEMENT }]);
  const gradients = { dq: widen(dq, call), dk: dKdV.subarray(0, numK), dv: dKdV.subarray(numK) };
  const forwardResult = { out: viewData(exact, 'f32'), lse };
  const ofGradients = verifyGradients(call, inputs, { ...gradients, ...forwardResult });
  const both = joinVerdicts(ofForward, ofGradients);
  // The reference of dk and dv builds on the device's forward, so that a wrong one spoils a backward alone as well.
  return direction === 'backward' ? { ...ofGradients, wrong: both.wrong } : both;
}

/** A result of the device in f32. */
function widen(bytes: Uint8Array<ArrayBuffer>, { storage }: AttentionCall): Float32Array {
  const tensor: HostTensor = { data: viewData(bytes, storage), shape: [], dtype: storage };
  return toFloat32(tensor);
}
