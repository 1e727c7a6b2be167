// Looks at the operating system and the graphics devices of the machine, without loading any driver.
import { readdir, readFile } from 'node:fs/promises';
import type { GpuVendor, SystemFacts } from './adapter-advice.ts';

const PCI_VENDORS: Readonly<Record<string, GpuVendor>> = { '0x10de': 'NVIDIA', '0x1002': 'AMD', '0x8086': 'Intel' };

/** PCI class 0x03: display controllers. */
const DISPLAY_CLASS = '0x03';

export async function readSystemFacts(): Promise<SystemFacts> {
  return {
    platform: process.platform,
    osRelease: await readText('/etc/os-release'),
    isRoot: process.getuid?.() === 0,
    gpuVendors: process.platform === 'linux' ? await listGpuVendors() : [],
  };
}

async function listGpuVendors(): Promise<GpuVendor[]> {
  const vendors = new Set<GpuVendor>();
  for (const device of await listFolder('/sys/bus/pci/devices')) {
    const folder = `/sys/bus/pci/devices/${device}`;
    if (!(await readText(`${folder}/class`)).startsWith(DISPLAY_CLASS)) continue;
    const vendor = PCI_VENDORS[(await readText(`${folder}/vendor`)).trim()];
    if (vendor) vendors.add(vendor);
  }
  // A container may hide the PCI bus and still be given the device.
  if ((await listFolder('/dev')).includes('nvidia0')) vendors.add('NVIDIA');
  return [...vendors];
}

async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch {
    return '';
  }
}

async function listFolder(path: string): Promise<string[]> {
  try {
    return await readdir(path);
  } catch {
    return [];
  }
}
