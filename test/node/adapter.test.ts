// Discovery and its parts: the order of preference on names alone, environments and advice, the unpacked driver, and the
// reader of its archive. What needs an adapter is skipped without one.
import { expect } from 'chai';
import { mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ConfigError, DeviceError } from '../../src/errors.ts';
import { findRankAdapter, formatAdapterReport, openGpu, pickAdapter } from '../../src/node/adapter.ts';
import {
  lavapipeCommand,
  missingAdapterAdvice,
  softwareAdvice,
  type SystemFacts,
} from '../../src/node/adapter-advice.ts';
import { runDoctor } from '../../src/node/doctor.ts';
import { readShaders } from '../../src/node/shader-source.ts';
import { findChromiumPackage, unpackSwiftShader } from '../../src/node/swiftshader.ts';
import { readTar } from '../../src/node/tar.ts';
import { useGpu } from '../helpers/gpu-fixture.ts';

const DEBIAN_12 = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\nID=debian\n';
const UBUNTU_24 = 'NAME="Ubuntu"\nVERSION_ID="24.04"\nID=ubuntu\nID_LIKE=debian\n';

function createSystem(changes: Partial<SystemFacts> = {}): SystemFacts {
  return { platform: 'linux', osRelease: UBUNTU_24, isRoot: false, gpuVendors: [], ...changes };
}

describe('pickAdapter', () => {
  const LAVAPIPE = 'llvmpipe (LLVM 15.0.6, 256 bits)';
  const SWIFTSHADER = 'SwiftShader Device (Subzero)';
  const HARDWARE = ['NVIDIA A', 'NVIDIA B'];

  it('prefers hardware to lavapipe to SwiftShader, in whatever order they are listed', () => {
    expect(pickAdapter([SWIFTSHADER, LAVAPIPE, ...HARDWARE], undefined, 0)).to.equal('NVIDIA A');
    expect(pickAdapter([SWIFTSHADER, LAVAPIPE], undefined, 0)).to.equal(LAVAPIPE);
    expect(pickAdapter([SWIFTSHADER], undefined, 0)).to.equal(SWIFTSHADER);
    expect(pickAdapter([], undefined, 0)).to.equal(undefined);
  });

  it('shares several kinds of hardware out by local rank', () => {
    expect([0, 1, 2].map((rank) => pickAdapter([...HARDWARE, LAVAPIPE], undefined, rank))).to.deep.equal([
      'NVIDIA A',
      'NVIDIA B',
      'NVIDIA A',
    ]);
  });

  it('takes a part of a name in any case', () => {
    expect(pickAdapter([...HARDWARE, LAVAPIPE], 'LLVM', 0)).to.equal(LAVAPIPE);
    expect(pickAdapter([...HARDWARE, LAVAPIPE], 'radeon', 0)).to.equal(undefined);
  });
});

