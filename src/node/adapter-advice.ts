// What would be faster than the adapter at hand, and the exact command that gets it on this system. Pure.
import { CHROMIUM_PACKAGE } from './swiftshader.ts';

/** What advice depends on. */
export interface SystemFacts {
  platform: NodeJS.Platform;
  /** The text of /etc/os-release; empty elsewhere. */
  osRelease: string;
  isRoot: boolean;
  /** Graphics devices of the machine by PCI vendor, whether or not they have a driver. */
  gpuVendors: readonly GpuVendor[];
}

export type GpuVendor = 'NVIDIA' | 'AMD' | 'Intel';

/** How to get lavapipe, the faster of the software adapters, on this system. */
export function lavapipeCommand({ platform, osRelease, isRoot }: SystemFacts): string | undefined {
  if (platform !== 'linux') return undefined;
  const sudo = isRoot ? '' : 'sudo ';
  const { id, idLike, version } = parseOsRelease(osRelease);
  const family = [id, ...idLike];
  if (id === 'debian' && version === 12) {
    // Its own Mesa 22.3 lacks what Dawn needs.
    const sources = '/etc/apt/sources.list.d';
    return (
      `sed '/^$/q; s/^Suites:.*/Suites: bookworm-backports/' ${sources}/debian.sources | ${sudo}tee ${sources}/backports.sources` +
      ` && ${sudo}apt-get update && ${sudo}apt-get install -y -t bookworm-backports mesa-vulkan-drivers`
    );
  }
  if (family.some((name) => name === 'debian' || name === 'ubuntu')) {
    return `${sudo}apt-get update && ${sudo}apt-get install -y mesa-vulkan-drivers`;
  }
  if (family.some((name) => name === 'fedora' || name === 'rhel')) return `${sudo}dnf install -y mesa-vulkan-drivers`;
  if (family.includes('arch')) return `${sudo}pacman -S --noconfirm vulkan-swrast`;
  if (family.includes('alpine')) return `${sudo}apk add mesa-vulkan-swrast`;
  return undefined;
}

/** What to do for the graphics device of a machine that shows no adapter for it; undefined without such a device. */
export function driverAdvice(system: SystemFacts): string | undefined {
  const [vendor] = system.gpuVendors;
  if (!vendor) return undefined;
  if (vendor === 'NVIDIA') {
    return "an NVIDIA device is in this machine, but its Vulkan driver is not: install NVIDIA's driver with its Vulkan part (in a container: NVIDIA_DRIVER_CAPABILITIES=all), so that nvidia_icd.json exists";
  }
  const command = lavapipeCommand(system);
  return `an ${vendor} device is in this machine, but no Vulkan driver for it${command ? `: ${command}` : ''}`;
}

/** Advice for someone who computes on the software adapter `name`. */
export function softwareAdvice(name: string, found: readonly string[], system: SystemFacts): string {
  const better = found.find((other) => /llvmpipe|lavapipe/i.test(other));
  const isSwiftShader = /swiftshader/i.test(name);
  if (isSwiftShader && better) return `${better} is here and about 14 times faster: leave the choice of adapter out`;
  const driver = driverAdvice(system);
  if (driver) return driver;
  const command = lavapipeCommand(system);
  if (isSwiftShader && command) return `lavapipe is about 14 times faster: ${command}`;
  return 'a graphics device would be much faster; this machine has none';
}

/** What gets an adapter on a machine that has none. */
export function missingAdapterAdvice(system: SystemFacts): string {
  const options = [driverAdvice(system), lavapipeCommand(system)];
  if (system.platform === 'linux')
    options.push(`npm install ${CHROMIUM_PACKAGE} (SwiftShader: slower, but needs no root)`);
  return options.filter((text) => text !== undefined).join('; or: ') || 'update the graphics driver';
}

function parseOsRelease(text: string): { id: string; idLike: string[]; version: number } {
  const read = (key: string): string => new RegExp(`^${key}="?([^"\\n]*)`, 'm').exec(text)?.[1] ?? '';
  return { id: read('ID'), idLike: read('ID_LIKE').split(' '), version: Number.parseFloat(read('VERSION_ID')) };
}
