// The static rule that picks the backward kernels, the refusals of their driver, and what it does not record.
import { expect } from 'chai';
import { fillOptions } from '../../src/attention/options.ts';
import { DeviceError } from '../../src/errors.ts';
import type { AdapterFacts } from '../../src/gpu/adapter-facts.ts';
import { chooseBackwardKernels } from '../../src/gpu/backward-kernel-choice.ts';
import { FlashAttentionBackward } from '../../src/gpu/flash-attention-backward.ts';
import { acquireHeads } from '../../src/gpu/heads-buffer.ts';
import type { BlockRequest } from '../../src/gpu/prepared-block.ts';
import { expectConfigError, expectConfigRejection } from '../helpers/expect-config-error.ts';
import { createShape } from '../helpers/gpu-case.ts';
import { useGpu } from '../helpers/gpu-fixture.ts';

const LIMITS = {
  maxBufferSize: 2 ** 28,
  maxStorageBufferBindingSize: 2 ** 27,
  maxStorageBuffersPerShaderStage: 8,
  maxComputeWorkgroupStorageSize: 16384,
  maxComputeInvocationsPerWorkgroup: 256,
  maxComputeWorkgroupsPerDimension: 65535,
  minStorageBufferOffsetAlignment: 256,
};

function createFacts(changes: Partial<AdapterFacts> = {}): AdapterFacts {
  const names = { name: 'test', vendor: '', architecture: '' };
  return {
    ...names,
    isSoftware: false,
    subgroupMinSize: 32,
    subgroupMaxSize: 32,
    features: [],
    limits: LIMITS,
    ...changes,
  };
}

const LAVAPIPE = createFacts({ isSoftware: true, subgroupMinSize: 8, subgroupMaxSize: 8 });
const dims = (headDim: number) => ({ headDimQk: headDim, headDimV: headDim });

describe('chooseBackwardKernels', () => {
  it('gives a GPU the workgroup kernels, within the limits of a default device for every head dim', () => {
    for (const headDim of [1, 64, 65, 128, 129, 256]) {
      const { variant, keyGradients } = chooseBackwardKernels(createFacts(), dims(headDim));
      expect(variant).to.equal('workgroup');
      const { COLUMNS, ROWS } = keyGradients.specialization.constants as Record<string, number>;
      // Registers of dk and dv of an invocation.
      expect(2 * ROWS * Math.ceil(headDim / COLUMNS), `D ${headDim}`).to.be.at.most(64);
    }
  });

  it('gives a software adapter with subgroups of one size the subgroup kernels', () => {
    expect(chooseBackwardKernels(LAVAPIPE, dims(64)).variant).to.equal('subgroup');
    expect(chooseBackwardKernels({ ...LAVAPIPE, subgroupMinSize: 4 }, dims(64)).variant).to.equal('workgroup');
  });

  it('makes tiles no higher than short shards need', () => {
    const { queryGradients, keyGradients } = chooseBackwardKernels(LAVAPIPE, { ...dims(64), rowsQ: 9, rowsKv: 1 });
    expect([queryGradients.tileRows, keyGradients.tileRows]).to.deep.equal([16, 8]);
  });

  it('loads the widest words that both head dims allow', () => {
    const chunkOf = (headDimQk: number, headDimV: number, dtype: 'f32' | 'bf16') =>
      chooseBackwardKernels(LAVAPIPE, { headDimQk, headDimV, features: { dtype } }).queryGradients.specialization
        .constants;
    expect(chunkOf(8, 12, 'f32')).to.include({ CHUNK_SIZE: 4, Chunk: 'vec4u' });
    expect(chunkOf(8, 10, 'f32')).to.include({ CHUNK_SIZE: 2, Chunk: 'vec2u' });
    expect(chunkOf(8, 9, 'f32')).to.include({ CHUNK_SIZE: 1, Chunk: 'array<u32, 1>' });
    expect(chunkOf(8, 16, 'bf16')).to.include({ CHUNK_SIZE: 8, Chunk: 'vec4u' });
    expect(chunkOf(8, 10, 'bf16')).to.include({ CHUNK_SIZE: 2, Chunk: 'array<u32, 1>' });
  });

  it('refuses a variant that the adapter cannot run', () => {
    const noSubgroups = createFacts({ subgroupMinSize: 0, subgroupMaxSize: 0 });
    expect(() => chooseBackwardKernels(noSubgroups, { ...dims(64), variant: 'subgroup' }))
      .to.throw(DeviceError, 'subgroupMinSize=0')
      .with.property('code', 'ERR_MISSING_FEATURE');
    const small = createFacts({ limits: { ...LIMITS, maxComputeInvocationsPerWorkgroup: 128 } });
    expect(chooseBackwardKernels(small, dims(64)).variant).to.equal('workgroup');
    expect(() => chooseBackwardKernels(small, dims(96)))
      .to.throw(DeviceError, 'maxComputeInvocationsPerWorkgroup=256')
      .with.property('code', 'ERR_LIMIT');
  });
});