describe('adapter discovery', function () {
  this.timeout(30_000);
  const gpu = useGpu();

  it('reports the adapter that it took', async () => {
    const { gpu: opened, report } = await openGpu();
    opened.close();
    expect(report.adapter).to.equal(gpu().adapter.name);
    expect(report.found).not.to.have.length(0);
    expect(formatAdapterReport(report)).to.include(report.adapter);
  });

  it('gives child processes an environment that names the adapter', async () => {
    const { environment } = await findRankAdapter();
    expect(environment.KVRING_ADAPTER).to.be.a('string').and.not.equal('');
  });

  it('refuses a name that no adapter has, and lists those that there are', async () => {
    const error = await openGpu({ adapter: 'no such adapter' }).catch((cause: unknown) => cause);
    expect(error).to.be.instanceOf(DeviceError).with.property('code', 'ERR_NO_ADAPTER');
    expect((error as Error).message).to.match(/adapter=no such adapter; the adapters are: '/);
  });

  it('leaves the environment of this process as it was', async () => {
    const before = { ...process.env };
    await findRankAdapter();
    expect({ ...process.env }).to.deep.equal(before);
  });

  it('is what the doctor finds', async () => {
    const findings = await runDoctor();
    expect(findings.find(({ topic }) => topic === 'adapter')?.detail).to.include(gpu().adapter.name);
    expect(findings.filter(({ status }) => status === 'missing')).to.deep.equal([]);
  });

  it('gives the doctor something to say when there is no such adapter', async () => {
    const findings = await runDoctor({ adapter: 'no such adapter' });
    expect(findings.find(({ topic }) => topic === 'adapter')).to.include({ status: 'missing' });
  });
});

describe('adapter advice', () => {
  it('takes Mesa from backports on Debian 12 only, and sudo unless root', () => {
    expect(lavapipeCommand(createSystem({ osRelease: DEBIAN_12 }))).to.include(
      'bookworm-backports mesa-vulkan-drivers',
    );
    expect(lavapipeCommand(createSystem())).to.equal(
      'sudo apt-get update && sudo apt-get install -y mesa-vulkan-drivers',
    );
    expect(lavapipeCommand(createSystem({ isRoot: true }))).not.to.include('sudo');
    expect(lavapipeCommand(createSystem({ platform: 'darwin', osRelease: '' }))).to.equal(undefined);
  });

  it('names lavapipe to someone on SwiftShader, by its name when it is there', () => {
    expect(softwareAdvice('SwiftShader', ['SwiftShader'], createSystem())).to.include('apt-get install');
    expect(softwareAdvice('SwiftShader', ['llvmpipe', 'SwiftShader'], createSystem())).to.include('llvmpipe is here');
    expect(softwareAdvice('llvmpipe', ['llvmpipe'], createSystem())).to.include('this machine has none');
  });

  it('says so when a graphics device has no driver', () => {
    expect(softwareAdvice('llvmpipe', ['llvmpipe'], createSystem({ gpuVendors: ['NVIDIA'] }))).to.include('NVIDIA');
    expect(missingAdapterAdvice(createSystem({ gpuVendors: ['AMD'] })))
      .to.include('AMD')
      .and.include('npm install');
  });
});

describe('the unpacked SwiftShader', function () {
  this.timeout(30_000);

  it('is whole, and the same for processes that start at once', async function () {
    if (findChromiumPackage() === undefined || process.platform !== 'linux') this.skip();
    const folder = await mkdtemp(join(tmpdir(), 'kvring-test-'));
    const before = process.env.KVRING_CACHE;
    process.env.KVRING_CACHE = folder;
    try {
      const [first, ...others] = await Promise.all(Array.from({ length: 4 }, () => unpackSwiftShader()));
      for (const other of others) expect(other).to.deep.equal(first);
      expect((await readdir(folder)).length).to.equal(1);
      expect((await readdir(first!.folder)).toSorted()).to.deep.equal([
        'libvk_swiftshader.so',
        'libvulkan.so.1',
        'vk_swiftshader_icd.json',
      ]);
      expect((await stat(join(first!.folder, 'libvk_swiftshader.so'))).size).to.be.above(1_000_000);
    } finally {
      if (before === undefined) delete process.env.KVRING_CACHE;
      else process.env.KVRING_CACHE = before;
      await rm(folder, { recursive: true });
    }
  });
});

describe('readTar', () => {
  /** A header and content of one file, padded to blocks. */
  function createEntry(name: string, content: string, type = '0'): Buffer {
    const header = Buffer.alloc(512);
    header.write(name, 0);
    header.write(content.length.toString(8).padStart(11, '0'), 124);
    header.write(type, 156);
    const body = Buffer.alloc(Math.ceil(content.length / 512) * 512);
    body.write(content);
    return Buffer.concat([header, body]);
  }

  it('reads regular files, and passes over folders', () => {
    const long = 'x'.repeat(513);
    const archive = Buffer.concat([
      createEntry('folder/', '', '5'),
      createEntry('./a', 'one'),
      createEntry('b', long),
      Buffer.alloc(1024),
    ]);
    const files = readTar(archive);
    expect([...files.keys()]).to.deep.equal(['a', 'b']);
    expect([...files.values()].map(String)).to.deep.equal(['one', long]);
  });

  it('rejects an archive that is cut short', () => {
    const archive = createEntry('a', 'one').subarray(0, 513);
    expect(() => readTar(archive))
      .to.throw(ConfigError, 'cut short')
      .with.property('code', 'ERR_FILE');
  });
});

describe('readShaders', () => {
  it('finds the files of shaders/', async () => {
    const names = [...(await readShaders()).keys()];
    expect(names).to.include.members(['flash-attention-forward.wgsl', 'merge-block.wgsl', 'schedule.wgsl']);
  });
});
