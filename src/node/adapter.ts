// Adapter discovery: real hardware, else lavapipe, else SwiftShader from npm. What the user chose comes first: variables
// of the Vulkan loader, then a part of a name.
import { DeviceError } from '../errors.ts';
import { isSoftwareName } from '../gpu/adapter-facts.ts';
import { type Gpu, requestGpu } from '../gpu/device.ts';
import { missingAdapterAdvice, softwareAdvice } from './adapter-advice.ts';
import { type Dawn, findDawn, listAdapters, loadDawn } from './dawn.ts';
import { readShaders } from './shader-source.ts';
import { type SwiftShader, placeLoader, unpackSwiftShader } from './swiftshader.ts';
import { readSystemFacts } from './system-facts.ts';

export interface AdapterOptions {
  /** A part of the adapter's name, in any case; default KVRING_ADAPTER, else the best that is there. */
  adapter?: string | undefined;
  /** Picks among several kinds of hardware adapters; default LOCAL_RANK, else 0. */
  localRank?: number | undefined;
}

/** For people: what was found, what was taken, and what would be better. */
export interface AdapterReport {
  adapter: string;
  isSoftware: boolean;
  /** Names of all adapters that were seen. */
  found: readonly string[];
  /** What would be faster, with the command that gets it; undefined when there is nothing to add. */
  advice: string | undefined;
}

/** An adapter by name, and the variables under which a process finds it. */
interface Discovery {
  name: string;
  found: string[];
  environment: Record<string, string>;
}

/** Variables with which a user tells the Vulkan loader which drivers to take. */
const DRIVER_VARIABLES = ['VK_ICD_FILENAMES', 'VK_DRIVER_FILES', 'VK_ADD_DRIVER_FILES'];

/**
 * Finds the best adapter and opens a device on it. Throws DeviceError ERR_NO_ADAPTER, with the names that are there and
 * what to install, when none fits.
 */
export async function openGpu(options: AdapterOptions = {}): Promise<{ gpu: Gpu; report: AdapterReport }> {
  const dawn = await loadDawn();
  const { name, found, environment } = await discoverAdapter(dawn, options);
  const shaders = await readShaders();
  const gpu = await withEnvironment(environment, () => requestGpu(dawn.create([`adapter=${name}`]), shaders));
  return { gpu, report: await createReport(gpu.adapter.name, found) };
}

/** What a parent of rank processes has to know. */
export interface RankAdapter {
  report: AdapterReport;
  /**
   * Variables that a rank process has to be started with: the library path is read only once. They name the adapter, so
   * that ranks need not search, unless it is hardware: then LOCAL_RANK shares out what there is.
   */
  environment: Record<string, string>;
}

/** What {@link openGpu} would take in a child process, without opening it. Throws as openGpu does. */
export async function findRankAdapter(options: AdapterOptions = {}): Promise<RankAdapter> {
  const { name, found, environment } = await discoverAdapter(await loadDawn(), options, { forChild: true });
  const report = await createReport(name, found);
  return { report, environment: report.isSoftware ? { ...environment, KVRING_ADAPTER: name } : environment };
}

async function createReport(adapter: string, found: readonly string[]): Promise<AdapterReport> {
  const isSoftware = isSoftwareName(adapter);
  const advice = isSoftware ? softwareAdvice(adapter, found, await readSystemFacts()) : undefined;
  return { adapter, isSoftware, found, advice };
}

/** The report as lines for a terminal. */
export function formatAdapterReport({ adapter, isSoftware, advice }: AdapterReport): string {
  const kind = isSoftware ? ' (software: it computes on the CPU)' : '';
  return `adapter: ${adapter}${kind}${advice ? `\n  ${advice}` : ''}`;
}

async function discoverAdapter(
  dawn: Dawn,
  { adapter = process.env.KVRING_ADAPTER, localRank = Number(process.env.LOCAL_RANK ?? 0) }: AdapterOptions,
  { forChild = false } = {},
): Promise<Discovery> {
  const found = await listAdapters(dawn);
  const name = pickAdapter(found, adapter, localRank);
  if (name !== undefined) return { name, found, environment: {} };
  const isUsersChoice = DRIVER_VARIABLES.some((variable) => process.env[variable]);
  if (!isUsersChoice && (!adapter || /swift|shader/i.test(adapter))) {
    const swiftShader = await unpackSwiftShader();
    const software = swiftShader && (await trySwiftShader(dawn, swiftShader, forChild));
    if (software) return { ...software, found: [...found, ...software.found] };
  }
  throw await createNoAdapterError(found, adapter);
}

/** Hardware before lavapipe before SwiftShader; several kinds of hardware are shared out by local rank. */
export function pickAdapter(
  names: readonly string[],
  wanted: string | undefined,
  localRank: number,
): string | undefined {
  const matching = wanted ? names.filter((name) => name.toLowerCase().includes(wanted.toLowerCase())) : names;
  const hardware = matching.filter((name) => !isSoftwareName(name));
  if (hardware.length > 0) return hardware[localRank % hardware.length];
  return matching.find((name) => /llvmpipe|lavapipe/i.test(name)) ?? matching[0];
}

async function trySwiftShader(dawn: Dawn, swiftShader: SwiftShader, forChild: boolean): Promise<Discovery | undefined> {
  const environment = { VK_ICD_FILENAMES: swiftShader.icdFile };
  const list = (): Promise<string[]> => withEnvironment(environment, () => listAdapters(dawn));
  let found = await list();
  // No adapter although there is a driver: the system has no Vulkan loader, so the driver's own has to be found.
  const folder = findDawn();
  if (found.length === 0 && folder && (await placeLoader(swiftShader, folder))) found = await list();
  const [name] = found;
  if (name !== undefined) return { name, found, environment };
  if (!forChild) {
    const command = `LD_LIBRARY_PATH=${swiftShader.folder} VK_ICD_FILENAMES=${swiftShader.icdFile}`;
    throw new DeviceError(
      'ERR_NO_ADAPTER',
      `openGpu: SwiftShader is there, but this process cannot find its Vulkan loader; start it with ${command}`,
    );
  }
  const libraryPath = [swiftShader.folder, process.env.LD_LIBRARY_PATH].filter(Boolean).join(':');
  return { name: 'SwiftShader', found: [], environment: { ...environment, LD_LIBRARY_PATH: libraryPath } };
}

async function createNoAdapterError(found: readonly string[], adapter: string | undefined): Promise<DeviceError> {
  const advice = missingAdapterAdvice(await readSystemFacts());
  if (!adapter) return new DeviceError('ERR_NO_ADAPTER', `openGpu: no WebGPU adapter was found; ${advice}`);
  const list = found.length > 0 ? found.map((name) => `'${name}'`).join(', ') : `none; ${advice}`;
  return new DeviceError(
    'ERR_NO_ADAPTER',
    `openGpu: no adapter's name contains what was asked for, got adapter=${adapter}; the adapters are: ${list}`,
  );
}

/** Runs `work` with variables set, and puts them back: drivers read them while an adapter is looked for, not later. */
async function withEnvironment<T>(variables: Record<string, string>, work: () => Promise<T>): Promise<T> {
  const before = Object.keys(variables).map((name) => [name, process.env[name]] as const);
  Object.assign(process.env, variables);
  try {
    return await work();
  } finally {
    for (const [name, value] of before) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
  }
}
