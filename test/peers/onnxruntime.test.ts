// onnxruntime's CPU kernels, which know nothing of kvring, against the f64 reference and against the engine on random inputs:
// MultiHeadAttention and GroupQueryAttention with what they have of masks, bias, lengths, windows, soft cap and sinks.
import { type AttentionInputs, describeCall } from '../../src/attention/call.ts';
import type { AttentionOptions } from '../../src/attention/options.ts';
import { referenceForward, referenceInputs } from '../../src/attention/reference.ts';
import type { AttentionShape } from '../../src/attention/shape.ts';
import type { Engine } from '../../src/context-parallel/engine-options.ts';
import { DeviceError } from '../../src/errors.ts';
import { createEngine } from '../../src/node/engine.ts';
import type { F32Tensor } from '../../src/tensor/tensor.ts';
import { createInputs, type InputsSpec } from '../helpers/attention-inputs.ts';
import { expectClose, TOLERANCE } from '../helpers/tolerance.ts';
import { type AttentionNode, emptyTensor, joinHeads, loadPeers, type NodeInput, runNode } from './onnx-model.ts';

interface PeerCase {
  spec: InputsSpec;
  options?: Partial<AttentionOptions>;
  attributes?: Record<string, number>;
}

const MHA_SHAPE = { batch: 2, seqLenQ: 33, seqLenKv: 33, numHeads: 4, numKvHeads: 4, headDimQk: 32, headDimV: 32 };
const GQA_SHAPE = { ...MHA_SHAPE, numHeads: 8, numKvHeads: 2 };

const MHA_CASES: Record<string, PeerCase> = {
  'no mask': { spec: { shape: MHA_SHAPE } },
  causal: { spec: { shape: MHA_SHAPE }, options: { maskType: 'causal' }, attributes: { unidirectional: 1 } },
  'cross-attention with two head dims': { spec: { shape: { ...MHA_SHAPE, seqLenKv: 50, headDimV: 48 } } },
  'a bias per head': { spec: { shape: MHA_SHAPE, bias: [1, 4] } },
  'a bias per batch entry and head, with a scale': {
    spec: { shape: MHA_SHAPE, bias: [2, 4] },
    options: { softmaxScale: 0.3 },
    attributes: { scale: 0.3 },
  },
};

/** Every entry has keys for all of its queries, so that padding rows are the last ones of both. */
const LENGTHS = { q: [33, 20], kv: [33, 20] };

const GQA_CASES: Record<string, PeerCase> = {
  causal: { spec: { shape: GQA_SHAPE }, options: { maskType: 'causal' } },
  MQA: { spec: { shape: { ...GQA_SHAPE, numKvHeads: 1 } }, options: { maskType: 'causal' } },
  'lengths per batch entry': {
    spec: { shape: GQA_SHAPE, sequences: LENGTHS },
    options: { maskType: 'padding_causal' },
  },
  'a window of the 7 last keys': {
    spec: { shape: GQA_SHAPE },
    options: { maskType: 'causal', window: [6, 0] },
    attributes: { local_window_size: 7 },
  },
  'a soft cap and a scale': {
    spec: { shape: GQA_SHAPE },
    options: { maskType: 'causal', softcap: 1.5, softmaxScale: 0.4 },
    attributes: { softcap: 1.5, scale: 0.4 },
  },
  'a sink off by one': {
    spec: { shape: GQA_SHAPE },
    options: { maskType: 'causal', sink: 'off_by_one' },
    attributes: { smooth_softmax: 1 },
  },
  'a learnable sink': {
    spec: { shape: GQA_SHAPE, sink: true },
    options: { maskType: 'causal', sink: 'learnable' },
  },
};

/** A finite stand-in for −Infinity: a kernel that is not ours may add it up. */
const REMOVED = -1e30;

function mhaNode(
  inputs: AttentionInputs,
  shape: AttentionShape,
  attributes: Record<string, number> = {},
): AttentionNode {
  const { bias } = inputs;
  const finite = bias && { ...bias, data: (bias.data as Float32Array).map((value) => Math.max(value, REMOVED)) };
  const extra: NodeInput[] = finite ? [null, null, { name: 'bias', tensor: finite as F32Tensor }] : [];
  return {
    opType: 'MultiHeadAttention',
    inputs: [...qkv(inputs), ...extra],
    outputs: ['out'],
    attributes: { num_heads: shape.numHeads, ...attributes },
  };
}

