// 16-bit elements on the device: rounding equals the host's bit for bit, and decoding is exact, subnormals included.
import { expect } from 'chai';
import { ConfigError } from '../../src/errors.ts';
import { createStorageLayout } from '../../src/gpu/bindings.ts';
import { ConvertElements } from '../../src/gpu/convert-elements.ts';
import type { Gpu } from '../../src/gpu/device.ts';
import { PipelineCache } from '../../src/gpu/pipeline-cache.ts';
import { BUFFER_USAGE } from '../../src/gpu/webgpu-constants.ts';
import { readShaders } from '../../src/node/shader-source.ts';
import { decodeBfloat16, decodeFloat16, encodeBfloat16, encodeFloat16 } from '../../src/tensor/float16.ts';
import { useGpu } from '../helpers/gpu-fixture.ts';
import { seededRandom } from '../helpers/seeded.ts';

const CODECS = {
  f16: { encode: encodeFloat16, decode: decodeFloat16, format: 1 },
  bf16: { encode: encodeBfloat16, decode: decodeBfloat16, format: 2 },
} as const;
const DTYPES = ['f16', 'bf16'] as const;

/** Zeros, the ends of f32, and what lies on, just below and just above every f16 and every boundary between two. */
function edgePatterns(): Uint32Array {
  const words = [0, 1, 0x7fffff, 0x800000, 0x7f7fffff, 0x7f800000, 0x7f800001, 0x7fc00000, 0x7fffffff];
  for (let exponent = 0; exponent < 255; exponent++) {
    for (const mantissa of [0, 0x1000, 0x1fff, 0x2000, 0x3000, 0x7000, 0x8000, 0xffff, 0x18000, 0x7fe000, 0x7ff000]) {
      for (const offset of [-1, 0, 1]) words.push(((exponent << 23) | mantissa) + offset);
    }
  }
  const positive = words.filter((word) => word >= 0);
  return Uint32Array.from([...positive, ...positive.map((word) => word + 0x80000000)]);
}

/** Runs `encode` on a buffer of `input`, and reads `length` words of a second buffer of the pool back. */
async function runOnDevice(
  gpu: Gpu,
  input: Uint32Array<ArrayBuffer>,
  length: number,
  encode: (pass: GPUComputePassEncoder, source: GPUBuffer, target: GPUBuffer) => void,
): Promise<Uint32Array> {
  const usage = BUFFER_USAGE.STORAGE | BUFFER_USAGE.COPY_SRC | BUFFER_USAGE.COPY_DST;
  const source = gpu.pool.acquire({ label: 'source', byteLength: input.byteLength, usage });
  const target = gpu.pool.acquire({ label: 'target', byteLength: 4 * length, usage });
  gpu.device.queue.writeBuffer(source, 0, input);
  gpu.device.queue.writeBuffer(target, 0, new Uint32Array(length).fill(0xdeadbeef));
  const encoder = gpu.device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  encode(pass, source, target);
  pass.end();
  gpu.device.queue.submit([encoder.finish()]);
  const bytes = await gpu.read([{ buffer: target, byteLength: 4 * length }]);
  for (const buffer of [source, target]) gpu.pool.release(buffer);
  return new Uint32Array(bytes.buffer);
}

/** Decodes every word of its input into two f32. */
const DECODE_KERNEL = `// requires: element.wgsl
@group(0) @binding(0) var<storage, read> source: array<u32>;
@group(0) @binding(1) var<storage, read_write> decoded: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) invocation: vec3u) {
  let i = invocation.x;
  decoded[i] = decode_element(source[i / ELEMENTS_PER_WORD], i);
}`;

describe('16-bit elements on the device', () => {
  const gpu = useGpu();

  for (const dtype of DTYPES) {
    it(`${dtype}: rounds edge patterns and random numbers as the host does, bit for bit`, async () => {
      const edges = edgePatterns();
      const random = seededRandom(1);
      const words = new Uint32Array(2 ** 18).map((_, index) => edges[index] ?? Math.floor(random() * 2 ** 32));
      const convert = await ConvertElements.create(gpu(), { dtype });
      const got = await runOnDevice(gpu(), words, words.length / 2, (pass, source, target) =>
        convert.encode(pass, { source, target, numElements: words.length }),
      );
      const expected = new Uint32Array(CODECS[dtype].encode(new Float32Array(words.buffer)).buffer);
      const wrong = got.findIndex((word, index) => word !== expected[index]);
      expect(wrong, `word ${wrong}: ${got[wrong]?.toString(16)} for ${expected[wrong]?.toString(16)}`).to.equal(-1);
    });

    it(`${dtype}: decodes all finite numbers exactly`, async () => {
      const patterns = Uint16Array.from({ length: 65536 }, (_, index) => index);
      const library = new Map([...(await readShaders()), ['decode.wgsl', DECODE_KERNEL]]);
      const { device } = gpu();
      const layout = createStorageLayout(device, 'decode', ['read', 'read_write']);
      const pipeline = await new PipelineCache(device, library).get({
        shader: 'decode.wgsl',
        constants: { ELEMENT_FORMAT: CODECS[dtype].format },
        bindGroupLayouts: [layout],
      });
      const got = await runOnDevice(gpu(), new Uint32Array(patterns.buffer), 65536, (pass, source, target) => {
        const entries = [source, target].map((buffer, binding) => ({ binding, resource: { buffer } }));
        pass.setPipeline(pipeline);
        pass.setBindGroup(0, device.createBindGroup({ layout, entries }));
        pass.dispatchWorkgroups(65536 / 64);
      });
      const values = CODECS[dtype].decode(patterns);
      const expected = new Uint32Array(values.buffer);
      const wrong = patterns.filter((index) => Number.isFinite(values[index]) && got[index] !== expected[index]);
      expect(wrong.length, `of them ${wrong[0]?.toString(16)}: ${got[wrong[0]]?.toString(16)}`).to.equal(0);
    });
  }

  it('leaves what is behind the last element alone', async () => {
    const convert = await ConvertElements.create(gpu(), { dtype: 'f16' });
    const words = new Uint32Array(new Float32Array(64).fill(1.5).buffer);
    const got = await runOnDevice(gpu(), words, 32, (pass, source, target) =>
      convert.encode(pass, { source, target, numElements: 6 }),
    );
    expect([...got.subarray(0, 3)]).to.deep.equal(new Array(3).fill(0x3e003e00));
    expect([...got.subarray(3)]).to.deep.equal(new Array(29).fill(0xdeadbeef));
  });

  it('rejects an odd number of elements, and tensors that are too short, with ERR_SHAPE', async () => {
    const convert = await ConvertElements.create(gpu(), { dtype: 'bf16' });
    const buffer = { size: 256 } as GPUBuffer;
    for (const numElements of [3, 66]) {
      expect(() => convert.encode({} as GPUComputePassEncoder, { source: buffer, target: buffer, numElements }))
        .to.throw(ConfigError, numElements === 3 ? 'numElements=3' : 'source must span 264')
        .with.property('code', 'ERR_SHAPE');
    }
  });
});
