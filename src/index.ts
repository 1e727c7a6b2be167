// What Node gets.
export * from './common.ts';

// Engine
export { createEngine } from './node/engine.ts';

// SPMD
export { init, type InitOptions } from './node/init.ts';
export { initModelParallel, type ModelParallel, type ModelParallelOptions } from './parallel/model-parallel.ts';
export { ProcessGroup } from './parallel/process-group.ts';
export type { World } from './parallel/world.ts';
export {
  DotProductAttention,
  type AttentionConfig,
  type AttentionForwardOptions,
  type AttentionForwardResult,
  type ComputeWorld,
  type DotProductAttentionOptions,
} from './context-parallel/dot-product-attention.ts';
export { readTensor, uploadTensor, writeTensor, type GpuTensor } from './gpu/tensor.ts';