function gqaNode(
  inputs: AttentionInputs,
  shape: AttentionShape,
  attributes: Record<string, number> = {},
): AttentionNode {
  const { batch, numHeads, numKvHeads, headDimQk, seqLenKv } = shape;
  const past = emptyTensor([batch, numKvHeads, 0, headDimQk]);
  const cumulative = inputs.cuSeqlensKv?.data;
  const lengths = Array.from({ length: batch }, (_, b) => (cumulative ? cumulative[b + 1] - cumulative[b] : seqLenKv));
  const sink: NodeInput[] = inputs.sink
    ? [null, null, null, null, { name: 'head_sink', tensor: inputs.sink as F32Tensor }]
    : [];
  return {
    opType: 'GroupQueryAttention',
    inputs: [
      ...qkv(inputs),
      { name: 'past_key', tensor: past },
      { name: 'past_value', tensor: past },
      { name: 'seqlens_k', i32: lengths.map((length) => length - 1) },
      { name: 'total_sequence_length', i32: [seqLenKv] },
      ...sink,
    ],
    outputs: ['out', 'present_key', 'present_value'],
    attributes: { num_heads: numHeads, kv_num_heads: numKvHeads, ...attributes },
  };
}

function qkv({ q, k, v }: AttentionInputs): NodeInput[] {
  return Object.entries({ q, k, v }).map(([name, tensor]) => ({ name, tensor: joinHeads(tensor as F32Tensor) }));
}

const OPERATORS = {
  MultiHeadAttention: { cases: MHA_CASES, nodeOf: mhaNode },
  GroupQueryAttention: { cases: GQA_CASES, nodeOf: gqaNode },
} as const;

describe('onnxruntime-node on the CPU', () => {
  const peers = loadPeers();
  let engine: Engine | undefined;
  before(async function () {
    if ('missing' in peers) {
      process.stderr.write(`skipped: ${peers.missing}\n`);
      this.skip();
    }
    engine = await createEngine({ ranks: 1 }).catch((error: unknown) => {
      if (!(error instanceof DeviceError) || process.env.KVRING_REQUIRE_ADAPTER) throw error;
      process.stderr.write(`without the engine: ${error.message}\n`);
      return undefined;
    });
  });
  after(() => engine?.close());

  for (const [opType, { cases, nodeOf }] of Object.entries(OPERATORS)) {
    for (const [title, { spec, options = {}, attributes }] of Object.entries(cases)) {
      const inputs = createInputs(spec);
      const call = describeCall(inputs, options);
      const { batch, seqLenQ, numHeads, headDimV } = call.shape;
      const size = [batch, seqLenQ, numHeads, headDimV];
      const isValid = validRows(call.shape, spec);
      const valid = (data: ArrayLike<number>): number[] => Array.from(data).filter((_, index) => isValid(index));
      let theirs: F32Tensor | undefined;

      it(`${opType} equals the reference: ${title}`, async function () {
        if ('missing' in peers) return this.skip();
        theirs = await runNode(peers, nodeOf(inputs, call.shape, attributes));
        const { out } = referenceForward(referenceInputs(inputs, call), call.shape, call.options);
        expectClose(valid(theirs.data), valid(out), TOLERANCE.f32.out, size);
      });

      it(`${opType} equals the engine: ${title}`, async function () {
        if (!theirs || !engine) return this.skip();
        const { out } = await engine.forward(inputs, options);
        // Both are f32, each within its budget of the exact result.
        const budget = { atol: 2 * TOLERANCE.f32.out.atol, rtol: 0 };
        expectClose(valid(out.data), valid(theirs.data), budget, size);
      });
    }
  }
});

/** Whether an element of out belongs to a query within its length: what others write beyond is theirs to choose. */
function validRows({ seqLenQ, numHeads, headDimV }: AttentionShape, { sequences }: InputsSpec) {
  return (index: number): boolean => {
    const row = Math.floor(index / (numHeads * headDimV));
    return sequences === undefined || row % seqLenQ < sequences.q[Math.floor(row / seqLenQ)];
  };
}