describe('FlashAttentionBackward', () => {
  const gpu = useGpu();

  function createRequest(changes: Partial<BlockRequest> = {}): BlockRequest {
    const shape = createShape({ seqLenQ: 100, headDimQk: 16 });
    const heads = acquireHeads(gpu());
    const schedule = { tiles: [], ranges: [] };
    return { schedule, shape, options: fillOptions({}, 16), rowsQ: 100, rowsKv: 100, heads, ...changes };
  }

  it('rejects a head dim of 0 or above 256, and an odd one with 16-bit elements, with ERR_SHAPE', async () => {
    for (const headDimQk of [0, 257, 1.5]) {
      await expectConfigRejection(
        FlashAttentionBackward.create(gpu(), { headDimQk, headDimV: 8 }),
        'ERR_SHAPE',
        /headDimQk/,
      );
    }
    const odd = FlashAttentionBackward.create(gpu(), { headDimQk: 8, headDimV: 7, features: { dtype: 'f16' } });
    await expectConfigRejection(odd, 'ERR_SHAPE', /headDimV must be even/);
  });

  it('rejects a step that its kernels were not compiled for', async () => {
    const backward = await FlashAttentionBackward.create(gpu(), { headDimQk: 16, headDimV: 16 });
    const options = fillOptions({ dropout: 0.5 }, 16);
    expectConfigError(() => backward.prepareKeys(createRequest({ options })), 'ERR_OPTION', /dropout/);
    const shape = createShape({ seqLenQ: 100, headDimQk: 8 });
    expectConfigError(() => backward.prepareQueries(createRequest({ shape })), 'ERR_SHAPE', /headDimQk must be .* 16/);
    const rows = { position: 0, positionStride: 1, offset: 0, firstRange: 0, rangeCount: 0, sequence: 0, row: 0 };
    const schedule = { tiles: [{ ...rows, rowCount: backward.keyTileRows + 1 }], ranges: [] };
    expectConfigError(() => backward.prepareKeys(createRequest({ schedule })), 'ERR_OPTION', /at most tileRows/);
  });

  it('records nothing for a block with no tiles', async () => {
    const backward = await FlashAttentionBackward.create(gpu(), { headDimQk: 16, headDimV: 16 });
    const pass = { setPipeline: () => expect.fail('a dispatch was recorded') } as unknown as GPUComputePassEncoder;
    const block = backward.prepareQueries(createRequest());
    backward.encodeQueryGradients(pass, block, {} as never);
    backward.encodeKeyGradients(pass, block, {} as never);
    block.destroy();
  });

  it('rejects a binding that is shorter than its tensor, and a missing bias', async () => {
    const rows = { position: 0, positionStride: 1, offset: 0, firstRange: 0, rangeCount: 0, sequence: 0, row: 0 };
    const schedule = { tiles: [{ ...rows, rowCount: 1 }], ranges: [] };
    const [long, short] = [{ size: 2 ** 20 } as GPUBuffer, { size: 256 } as GPUBuffer];
    const tensors = { q: long, k: long, v: long, dout: long, rowStats: long, dkv: short };
    const pass = { setPipeline: () => undefined } as unknown as GPUComputePassEncoder;
    const plain = await FlashAttentionBackward.create(gpu(), { headDimQk: 16, headDimV: 16 });
    const block = plain.prepareKeys(createRequest({ schedule }));
    expectConfigError(() => plain.encodeKeyGradients(pass, block, tensors), 'ERR_SHAPE', /dkv must span 25600 bytes/);
    block.destroy();
    const biased = await FlashAttentionBackward.create(gpu(), {
      headDimQk: 16,
      headDimV: 16,
      features: { bias: true },
    });
    const biasBlock = biased.prepareKeys(createRequest({ schedule, bias: { batch: 1, heads: 1 } }));
    expectConfigError(() => biased.encodeKeyGradients(pass, biasBlock, tensors), 'ERR_OPTION', /needs the tensor bias/);
    biasBlock.destroy();
  });
});
