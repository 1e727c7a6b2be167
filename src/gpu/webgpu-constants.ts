// Flag values of the WebGPU standard. The globals of the same meaning (GPUBufferUsage, …) are there in every page, but in
// Node only in programs that chose to define them, and a device that a caller brings must not depend on that.

export const BUFFER_USAGE = {
  MAP_READ: 0x0001,
  COPY_SRC: 0x0004,
  COPY_DST: 0x0008,
  UNIFORM: 0x0040,
  STORAGE: 0x0080,
  QUERY_RESOLVE: 0x0200,
} as const;

export const MAP_MODE_READ = 0x0001;

export const SHADER_STAGE_COMPUTE = 0x4;
