// What Node and a page both get.

// Engine
export type { BackwardOptions, Engine, EngineOptions, ForwardOptions } from './context-parallel/engine-options.ts';

// Tensors
export {
  f32Tensor,
  type DType,
  type F32Tensor,
  type FloatDType,
  type HostTensor,
  type TensorData,
} from './tensor/tensor.ts';
export { fromFloat32, toFloat32 } from './tensor/float16.ts';
export { decodeSafetensors, encodeSafetensors } from './tensor/safetensors.ts';

// Attention
export type { AttentionGradients, AttentionInputs, AttentionResult } from './attention/call.ts';
export { MASK_TYPES, type MaskType, type Window } from './attention/mask.ts';
export { fillOptions, SINKS, type AttentionOptions, type Sink } from './attention/options.ts';
export type { SequenceLengths } from './attention/sequences.ts';
export type { AttentionShape } from './attention/shape.ts';
export {
  gatherShard,
  scatterShard,
  shardOf,
  shardPositions,
  type Layout,
  type Segment,
  type Shard,
} from './attention/layout.ts';
export { referenceForward, type ReferenceInputs } from './attention/reference.ts';
export { referenceBackward } from './attention/reference-backward.ts';

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
