// ONNX models of one attention node, and onnxruntime-node's CPU kernels to run them; both are packages of bench/peers, which
// has a package.json of its own.
import { createRequire } from 'node:module';
import { f32Tensor, type F32Tensor, numElements } from '../../src/tensor/tensor.ts';

/** The parts of onnx-proto's generated classes that are used here. */
interface Message {
  create(fields: Record<string, unknown>): object;
}
interface OnnxProto {
  onnx: Record<'ValueInfoProto' | 'AttributeProto' | 'NodeProto' | 'GraphProto', Message> & {
    ModelProto: Message & { encode(model: object): { finish(): Uint8Array } };
  };
}

interface OrtTensor {
  data: Float32Array;
  dims: number[];
}
/** The parts of onnxruntime-node that are used here. */
export interface OnnxRuntime {
  Tensor: new (type: string, data: Float32Array | Int32Array, dims: readonly number[]) => OrtTensor;
  InferenceSession: {
    create(
      model: Uint8Array,
      options: Record<string, unknown>,
    ): Promise<{ run(feeds: Record<string, OrtTensor>): Promise<Record<string, OrtTensor>>; release(): Promise<void> }>;
  };
}

export interface Peers {
  onnx: OnnxProto['onnx'];
  ort: OnnxRuntime;
}

/** The packages of bench/peers, or why there are none. */
export function loadPeers(): Peers | { missing: string } {
  const require = createRequire(new URL('../../bench/peers/package.json', import.meta.url));
  try {
    const { onnx } = require('onnx-proto') as OnnxProto;
    return { onnx, ort: require('onnxruntime-node') as OnnxRuntime };
  } catch (error) {
    const [reason] = (error as Error).message.split('\n');
    return { missing: `${reason}; install them: cd bench/peers && npm ci --ignore-scripts` };
  }
}

/** An input of a node: f32 of a shape, or i32 numbers; an absent one keeps its place. */
export type NodeInput = { name: string; tensor: F32Tensor } | { name: string; i32: readonly number[] } | null;

export interface AttentionNode {
  opType: 'MultiHeadAttention' | 'GroupQueryAttention';
  inputs: readonly NodeInput[];
  outputs: readonly string[];
  /** Whole numbers become INT, `scale` and `softcap` FLOAT attributes. */
  attributes: Readonly<Record<string, number>>;
}

const ELEMENT_TYPE = { f32: 1, i32: 6 } as const;
const ATTRIBUTE_TYPE = { float: 1, int: 2 } as const;
const FLOAT_ATTRIBUTES = ['scale', 'softcap'];

/** The only output of interest, the first, of a node of the com.microsoft domain on onnxruntime's CPU. */
export async function runNode({ onnx, ort }: Peers, node: AttentionNode): Promise<F32Tensor> {
  const given = node.inputs.filter((input) => input !== null);
  const session = await ort.InferenceSession.create(encodeModel(onnx, node, given), { executionProviders: ['cpu'] });
  try {
    const results = await session.run(
      Object.fromEntries(
        given.map((input) => [
          input.name,
          'tensor' in input
            ? new ort.Tensor('float32', input.tensor.data, input.tensor.shape)
            : new ort.Tensor('int32', Int32Array.from(input.i32), shapeOf(input)),
        ]),
      ),
    );
    const { data, dims } = results[node.outputs[0]];
    return f32Tensor(dims, Float32Array.from(data));
  } finally {
    await session.release();
  }
}

function encodeModel(onnx: Peers['onnx'], node: AttentionNode, given: readonly Exclude<NodeInput, null>[]): Uint8Array {
  const valueInfo = (name: string, elemType: number, dims: readonly number[] | undefined): object =>
    onnx.ValueInfoProto.create({
      name,
      type: { tensorType: { elemType, ...(dims && { shape: { dim: dims.map((dimValue) => ({ dimValue })) } }) } },
    });
  const attribute = Object.entries(node.attributes).map(([name, value]) =>
    onnx.AttributeProto.create(
      FLOAT_ATTRIBUTES.includes(name)
        ? { name, type: ATTRIBUTE_TYPE.float, f: value }
        : { name, type: ATTRIBUTE_TYPE.int, i: value },
    ),
  );
  const graph = onnx.GraphProto.create({
    name: 'attention',
    node: [
      onnx.NodeProto.create({
        opType: node.opType,
        domain: 'com.microsoft',
        input: node.inputs.map((input) => input?.name ?? ''),
        output: [...node.outputs],
        attribute,
      }),
    ],
    input: given.map((input) =>
      valueInfo(input.name, 'tensor' in input ? ELEMENT_TYPE.f32 : ELEMENT_TYPE.i32, shapeOf(input)),
    ),
    output: node.outputs.map((name) => valueInfo(name, ELEMENT_TYPE.f32, undefined)),
  });
  const opsetImport = [
    { domain: '', version: 21 },
    { domain: 'com.microsoft', version: 1 },
  ];
  return onnx.ModelProto.encode(onnx.ModelProto.create({ irVersion: 10, opsetImport, graph })).finish();
}

function shapeOf(input: Exclude<NodeInput, null>): readonly number[] {
  return 'tensor' in input ? input.tensor.shape : [input.i32.length];
}

/** [B, S, H, D] as [B, S, H·D]: the same elements. */
export function joinHeads({ data, shape }: F32Tensor): F32Tensor {
  const [batch, seqLen, heads, headDim] = shape;
  return f32Tensor([batch, seqLen, heads * headDim], data);
}

/** A tensor without elements: the empty past of a first call. */
export function emptyTensor(shape: readonly number[]): F32Tensor {
  return f32Tensor(shape, new Float32Array(numElements(shape)));
}
