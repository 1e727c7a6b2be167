// `kvring doctor`: looks at everything that kvring needs on this machine and says, for what is missing or could be better,
// the exact command that mends it. It only looks: nothing is installed, and nothing is thrown.
import { access, constants } from 'node:fs/promises';
import { type AddressInfo, createConnection, createServer } from 'node:net';
import { hostname, networkInterfaces } from 'node:os';
import { delimiter, join } from 'node:path';
import { openGpu } from './adapter.ts';
import { findDawn, WEBGPU_INSTALL } from './dawn.ts';
import { CHROMIUM_PACKAGE, findChromiumPackage } from './swiftshader.ts';

/** One thing that was looked at. */
export interface Finding {
  topic: string;
  /** `missing` keeps kvring from working; `warn` makes it slower, or takes something optional away. */
  status: 'ok' | 'warn' | 'missing';
  detail: string;
  /** The command, or the step, that mends it. */
  remedy?: string;
}

export interface DoctorOptions {
  /** A part of an adapter's name, as for a run. */
  adapter?: string | undefined;
}

const MIN_NODE = [20, 19] as const;
const MIB = 1024 * 1024;
const BROWSERS = ['google-chrome', 'google-chrome-stable', 'chromium', 'chromium-browser'];
const LOOPBACK = '127.0.0.1';
const CONNECT_TIMEOUT_MS = 2000;

/** Examines this machine. Findings come in the order in which they matter. */
export async function runDoctor(options: DoctorOptions = {}): Promise<Finding[]> {
  return [
    examineNode(),
    examineBinding(),
    ...(await examineAdapter(options)),
    examineChromiumPackage(),
    await examineBrowser(),
    await examineLoopback(),
    examineAddresses(),
  ];
}

function examineNode(): Finding {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  const isNew = major > MIN_NODE[0] || (major === MIN_NODE[0] && minor >= MIN_NODE[1]);
  const detail = `Node ${process.versions.node} on ${process.platform}-${process.arch}`;
  if (isNew) return { topic: 'node', status: 'ok', detail };
  return { topic: 'node', status: 'missing', detail, remedy: `install Node ${MIN_NODE.join('.')} or newer` };
}

function examineBinding(): Finding {
  const folder = findDawn();
  if (folder !== undefined) return { topic: 'webgpu', status: 'ok', detail: folder };
  return { topic: 'webgpu', status: 'missing', detail: 'the package is not installed', remedy: WEBGPU_INSTALL };
}

async function examineAdapter({ adapter }: DoctorOptions): Promise<Finding[]> {
  try {
    const { gpu, report } = await openGpu({ adapter });
    const { name, vendor, architecture, isSoftware, subgroupMinSize, subgroupMaxSize, features, limits } = gpu.adapter;
    gpu.close();
    const subgroups =
      subgroupMinSize === subgroupMaxSize ? `${subgroupMinSize}` : `${subgroupMinSize} to ${subgroupMaxSize}`;
    return [
      {
        topic: 'adapter',
        status: isSoftware ? 'warn' : 'ok',
        detail: `${name}${isSoftware ? ': software, it computes on the CPU' : ''}; found: ${report.found.join(', ')}`,
        ...(report.advice === undefined ? {} : { remedy: report.advice }),
      },
      { topic: 'driver', status: 'ok', detail: `${vendor} ${architecture}, subgroup size ${subgroups}` },
      {
        topic: 'limits',
        status: 'ok',
        detail:
          `tensors up to ${Math.floor(limits.maxStorageBufferBindingSize / MIB)} MiB, ` +
          `workgroup memory ${limits.maxComputeWorkgroupStorageSize} B, ` +
          `${limits.maxComputeInvocationsPerWorkgroup} invocations, ` +
          `${limits.maxStorageBuffersPerShaderStage} storage buffers`,
      },
      { topic: 'features', status: 'ok', detail: features.join(', ') },
    ];
  } catch (error) {
    // The message of a DeviceError ends with what to install.
    const [detail = '', ...remedy] = (error as Error).message.split('; ');
    const finding: Finding = { topic: 'adapter', status: 'missing', detail };
    return [remedy.length > 0 ? { ...finding, remedy: remedy.join('; ') } : finding];
  }
}

function examineChromiumPackage(): Finding {
  const folder = findChromiumPackage();
  if (folder !== undefined) return { topic: 'software adapter', status: 'ok', detail: folder };
  return {
    topic: 'software adapter',
    status: 'warn',
    detail: 'no SwiftShader and no headless Chromium from npm (only needed without a GPU, and to test in a browser)',
    remedy: `npm install --save-dev ${CHROMIUM_PACKAGE}`,
  };
}

async function examineBrowser(): Promise<Finding> {
  for (const folder of (process.env.PATH ?? '').split(delimiter)) {
    for (const name of BROWSERS) {
      const path = join(folder, name);
      if (await isExecutable(path)) return { topic: 'browser', status: 'ok', detail: path };
    }
  }
  const folder = findChromiumPackage();
  if (folder !== undefined) return { topic: 'browser', status: 'ok', detail: `headless Chromium in ${folder}` };
  return {
    topic: 'browser',
    status: 'warn',
    detail: 'none on this machine; a tab on any other machine can be a rank all the same',
    remedy: `npm install --save-dev ${CHROMIUM_PACKAGE}`,
  };
}

async function isExecutable(path: string): Promise<boolean> {
  try {
    await access(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** Ranks of one machine talk over loopback: can this process listen there, and reach itself? */
async function examineLoopback(): Promise<Finding> {
  const server = createServer((socket) => socket.end());
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject);
      server.listen(0, LOOPBACK, resolve);
    });
    const { port } = server.address() as AddressInfo;
    await connectOnce(port);
    return { topic: 'loopback', status: 'ok', detail: `${LOOPBACK} listens and connects` };
  } catch (error) {
    const detail = `${LOOPBACK} does not work: ${(error as Error).message}`;
    return { topic: 'loopback', status: 'missing', detail, remedy: 'allow local TCP connections (ip link set lo up)' };
  } finally {
    server.close();
  }
}

function connectOnce(port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const socket = createConnection({ port, host: LOOPBACK, timeout: CONNECT_TIMEOUT_MS });
    socket.once('connect', () => {
      socket.destroy();
      resolve();
    });
    socket.once('timeout', () => socket.destroy(new Error(`no answer within ${CONNECT_TIMEOUT_MS} ms`)));
    socket.once('error', reject);
  });
}

/** Where ranks of other machines would reach this one. */
function examineAddresses(): Finding {
  const addresses = Object.values(networkInterfaces())
    .flatMap((entries) => entries ?? [])
    .filter(({ internal }) => !internal)
    .map(({ address }) => address);
  const topic = 'network';
  if (addresses.length > 0) return { topic, status: 'ok', detail: `${hostname()}: ${addresses.join(', ')}` };
  return {
    topic,
    status: 'warn',
    detail: `${hostname()} has no address but loopback: ranks must all be on this machine`,
    remedy: 'connect the machine to a network to use more than one',
  };
}
