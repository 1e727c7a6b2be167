// What Node and a page both get.

// Engine
export type { Engine, EngineOptions, ForwardOptions } from './context-parallel/engine-options.ts';

// Tensors
export { f32Tensor, type DType, type F32Tensor, type HostTensor, type TensorData } from './tensor/tensor.ts';
export { decodeSafetensors, encodeSafetensors } from './tensor/safetensors.ts';

// Attention
export type { AttentionInputs, AttentionResult, AttentionShape, MaskType } from './attention/shape.ts';
export {
  gatherShard,
  scatterShard,
  shardOf,
  shardPositions,
  type Layout,
  type Segment,
  type Shard,
} from './attention/layout.ts';
export { referenceForward } from './attention/reference.ts';

// Traces
export type { RankMetrics, RunMetrics } from './trace/counters.ts';
export type { RankTimeline } from './trace/timeline.ts';
export { buildChromeTrace } from './trace/perfetto.ts';

// Errors
export {
  ConfigError,
  DeviceError,
  ERROR_CODES,
  KvringError,
  ProtocolError,
  RingAbortError,
  TransportError,
  type ErrorCode,
} from './errors.ts';
