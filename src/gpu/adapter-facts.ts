// What is known of the adapter behind a device: its name, its kind, and the sizes that kernels are chosen by.

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
