// Between whole tensors and what one rank holds of them: cuts inputs into the bytes of a shard, as they travel and lie on
// the device, and puts the shards of results together. Pure.
import {
  type AttentionCall,
  type AttentionInputs,
  type AttentionResult,
  lseShape,
  queryShape,
} from '../attention/call.ts';
import { gatherShard, scatterShard, type Shard, shardLength } from '../attention/layout.ts';
import { isMasked } from '../attention/merge.ts';
import { encodeHeads } from '../gpu/heads-buffer.ts';
import { fromFloat32, toFloat32 } from '../tensor/float16.ts';
import {
  BYTES_PER_ELEMENT,
  type FloatDType,
  f32Tensor,
  type HostTensor,
  numElements,
  type TensorData,
} from '../tensor/tensor.ts';
import { resultDType, type RingPlan } from './ring-plan.ts';

/** The shard of q of a plan's rank, [B, rows, H, Dqk]. */
export function cutQ({ q }: AttentionInputs, plan: RingPlan): Uint8Array<ArrayBuffer> {
  const { batch, seqLenQ, numHeads, headDimQk } = plan.call.shape;
  return bytesOf(gatherShard(storedData(q, plan.call), plan.queryShard, batch, seqLenQ, numHeads * headDimQk));
}

/** The shard of dout of a plan's rank, [B, rows, H, Dv], stored as q is. */
export function cutDout(dout: HostTensor, plan: RingPlan): Uint8Array<ArrayBuffer> {
  const { batch, seqLenQ, numHeads, headDimV } = plan.call.shape;
  return bytesOf(gatherShard(storedData(dout, plan.call), plan.queryShard, batch, seqLenQ, numHeads * headDimV));
}

/** The own KV block of a plan's rank as it travels: K [B, rows, Hkv, Dqk], then V [B, rows, Hkv, Dv]. */
export function cutKv({ k, v }: AttentionInputs, plan: RingPlan): Uint8Array<ArrayBuffer> {
  const { batch, seqLenKv, numKvHeads, headDimQk, headDimV } = plan.call.shape;
  const shard = plan.kvShards[plan.cpRank];
  const cut = (tensor: HostTensor, headDim: number): Uint8Array =>
    bytesOf(gatherShard(storedData(tensor, plan.call), shard, batch, seqLenKv, numKvHeads * headDim));
  const [kBytes, vBytes] = [cut(k, headDimQk), cut(v, headDimV)];
  const block = new Uint8Array(kBytes.length + vBytes.length);
  block.set(kBytes);
  block.set(vBytes, kBytes.length);
  return block;
}

/** The rows of the bias that belong to a plan's queries: [1 or B, 1 or H, rows, Skv] f32. */
export function cutBias({ bias }: AttentionInputs, { queryShard }: RingPlan): Uint8Array<ArrayBuffer> {
  const [batch, heads, seqLenQ, seqLenKv] = bias!.shape;
  // A shader may assume that there are no infinities: the sentinel removes the key as well.
  const data = Float32Array.from(bias!.data, (value) => Math.max(REMOVED, value));
  return bytesOf(gatherShard(data, queryShard, batch * heads, seqLenQ, seqLenKv));
}

const REMOVED = -1e30;

/** Slopes and sinks as ranks take them. */
export function headBytes({ alibiSlopes, sink }: AttentionInputs): Uint8Array<ArrayBuffer> {
  return bytesOf(encodeHeads({ alibiSlopes: alibiSlopes?.data, sink: sink?.data }));
}

/** The elements that bytes of a float dtype are. */
export function viewData(bytes: Uint8Array<ArrayBuffer>, dtype: FloatDType): Float32Array | Uint16Array {
  const { buffer, byteOffset, byteLength } = bytes;
  const length = byteLength / BYTES_PER_ELEMENT[dtype];
  return dtype === 'f32' ? new Float32Array(buffer, byteOffset, length) : new Uint16Array(buffer, byteOffset, length);
}

/** A tensor as the caller wants it, from data in the dtype of results. */
export function restoreTensor(
  data: Float32Array | Uint16Array,
  shape: readonly number[],
  { dtype }: AttentionCall,
): HostTensor {
  if (data instanceof Float32Array) return dtype === 'f32' ? f32Tensor(shape, data) : fromFloat32(data, shape, dtype);
  return { data, shape, dtype };
}

/** Puts the results of the ranks together: add every rank's, then finish. */
export class ResultAssembly {
  readonly #call: AttentionCall;
  readonly #lse: Float32Array;
  readonly #maxLogit: Float32Array | undefined;
  #out: Float32Array | Uint16Array | undefined;

  constructor(call: AttentionCall) {
    this.#call = call;
    this.#lse = new Float32Array(numElements(lseShape(call)));
    this.#maxLogit = call.options.maxLogit ? new Float32Array(call.shape.numHeads).fill(-Infinity) : undefined;
  }

  /** Takes the bytes of a rank's shard of out, and of lse with the largest score of each row behind it. */
  add({ call, queryShard }: RingPlan, out: Uint8Array<ArrayBuffer>, lse: Uint8Array<ArrayBuffer>): void {
    const { batch, numHeads, seqLenQ, headDimV } = call.shape;
    const dtype = resultDType(call);
    const shardOut = viewData(out, dtype);
    const size = batch * seqLenQ * numHeads * headDimV;
    this.#out ??= dtype === 'f32' ? new Float32Array(size) : new Uint16Array(size);
    scatterShard(this.#out as TensorData, shardOut, queryShard, batch, seqLenQ, numHeads * headDimV);
    const rows = viewData(lse, 'f32') as Float32Array;
    const numRows = batch * numHeads * shardLength(queryShard);
    scatterShard(this.#lse, rows.subarray(0, numRows), queryShard, batch * numHeads, seqLenQ, 1);
    this.#addMax(rows.subarray(numRows), queryShard);
  }

  finish(): AttentionResult {
    const lse = f32Tensor(lseShape(this.#call), hostInfinities(this.#lse));
    const out = restoreTensor(this.#out!, queryShape(this.#call, this.#call.shape.headDimV), this.#call);
    return { out, lse, ...(this.#maxLogit && { maxLogit: f32Tensor([this.#maxLogit.length], this.#maxLogit) }) };
  }

  #addMax(rowMax: Float32Array, queryShard: Shard): void {
    if (!this.#maxLogit) return;
    const { numHeads } = this.#call.shape;
    const rows = shardLength(queryShard);
    for (const [index, value] of rowMax.entries()) {
      const head = Math.floor(index / rows) % numHeads;
      if (!isMasked(value)) this.#maxLogit[head] = Math.max(this.#maxLogit[head], value);
    }
  }
}

/** On the host a row without a key has −Infinity; on the device it has a finite stand-in. Changes `values`. */
function hostInfinities(values: Float32Array): Float32Array {
  for (let index = 0; index < values.length; index++) if (isMasked(values[index])) values[index] = -Infinity;
  return values;
}

/** A tensor's data in the storage dtype: the data itself, or widened or rounded. */
function storedData(tensor: HostTensor, { storage }: AttentionCall): TensorData {
  if (tensor.dtype === storage) return tensor.data;
  const data = toFloat32(tensor);
  return storage === 'f32' ? data : fromFloat32(data, tensor.shape, storage).data;
}

function bytesOf({ buffer, byteOffset, byteLength }: TensorData): Uint8Array<ArrayBuffer> {
  return new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength);
}
