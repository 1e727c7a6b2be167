// A device and its surroundings: adopted devices, readback, loss, uncaptured errors, shader errors, pass timings.
import { expect } from 'chai';
import { DeviceError } from '../../src/errors.ts';
import { adoptDevice } from '../../src/gpu/device.ts';
import { PipelineCache } from '../../src/gpu/pipeline-cache.ts';
import { acquireTensor, readTensor, uploadTensor, writeTensor } from '../../src/gpu/tensor.ts';
import { PassTimer } from '../../src/gpu/timestamps.ts';
import { openGpu } from '../../src/node/adapter.ts';
import { useGpu } from '../helpers/gpu-fixture.ts';
import { seededNormal } from '../helpers/seeded.ts';

describe('Gpu', () => {
  const gpu = useGpu();

  it('reads back what was written, in one piece and in parts', async () => {
    const data = seededNormal(3 * 1024 * 1024, 1);
    const tensor = uploadTensor(gpu(), 'data', [3, 1024, 1024], data);
    expect(Buffer.from((await readTensor(gpu(), tensor)).buffer).equals(Buffer.from(data.buffer))).to.equal(true);
    const bytes = await gpu().read([
      { buffer: tensor.buffer, byteOffset: 8, byteLength: 4 },
      { buffer: tensor.buffer, byteLength: 4 },
    ]);
    expect([...new Float32Array(bytes.buffer)]).to.deep.equal([data[2], data[0]]);
    gpu().pool.release(tensor.buffer);
  });

  it('takes data in memory that is shared between threads', async () => {
    const shared = new Float32Array(new SharedArrayBuffer(16));
    shared.set([1, 2, 3, 4]);
    const tensor = acquireTensor(gpu().pool, 'shared', [4]);
    writeTensor(gpu(), tensor, shared);
    expect([...(await readTensor(gpu(), tensor))]).to.deep.equal([1, 2, 3, 4]);
    gpu().pool.release(tensor.buffer);
  });

  it('keeps as many bytes as before when the same call runs again', async () => {
    const { pool } = gpu();
    const run = async (): Promise<void> => {
      const tensor = uploadTensor(gpu(), 'steady', [1000], seededNormal(1000, 1));
      await readTensor(gpu(), tensor);
      pool.release(tensor.buffer);
    };
    await run();
    const { allocatedBytes } = pool;
    await run();
    expect(pool.allocatedBytes).to.equal(allocatedBytes);
  });

  it('compiles a pipeline once, and reports a shader error with its file, line and message', async () => {
    const shaders = new Map([
      ['good.wgsl', '@compute @workgroup_size(1) fn main() {}'],
      ['bad.wgsl', '// requires: module.wgsl\n@compute @workgroup_size(1)\nfn main() { helper(); }'],
      ['module.wgsl', '// A module.\nfn helper() { let x: u32 = 1.5; }'],
    ]);
    const pipelines = new PipelineCache(gpu().device, shaders);
    const request = { shader: 'good.wgsl', bindGroupLayouts: [] };
    expect(await pipelines.get(request)).to.equal(await pipelines.get({ ...request }));
    const error = await pipelines.get({ ...request, shader: 'bad.wgsl' }).catch((cause: unknown) => cause);
    expect(error).to.be.instanceOf(DeviceError).with.property('code', 'ERR_SHADER');
    expect((error as Error).message).to.match(/module\.wgsl:2:\d+ cannot convert/);
  });

  it('times passes where the device can, and does nothing where it cannot', async () => {
    const timer = new PassTimer(gpu(), 2);
    const encoder = gpu().device.createCommandEncoder();
    for (const label of ['first', 'second', 'beyond the capacity']) {
      encoder.beginComputePass({ label, ...timer.time(label) }).end();
    }
    gpu().device.queue.submit([encoder.finish()]);
    const timings = await timer.read();
    expect(timings.map(({ label }) => label)).to.deep.equal(timer.isSupported ? ['first', 'second'] : []);
    for (const { startMs, durationMs } of timings) {
      expect(startMs).to.be.at.least(0);
      expect(durationMs).to.be.at.least(0);
    }
    expect(await timer.read()).to.deep.equal([]);
    timer.destroy();
  });
});

describe('a device of its own', () => {
  useGpu();

  it('surfaces an uncaptured error as ERR_GPU', async () => {
    const { gpu } = await openGpu();
    gpu.device.createBuffer({ size: 16, usage: 0 });
    await gpu.device.queue.onSubmittedWorkDone();
    expect(() => gpu.throwIfFailed())
      .to.throw(DeviceError)
      .with.property('code', 'ERR_GPU');
    gpu.close();
  });

  it('surfaces a loss as ERR_DEVICE_LOST', async () => {
    const { gpu } = await openGpu();
    gpu.device.destroy();
    expect(await gpu.lost).to.have.property('code', 'ERR_DEVICE_LOST');
    expect(() => gpu.throwIfFailed()).to.throw(DeviceError);
    gpu.close();
  });

  it('is left alone by close() when the caller brought it', async () => {
    const { gpu: owner } = await openGpu();
    const adopted = adoptDevice(owner.device, new Map());
    expect(adopted.adapter).to.deep.equal(owner.adapter);
    adopted.close();
    adopted.close();
    const tensor = uploadTensor(owner, 'alive', [1], Float32Array.of(5));
    expect([...(await readTensor(owner, tensor))]).to.deep.equal([5]);
    owner.close();
  });
});
