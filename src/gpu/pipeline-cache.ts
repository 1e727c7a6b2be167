// Compute pipelines by shader, constants and layout: each is compiled once per device, and compiled asynchronously.
// A shader that does not compile is a DeviceError ERR_SHADER with the file, line and message of every complaint.
import { DeviceError } from '../errors.ts';
import type { ShaderLibrary } from './shader-library.ts';
import { type Specialization, type SpecializedShader, specialize } from './specialize.ts';

export interface PipelineRequest extends Specialization {
  /** A file of shaders/, with its extension. */
  shader: string;
  /** Bind group layouts in the order of their group. Layouts with the same entries are interchangeable. */
  bindGroupLayouts: readonly GPUBindGroupLayout[];
  /** Values of the shader's `override`s. */
  overrides?: Readonly<Record<string, number>>;
}

export class PipelineCache {
  readonly #device: GPUDevice;
  readonly #shaders: ShaderLibrary;
  readonly #pipelines = new Map<string, Promise<GPUComputePipeline>>();

  constructor(device: GPUDevice, shaders: ShaderLibrary) {
    this.#device = device;
    this.#shaders = shaders;
  }

  /** The pipeline of a request; the second request for the same pipeline waits for, or gets, the first one's. */
  get(request: PipelineRequest): Promise<GPUComputePipeline> {
    const { shader, constants = {}, enable = [], unroll = true, overrides = {} } = request;
    const key = JSON.stringify([shader, Object.entries(constants), enable, unroll, Object.entries(overrides)]);
    let pipeline = this.#pipelines.get(key);
    if (!pipeline) {
      pipeline = this.#compile(request);
      this.#pipelines.set(key, pipeline);
      // A failure is not remembered: the next request reports it again, from a compiler that saw it again.
      pipeline.catch(() => this.#pipelines.delete(key));
    }
    return pipeline;
  }

  async #compile(request: PipelineRequest): Promise<GPUComputePipeline> {
    const { shader, overrides = {}, bindGroupLayouts } = request;
    const specialized = specialize(this.#shaders, shader, request);
    this.#device.pushErrorScope('validation');
    const module = this.#device.createShaderModule({ label: shader, code: specialized.code });
    const failed = await this.#device.popErrorScope();
    if (failed) throw await describeCompilation(module, specialized, shader, failed.message);
    try {
      return await this.#device.createComputePipelineAsync({
        label: shader,
        layout: this.#device.createPipelineLayout({ label: shader, bindGroupLayouts: [...bindGroupLayouts] }),
        compute: { module, entryPoint: 'main', constants: { ...overrides } },
      });
    } catch (cause) {
      throw new DeviceError('ERR_SHADER', `PipelineCache: ${shader}: ${(cause as Error).message}`, { cause });
    }
  }
}

/** The complaints of a compiler, one a line, each at the file and line of shaders/ that it is about. */
async function describeCompilation(
  module: GPUShaderModule,
  { lines }: SpecializedShader,
  shader: string,
  fallback: string,
): Promise<DeviceError> {
  const { messages } = await module.getCompilationInfo();
  const complaints = messages
    .filter(({ type }) => type === 'error')
    .map(({ lineNum, linePos, message }) => {
      const source = lines[lineNum - 1];
      return `${source?.file ?? shader}:${source?.line ?? lineNum}:${linePos} ${message}`;
    });
  return new DeviceError('ERR_SHADER', `PipelineCache: ${complaints.join('\n') || fallback}`);
}
