// Megatron's initialize_model_parallel for what this version has: context parallelism, and data parallelism with the
// ranks that are left. Order `tp-cp-ep-dp-pp` with tp = ep = pp = 1: context-parallel ranks are neighbours.
import { ConfigError, ProtocolError } from '../errors.ts';
import { ProcessGroup } from './process-group.ts';
import type { World } from './world.ts';

export interface ModelParallelOptions {
  /** Ranks that share one sequence; divides worldSize. Default: all of them. */
  contextParallelSize?: number;
  /** Default: worldSize / contextParallelSize, and nothing else. */
  dataParallelSize?: number;
}

export interface ModelParallel<W extends World = World> {
  readonly world: W;
  readonly contextParallelGroup: ProcessGroup;
  readonly dataParallelGroup: ProcessGroup;
}

/** Options of the design that this version refuses unless they ask for nothing. */
const LATER_OPTIONS = ['tensorParallelSize', 'hierarchicalContextParallelSizes', 'order', 'timeoutMs'];

/**
 * Cuts the world into groups, and checks that every rank cuts it the same way. Every rank calls it.
 * Throws ConfigError for sizes that do not divide, ProtocolError ERR_AGREEMENT when ranks differ.
 */
export async function initModelParallel<W extends World>(
  world: W,
  options: ModelParallelOptions = {},
): Promise<ModelParallel<W>> {
  const { rank, worldSize } = world;
  for (const name of Object.keys(options)) {
    if (LATER_OPTIONS.includes(name)) {
      throw new ConfigError('ERR_UNSUPPORTED', `initModelParallel: this version does not have ${name}`);
    }
    if (name !== 'contextParallelSize' && name !== 'dataParallelSize') {
      throw new ConfigError(
        'ERR_OPTION',
        `initModelParallel: unknown option ${name}; known are contextParallelSize, dataParallelSize`,
      );
    }
  }
  const { contextParallelSize: cpSize = worldSize } = options;
  const { dataParallelSize: dpSize = worldSize / cpSize } = options;
  if (!Number.isSafeInteger(cpSize) || cpSize < 1 || cpSize * dpSize !== worldSize) {
    throw new ConfigError(
      'ERR_OPTION',
      'initModelParallel: contextParallelSize × dataParallelSize must be worldSize, ' +
        `got contextParallelSize=${cpSize}, dataParallelSize=${dpSize}, worldSize=${worldSize}`,
    );
  }
  const sizes = await world.gather('initModelParallel', [cpSize, dpSize].join('×'));
  const other = sizes.findIndex((size) => size !== sizes[rank]);
  if (other >= 0) {
    throw new ProtocolError(
      'ERR_AGREEMENT',
      `initModelParallel: every rank must use the same sizes, got ${sizes[rank]} on rank ${rank}, ${sizes[other]} on rank ${other}`,
    );
  }
  const firstOfGroup = rank - (rank % cpSize);
  const cpRanks = Array.from({ length: cpSize }, (_, index) => firstOfGroup + index);
  const dpRanks = Array.from({ length: dpSize }, (_, index) => (rank % cpSize) + index * cpSize);
  return {
    world,
    contextParallelGroup: new ProcessGroup('cp', cpRanks, rank),
    dataParallelGroup: new ProcessGroup('dp', dpRanks, rank),
  };
}
