// The static rule that picks a kernel: by software or not, subgroup sizes, head dims and rows; and its refusals.
import { expect } from 'chai';
import { DeviceError } from '../../src/errors.ts';
import type { AdapterFacts } from '../../src/gpu/adapter-facts.ts';
import { chooseForwardKernel } from '../../src/gpu/kernel-choice.ts';

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

  it('takes the widest element that divides both head dims', () => {
    const chunkOf = (headDimQk: number, headDimV: number): unknown =>
      chooseForwardKernel(LAVAPIPE, { headDimQk, headDimV }).specialization.constants!.Chunk;
    expect([chunkOf(8, 64), chunkOf(8, 10), chunkOf(8, 7)]).to.deep.equal(['vec4f', 'vec2f', 'array<f32, 1>']);
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
