// Part of `npm run check`: compiles every shader in every specialisation that is used on the adapter at hand, and applies
// shader-rules.ts to every file. Prints what is wrong as file:line, and fails if anything is.
import { AttentionDelta } from '../../src/gpu/attention-delta.ts';
import { BACKWARD_VARIANTS } from '../../src/gpu/backward-kernel-choice.ts';
import { BiasGradient } from '../../src/gpu/bias-gradient.ts';
import { createStorageLayout, type StorageAccess } from '../../src/gpu/bindings.ts';
import { ConvertElements } from '../../src/gpu/convert-elements.ts';
import type { Gpu } from '../../src/gpu/device.ts';
import { createBlockLayout } from '../../src/gpu/prepared-block.ts';
import { DeviceError } from '../../src/errors.ts';
import { FlashAttentionBackward } from '../../src/gpu/flash-attention-backward.ts';
import { createForwardAttention, FORWARD_ATTENTION_VARIANTS } from '../../src/gpu/forward-attention.ts';
import type { KernelFeatures } from '../../src/gpu/kernel-features.ts';
import { MergeBlock } from '../../src/gpu/merge-block.ts';
import { SinkGradient } from '../../src/gpu/sink-gradient.ts';
import { openGpu } from '../../src/node/adapter.ts';
import { throttleGpuPolling } from '../../src/node/gpu-polling.ts';
import { readShaders } from '../../src/node/shader-source.ts';
import { checkShader } from './shader-rules.ts';

/** One pair of head dims for each way in which a kernel is specialised: width of a load, rows per lane, columns. */
const HEAD_DIMS = [
  [64, 64],
  [128, 128],
  [256, 256],
  [8, 10],
  [7, 5],
] as const;

/** Each feature by itself, and all of them. */
const FEATURES: readonly KernelFeatures[] = [
  { dtype: 'f16' },
  { dtype: 'bf16' },
  { softcap: true },
  { alibi: true },
  { bias: true },
  { dropout: true },
  { maxLogit: true },
  { dtype: 'f16', softcap: true, alibi: true, bias: true, dropout: true, maxLogit: true },
];

const shaders = await readShaders();

/** A kernel with its defaults and no loop expanded: what a reader sees must be what a compiler takes. */
function compileAsStored({ device, pipelines, adapter }: Gpu, shader: string): Promise<unknown> {
  const text = shaders.get(shader)!;
  if (text.includes('enable subgroups;') && !adapter.features.includes('subgroups')) return Promise.resolve();
  const access = [...text.matchAll(/@group\(0\).*var<storage, (\w+)>/g)].map(([, mode]) => mode as StorageAccess);
  const bindGroupLayouts = [createStorageLayout(device, shader, access), createBlockLayout(device)];
  return pipelines.get({ shader, bindGroupLayouts, unroll: false });
}

function compileForward(gpu: Gpu): Promise<unknown>[] {
  return FORWARD_ATTENTION_VARIANTS.flatMap((variant) => [
    ...HEAD_DIMS.map(([headDimQk, headDimV]) => createForwardAttention(gpu, { headDimQk, headDimV, variant })),
    ...FEATURES.map((features) => createForwardAttention(gpu, { headDimQk: 64, headDimV: 64, features, variant })),
  ]);
}

function compileBackward(gpu: Gpu): Promise<unknown>[] {
  const plain = HEAD_DIMS.map(([headDimQk, headDimV]) => ({ headDimQk, headDimV, features: {} }));
  const featured = FEATURES.map((features) => ({ headDimQk: 64, headDimV: 64, features }));
  return [...plain, ...featured].flatMap((options) => [
    ...BACKWARD_VARIANTS.map((variant) => FlashAttentionBackward.create(gpu, { ...options, variant })),
    BiasGradient.create(gpu, { ...options, features: { ...options.features, bias: true } }),
    AttentionDelta.create(gpu, options),
  ]);
}

/** Every family of kernels, as its driver compiles it. */
function compileAll(gpu: Gpu): Promise<unknown>[] {
  const kernels = [...shaders].filter(([, text]) => text.includes('fn main('));
  return [
    ...kernels.map(([shader]) => compileAsStored(gpu, shader)),
    ...compileForward(gpu),
    ...compileBackward(gpu),
    SinkGradient.create(gpu),
    ...[false, true].map((maxLogit) => MergeBlock.create(gpu, { maxLogit })),
    ...(['f16', 'bf16'] as const).map((dtype) => ConvertElements.create(gpu, { dtype })),
  ];
}

let numWrong = 0;
for (const [file, text] of shaders) {
  for (const { line, rule } of checkShader(text)) {
    process.stderr.write(`shaders/${file}:${line}: ${rule}\n`);
    numWrong++;
  }
}

throttleGpuPolling();
const { gpu } = await openGpu();
let numCompiled = 0;
for (const result of await Promise.allSettled(compileAll(gpu))) {
  if (result.status === 'fulfilled') numCompiled++;
  else if (result.reason instanceof DeviceError && result.reason.code === 'ERR_MISSING_FEATURE') continue;
  else {
    process.stderr.write(`${(result.reason as Error).message}\n`);
    numWrong++;
  }
}
process.stdout.write(
  `shaders: ${shaders.size} files, ${numCompiled} pipelines on ${gpu.adapter.name}, ${numWrong} complaints\n`,
);
gpu.close();
process.exitCode = numWrong > 0 ? 1 : 0;
