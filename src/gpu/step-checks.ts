// What a driver checks before it takes a step: a step that its kernel was not compiled for, or a tensor that is too short,
// would give wrong numbers and no other error.
import { MAX_HEAD_DIM } from '../attention/shape.ts';
import { ConfigError } from '../errors.ts';
import type { FloatDType } from '../tensor/tensor.ts';
import type { HeadDims, KernelFeatures } from './kernel-features.ts';
import type { BlockRequest } from './prepared-block.ts';

/** What a kernel was compiled for. A feature that is absent here makes no difference to the kernel. */
export interface CompiledFor extends HeadDims {
  features: Readonly<Partial<Record<'softcap' | 'dropout' | 'bias' | 'maxLogit', boolean>>>;
  tileRows: number;
}

/**
 * Throws ConfigError ERR_SHAPE unless both head dims are integers from 1 to {@link MAX_HEAD_DIM}, and even for 16-bit
 * elements, two of which share a word.
 */
export function checkHeadDims(operation: string, dims: HeadDims, dtype: FloatDType = 'f32'): void {
  for (const name of ['headDimQk', 'headDimV'] as const) {
    const value = dims[name];
    if (!Number.isSafeInteger(value) || value < 1 || value > MAX_HEAD_DIM) {
      throw new ConfigError(
        'ERR_SHAPE',
        `${operation}: ${name} must be an integer from 1 to ${MAX_HEAD_DIM}, got ${name}=${value}`,
      );
    }
    if (dtype !== 'f32' && value % 2 !== 0) {
      throw new ConfigError(
        'ERR_SHAPE',
        `${operation}: ${name} must be even for dtype=${dtype}, got ${name}=${value}; store the tensors as f32`,
      );
    }
  }
}

/** Throws ConfigError ERR_SHAPE or ERR_OPTION when a step is not what the kernel was compiled for. */
export function checkStep({ shape, options, bias, schedule }: BlockRequest, kernel: CompiledFor): void {
  for (const name of ['headDimQk', 'headDimV'] as const) {
    if (shape[name] === kernel[name]) continue;
    throw new ConfigError(
      'ERR_SHAPE',
      `prepareBlock: ${name} must be the kernel's ${kernel[name]}, got ${name}=${shape[name]}`,
    );
  }
  const wanted = {
    softcap: options.softcap > 0,
    dropout: options.dropout > 0,
    maxLogit: options.maxLogit,
    bias: Boolean(bias),
  };
  for (const name of Object.keys(wanted) as (keyof typeof wanted)[]) {
    if (!(name in kernel.features) || wanted[name] === kernel.features[name]) continue;
    throw new ConfigError(
      'ERR_OPTION',
      `prepareBlock: the step and its kernel must agree on ${name}, got step=${wanted[name]}, kernel=${!wanted[name]}`,
    );
  }
  const tooLarge = schedule.tiles.find(({ rowCount }) => rowCount > kernel.tileRows);
  if (tooLarge) {
    throw new ConfigError(
      'ERR_OPTION',
      `prepareBlock: tiles must have at most tileRows=${kernel.tileRows} rows, got rowCount=${tooLarge.rowCount}`,
    );
  }
}

/** Throws ConfigError ERR_OPTION when a kernel with a bias is given none. */
export function checkHasBias(operation: string, features: KernelFeatures, tensors: { bias?: unknown }): void {
  if (!features.bias || tensors.bias) return;
  throw new ConfigError('ERR_OPTION', `${operation}: a kernel with a bias needs the tensor bias, got none`);
}
