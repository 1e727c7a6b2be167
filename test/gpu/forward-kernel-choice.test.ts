// The static rule that picks a kernel: by software or not, subgroup sizes, head dims and rows; and its refusals.
import { expect } from 'chai';
import { DeviceError } from '../../src/errors.ts';
import type { AdapterFacts } from '../../src/gpu/adapter-facts.ts';
import { chooseForwardKernel } from '../../src/gpu/forward-kernel-choice.ts';
import { chooseSplitKernel } from '../../src/gpu/split-kernel-choice.ts';

function createFacts(changes: Partial<AdapterFacts> = {}): AdapterFacts {
  return {
    name: 'test',
    vendor: '',
    architecture: '',
    isSoftware: false,
    subgroupMinSize: 32,
    subgroupMaxSize: 32,
    features: [],
    limits: {
      maxBufferSize: 2 ** 28,
      maxStorageBufferBindingSize: 2 ** 27,
      maxStorageBuffersPerShaderStage: 8,
      maxComputeWorkgroupStorageSize: 16384,
      maxComputeInvocationsPerWorkgroup: 256,
      maxComputeWorkgroupsPerDimension: 65535,
      minStorageBufferOffsetAlignment: 256,
    },
    ...changes,
  };
}

const DIMS = { headDimQk: 64, headDimV: 64 };
const LAVAPIPE = createFacts({ isSoftware: true, subgroupMinSize: 8, subgroupMaxSize: 8 });

describe('chooseForwardKernel', () => {
  it('gives a GPU the workgroup kernel, within the limits of a default device for every head dim', () => {
    for (const headDim of [1, 64, 128, 256]) {
      const kernel = chooseForwardKernel(createFacts(), { headDimQk: headDim, headDimV: headDim });
      expect(kernel.variant).to.equal('workgroup');
    }
  });

  it('gives a software adapter with subgroups the subgroup kernel', () => {
    expect(chooseForwardKernel(LAVAPIPE, DIMS)).to.include({ variant: 'subgroup', tileRows: 32 });
  });

  it('gives a software adapter without subgroups of one size the workgroup kernel', () => {
    for (const [subgroupMinSize, subgroupMaxSize] of [
      [0, 0],
      [4, 8],
    ] as const) {
      const facts = createFacts({ isSoftware: true, subgroupMinSize, subgroupMaxSize });
      expect(chooseForwardKernel(facts, DIMS).variant).to.equal('workgroup');
    }
  });

  it('gives long shards higher tiles, and larger head dims lower ones', () => {
    const tileRows = (headDim: number, rows: number): number =>
      chooseForwardKernel(LAVAPIPE, { headDimQk: headDim, headDimV: headDim, rows }).tileRows / 8;
    expect([tileRows(64, 1023), tileRows(64, 1024)]).to.deep.equal([4, 6]);
    expect([32, 33, 80, 96, 256].map((headDim) => tileRows(headDim, 1000))).to.deep.equal([8, 4, 4, 3, 2]);
  });

  it('makes tiles no higher than a short shard', () => {
    expect(chooseForwardKernel(LAVAPIPE, { ...DIMS, rows: 9 }).tileRows).to.equal(16);
    expect(chooseForwardKernel(LAVAPIPE, { ...DIMS, rows: 0 }).tileRows).to.equal(8);
  });

  it('takes the widest load of whole words that divides both head dims', () => {
    const chunkOf = (headDimQk: number, headDimV: number, dtype: 'f32' | 'f16'): unknown[] => {
      const { constants } = chooseForwardKernel(LAVAPIPE, { headDimQk, headDimV, features: { dtype } }).specialization;
      return [constants!.Chunk, constants!.CHUNK_SIZE];
    };
    expect(chunkOf(8, 64, 'f32')).to.deep.equal(['vec4u', 4]);
    expect(chunkOf(8, 10, 'f32')).to.deep.equal(['vec2u', 2]);
    expect(chunkOf(8, 7, 'f32')).to.deep.equal(['array<u32, 1>', 1]);
    expect(chunkOf(8, 64, 'f16')).to.deep.equal(['vec4u', 8]);
    expect(chunkOf(12, 64, 'f16')).to.deep.equal(['vec2u', 4]);
    expect(chunkOf(10, 64, 'f16')).to.deep.equal(['array<u32, 1>', 2]);
  });

  it('switches on what the features name, and nothing else', () => {
    const off = { HAS_SOFTCAP: 0, HAS_ALIBI: 0, HAS_BIAS: 0, HAS_DROPOUT: 0, TRACKS_MAX: 0 };
    for (const facts of [LAVAPIPE, createFacts()]) {
      expect(chooseForwardKernel(facts, DIMS)).to.deep.include({ overrides: off });
      const features = { dtype: 'bf16', dropout: true, maxLogit: true } as const;
      const kernel = chooseForwardKernel(facts, { ...DIMS, features });
      expect(kernel.overrides).to.deep.equal({ ...off, HAS_DROPOUT: 1, TRACKS_MAX: 1 });
      expect(kernel.specialization.constants).to.include({ ELEMENT_FORMAT: 2 });
    }
  });

  it('refuses to force the subgroup kernel where subgroups have no one size', () => {
    const facts = createFacts({ subgroupMinSize: 8, subgroupMaxSize: 32 });
    expect(() => chooseForwardKernel(facts, { ...DIMS, variant: 'subgroup' }))
      .to.throw(DeviceError, 'subgroupMinSize=8, subgroupMaxSize=32')
      .with.property('code', 'ERR_MISSING_FEATURE');
  });

  it('refuses a device with too little workgroup memory or too few invocations', () => {
    const { limits } = createFacts();
    for (const low of [{ maxComputeWorkgroupStorageSize: 15103 }, { maxComputeInvocationsPerWorkgroup: 127 }]) {
      expect(() => chooseForwardKernel(createFacts({ limits: { ...limits, ...low } }), DIMS))
        .to.throw(DeviceError, Object.keys(low)[0])
        .with.property('code', 'ERR_LIMIT');
    }
  });
});

