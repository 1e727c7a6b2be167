// The driver of the forward kernels: what it refuses, and that it records nothing without tiles. (What the kernels
// compute is in forward-attention.test.ts.)
import { expect } from 'chai';
import { fillOptions } from '../../src/attention/options.ts';
import type { Tile } from '../../src/attention/schedule.ts';
import type { AttentionShape } from '../../src/attention/shape.ts';
import { ConfigError, DeviceError } from '../../src/errors.ts';
import { FlashAttentionForward } from '../../src/gpu/flash-attention-forward.ts';
import { acquireHeads } from '../../src/gpu/heads-buffer.ts';
import type { BlockRequest } from '../../src/gpu/prepared-block.ts';
import { createShape } from '../helpers/gpu-case.ts';
import { useGpu } from '../helpers/gpu-fixture.ts';

describe('FlashAttentionForward', () => {
  const gpu = useGpu();
  const dims = { headDimQk: 16, headDimV: 16 };
  let heads: GPUBuffer;
  before(() => {
    heads = acquireHeads(gpu());
  });
  after(() => {
    if (heads) gpu().pool.release(heads);
  });

  function createRequest(changes: Partial<BlockRequest> = {}, sizes: Partial<AttentionShape> = {}): BlockRequest {
    const shape = createShape({ numHeads: 1, ...dims, ...sizes });
    const schedule = { tiles: [], ranges: [] };
    return { schedule, shape, options: fillOptions({}, 16), rowsQ: 1, rowsKv: 1, heads, ...changes };
  }

  const tile: Tile = {
    sequence: 0,
    row: 0,
    rowCount: 1,
    position: 0,
    positionStride: 1,
    offset: 0,
    firstRange: 0,
    rangeCount: 0,
  };

  it('rejects a head dim of 0 or above 256, and an odd one of 16-bit elements, with ERR_SHAPE', async () => {
    const features = { dtype: 'f16' } as const;
    for (const options of [{ headDimQk: 0 }, { headDimQk: 257 }, { headDimV: 1.5 }, { headDimV: 7, features }]) {
      const error = await FlashAttentionForward.create(gpu(), { ...dims, ...options }).catch((cause: unknown) => cause);
      expect(error).to.be.instanceOf(ConfigError).with.property('code', 'ERR_SHAPE');
    }
  });

  it('records nothing for a block with no tiles', async () => {
    const attention = await FlashAttentionForward.create(gpu(), dims);
    const block = attention.prepareBlock(createRequest());
    const pass = { setPipeline: () => expect.fail('a dispatch was recorded') } as unknown as GPUComputePassEncoder;
    attention.encode(pass, block, {} as never);
    block.destroy();
  });

  it('rejects a tensor that exceeds maxStorageBufferBindingSize, and takes one that just fits', async () => {
    const attention = await FlashAttentionForward.create(gpu(), dims);
    const rowsQ = Math.floor(gpu().adapter.limits.maxStorageBufferBindingSize / 64);
    attention.prepareBlock(createRequest({ rowsQ })).destroy();
    expect(() => attention.prepareBlock(createRequest({ rowsQ: rowsQ + 1 })))
      .to.throw(DeviceError, 'maxStorageBufferBindingSize')
      .with.property('code', 'ERR_LIMIT');
  });

  it('fits twice the rows when elements have 16 bits', async () => {
    const attention = await FlashAttentionForward.create(gpu(), { ...dims, features: { dtype: 'bf16' } });
    const rowsKv = Math.floor(gpu().adapter.limits.maxStorageBufferBindingSize / 32);
    attention.prepareBlock(createRequest({ rowsKv })).destroy();
    expect(() => attention.prepareBlock(createRequest({ rowsKv: rowsKv + 1 }))).to.throw(DeviceError, 'k must fit');
  });

  it('rejects more heads than a dispatch can have with ERR_LIMIT', async () => {
    const attention = await FlashAttentionForward.create(gpu(), dims);
    const numHeads = gpu().adapter.limits.maxComputeWorkgroupsPerDimension + 1;
    expect(() => attention.prepareBlock(createRequest({}, { numHeads, numKvHeads: 1 })))
      .to.throw(DeviceError, 'numHeads')
      .with.property('code', 'ERR_LIMIT');
  });

  it('rejects a tile that is higher than its own', async () => {
    const attention = await FlashAttentionForward.create(gpu(), dims);
    const tiles = [{ ...tile, rowCount: attention.tileRows + 1 }];
    expect(() => attention.prepareBlock(createRequest({ schedule: { tiles, ranges: [] } })))
      .to.throw(ConfigError, `tileRows=${attention.tileRows}`)
      .with.property('code', 'ERR_OPTION');
  });

  it('rejects a step whose head dims or options are not those that it was compiled for', async () => {
    const attention = await FlashAttentionForward.create(gpu(), dims);
    expect(() => attention.prepareBlock(createRequest({}, { headDimV: 8 })))
      .to.throw(ConfigError, 'headDimV')
      .with.property('code', 'ERR_SHAPE');
    for (const options of [{ softcap: 2 }, { dropout: 0.1 }, { maxLogit: true }]) {
      expect(() => attention.prepareBlock(createRequest({ options: fillOptions(options, 16) })))
        .to.throw(ConfigError, Object.keys(options)[0])
        .with.property('code', 'ERR_OPTION');
    }
    expect(() => attention.prepareBlock(createRequest({ bias: { batch: 1, heads: 1 } }))).to.throw(ConfigError, 'bias');
  });

  it('rejects a binding that is shorter than its tensor', async () => {
    const attention = await FlashAttentionForward.create(gpu(), dims);
    const block = attention.prepareBlock(createRequest({ rowsQ: 100, schedule: { tiles: [tile], ranges: [] } }));
    const short = { size: 256 } as GPUBuffer;
    const tensors = { q: short, k: short, v: short, out: short, lse: short };
    expect(() => attention.encode({} as GPUComputePassEncoder, block, tensors)).to.throw(
      ConfigError,
      'q must span 6400',
    );
    block.destroy();
  });

  it('rejects a step with a bias that comes without the tensor', async () => {
    const attention = await FlashAttentionForward.create(gpu(), { ...dims, features: { bias: true } });
    const bias = { batch: 1, heads: 1 };
    const block = attention.prepareBlock(createRequest({ bias, schedule: { tiles: [tile], ranges: [] } }));
    const buffer = { size: 2 ** 20 } as GPUBuffer;
    const tensors = { q: buffer, k: buffer, v: buffer, out: buffer, lse: buffer };
    expect(() => attention.encode({} as GPUComputePassEncoder, block, tensors))
      .to.throw(ConfigError, 'bias')
      .with.property('code', 'ERR_OPTION');
    block.destroy();
  });
});
