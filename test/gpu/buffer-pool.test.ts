// Reuse and the account of bytes. On a fake device: nothing here depends on a driver.
import { expect } from 'chai';
import { DeviceError } from '../../src/errors.ts';
import { BufferPool } from '../../src/gpu/buffer-pool.ts';

const STORAGE = 0x80;
const MAP_READ = 0x1;

/** A device that makes buffers and counts those that were destroyed. */
function createFakeDevice() {
  const destroyed: string[] = [];
  const device = {
    limits: { maxBufferSize: 4096 },
    createBuffer: (descriptor: GPUBufferDescriptor) => ({
      ...descriptor,
      destroy: () => destroyed.push(descriptor.label!),
    }),
  };
  return { device: device as unknown as GPUDevice, destroyed };
}

describe('BufferPool', () => {
  it('rounds sizes up and counts live, allocated and peak bytes', () => {
    const pool = new BufferPool(createFakeDevice().device);
    const first = pool.acquire({ label: 'a', byteLength: 1, usage: STORAGE });
    const second = pool.acquire({ label: 'b', byteLength: 257, usage: STORAGE });
    expect([first.size, second.size]).to.deep.equal([256, 512]);
    expect([pool.liveBytes, pool.allocatedBytes, pool.peakBytes]).to.deep.equal([768, 768, 768]);
    pool.release(first);
    expect([pool.liveBytes, pool.allocatedBytes, pool.peakBytes]).to.deep.equal([512, 768, 768]);
  });

  it('hands a released buffer out again for the same size class and usage only', () => {
    const pool = new BufferPool(createFakeDevice().device);
    const buffer = pool.acquire({ label: 'a', byteLength: 200, usage: STORAGE });
    pool.release(buffer);
    expect(pool.acquire({ label: 'b', byteLength: 200, usage: MAP_READ })).not.to.equal(buffer);
    expect(pool.acquire({ label: 'c', byteLength: 300, usage: STORAGE })).not.to.equal(buffer);
    expect(pool.acquire({ label: 'd', byteLength: 256, usage: STORAGE }))
      .to.equal(buffer)
      .with.property('label', 'd');
  });

  it('starts a new peak at what is allocated', () => {
    const pool = new BufferPool(createFakeDevice().device);
    pool.release(pool.acquire({ label: 'a', byteLength: 1024, usage: STORAGE }));
    pool.trim();
    expect(pool.peakBytes).to.equal(1024);
    pool.resetPeak();
    expect([pool.allocatedBytes, pool.peakBytes]).to.deep.equal([0, 0]);
  });

  it('trims idle buffers, and destroys held ones too', () => {
    const { device, destroyed } = createFakeDevice();
    const pool = new BufferPool(device);
    pool.release(pool.acquire({ label: 'idle', byteLength: 256, usage: STORAGE }));
    pool.acquire({ label: 'held', byteLength: 512, usage: STORAGE });
    pool.trim();
    expect(destroyed).to.deep.equal(['idle']);
    pool.destroy();
    expect(destroyed).to.deep.equal(['idle', 'held']);
    expect([pool.liveBytes, pool.allocatedBytes]).to.deep.equal([0, 0]);
  });

  it('rejects a buffer above maxBufferSize with ERR_LIMIT, and takes one of that size', () => {
    const pool = new BufferPool(createFakeDevice().device);
    pool.acquire({ label: 'a', byteLength: 4096, usage: STORAGE });
    expect(() => pool.acquire({ label: 'kv', byteLength: 4097, usage: STORAGE }))
      .to.throw(DeviceError, 'kv must fit maxBufferSize, got byteLength=4352, maxBufferSize=4096')
      .with.property('code', 'ERR_LIMIT');
  });

  it('refuses to take back a buffer twice', () => {
    const pool = new BufferPool(createFakeDevice().device);
    const buffer = pool.acquire({ label: 'a', byteLength: 1, usage: STORAGE });
    pool.release(buffer);
    expect(() => pool.release(buffer)).to.throw('a is not held');
  });
});