describe('chooseSplitKernel', () => {
  it('gives a GPU the workgroup kernel, and a software adapter with subgroups of one size the subgroup kernel', () => {
    expect(chooseSplitKernel(createFacts(), DIMS)).to.include({ variant: 'split-kv', workgroupRows: 4 });
    expect(chooseSplitKernel(LAVAPIPE, DIMS)).to.include({ variant: 'split-kv-subgroup', workgroupRows: 8 });
  });

  it('makes tiles no higher than the query rows, nor than 8', () => {
    const tileRows = (rows?: number): number[] =>
      [createFacts(), LAVAPIPE].map(
        (facts) => chooseSplitKernel(facts, { ...DIMS, ...(rows !== undefined && { rows }) }).tileRows,
      );
    expect([tileRows(), tileRows(0), tileRows(3), tileRows(100)]).to.deep.equal([
      [8, 8],
      [1, 1],
      [3, 3],
      [8, 8],
    ]);
  });

  it('gives a lane as many rows as the heads of a group fill, within what its registers hold', () => {
    const rowsOf = (rows: number, groupSize: number, headDim = 64): number =>
      chooseSplitKernel(LAVAPIPE, { headDimQk: headDim, headDimV: headDim, rows, groupSize }).workgroupRows / 8;
    expect([rowsOf(1, 1), rowsOf(1, 8), rowsOf(4, 4), rowsOf(8, 8), rowsOf(8, 8, 256)]).to.deep.equal([1, 1, 2, 4, 2]);
  });

  it('refuses to force the subgroup kernel where subgroups have no one size', () => {
    const facts = createFacts({ subgroupMinSize: 8, subgroupMaxSize: 32 });
    expect(() => chooseSplitKernel(facts, { ...DIMS, variant: 'split-kv-subgroup' }))
      .to.throw(DeviceError, 'subgroupMinSize=8')
      .with.property('code', 'ERR_MISSING_FEATURE');
  });
});
