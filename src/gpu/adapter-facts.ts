// What is known of the adapter behind a device: its name, its kind, and the sizes that kernels are chosen by.
import { DeviceError } from '../errors.ts';

/** Limits that kvring looks at, as the device has them. Bytes where the name says Size. */
export interface KeyLimits {
  maxBufferSize: number;
  maxStorageBufferBindingSize: number;
  maxStorageBuffersPerShaderStage: number;
  maxComputeWorkgroupStorageSize: number;
  maxComputeInvocationsPerWorkgroup: number;
  maxComputeWorkgroupsPerDimension: number;
  minStorageBufferOffsetAlignment: number;
}

export interface AdapterFacts {
  /** For people: the driver's description, or vendor and architecture where a browser hides it. */
  name: string;
  vendor: string;
  architecture: string;
  /** A CPU that plays a GPU: lavapipe, SwiftShader, WARP. */
  isSoftware: boolean;
  /** Invocations of a subgroup; equal on most adapters. 0 without the `subgroups` feature. */
  subgroupMinSize: number;
  subgroupMaxSize: number;
  /** Features of the device, sorted. */
  features: readonly string[];
  limits: KeyLimits;
}

const SOFTWARE_NAME = /llvmpipe|lavapipe|swiftshader|microsoft basic render|\bwarp\b/i;

/** Whether an adapter's name is that of a CPU. */
export function isSoftwareName(name: string): boolean {
  return SOFTWARE_NAME.test(name);
}

/** The facts of a device, from its own `adapterInfo`. */
export function readAdapterFacts(device: GPUDevice): AdapterFacts {
  // Part of the standard since 2025; a browser or binding without it still computes, with nothing to go by.
  const info = (device as { adapterInfo?: GPUAdapterInfo }).adapterInfo;
  const { vendor = '', architecture = '', description = '', device: deviceName = '' } = info ?? {};
  const name = description || [vendor, architecture || deviceName].filter(Boolean).join(' ') || 'unknown adapter';
  const hasSubgroups = device.features.has('subgroups');
  const { limits } = device;
  return {
    name,
    vendor,
    architecture,
    isSoftware: info?.isFallbackAdapter === true || isSoftwareName(`${name} ${architecture} ${deviceName}`),
    subgroupMinSize: hasSubgroups ? (info?.subgroupMinSize ?? 0) : 0,
    subgroupMaxSize: hasSubgroups ? (info?.subgroupMaxSize ?? 0) : 0,
    features: [...device.features].toSorted(),
    limits: {
      maxBufferSize: limits.maxBufferSize,
      maxStorageBufferBindingSize: limits.maxStorageBufferBindingSize,
      maxStorageBuffersPerShaderStage: limits.maxStorageBuffersPerShaderStage,
      maxComputeWorkgroupStorageSize: limits.maxComputeWorkgroupStorageSize,
      maxComputeInvocationsPerWorkgroup: limits.maxComputeInvocationsPerWorkgroup,
      maxComputeWorkgroupsPerDimension: limits.maxComputeWorkgroupsPerDimension,
      minStorageBufferOffsetAlignment: limits.minStorageBufferOffsetAlignment,
    },
  };
}

/** Whether all subgroups of an adapter have one known size: what a kernel needs whose lane indices are constants. */
export function hasFixedSubgroups({ subgroupMinSize, subgroupMaxSize }: AdapterFacts): boolean {
  return subgroupMinSize > 0 && subgroupMinSize === subgroupMaxSize;
}

/** Whether an adapter runs a subgroup as the lanes of one vector register. */
export function prefersSubgroups(adapter: AdapterFacts): boolean {
  return adapter.isSoftware && hasFixedSubgroups(adapter);
}

/** Throws DeviceError ERR_MISSING_FEATURE unless the adapter has subgroups of one size. */
export function requireFixedSubgroups(operation: string, adapter: AdapterFacts): void {
  if (hasFixedSubgroups(adapter)) return;
  const { subgroupMinSize, subgroupMaxSize } = adapter;
  throw new DeviceError(
    'ERR_MISSING_FEATURE',
    `${operation}: the subgroup variant needs the feature subgroups and subgroups of one size, ` +
      `got subgroupMinSize=${subgroupMinSize}, subgroupMaxSize=${subgroupMaxSize}; use the workgroup variant`,
  );
}

/** Throws DeviceError ERR_LIMIT unless the device has what a workgroup variant needs. */
export function requireLimits(
  operation: string,
  { limits }: AdapterFacts,
  needed: Readonly<Partial<Record<keyof KeyLimits, number>>>,
): void {
  for (const [name, least] of Object.entries(needed) as [keyof KeyLimits, number][]) {
    if (limits[name] >= least) continue;
    throw new DeviceError(
      'ERR_LIMIT',
      `${operation}: the workgroup variant needs ${name}=${least}, got ${limits[name]}; ` +
        'request the device with the limits of its adapter',
    );
  }
}
