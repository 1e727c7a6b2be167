// Part of `npm run check`: compiles every shader in every specialisation that is used on the adapter at hand, and applies
// shader-rules.ts to every file. Prints what is wrong as file:line, and fails if anything is.
import { createStorageLayout, type StorageAccess } from '../../src/gpu/bindings.ts';
import type { Gpu } from '../../src/gpu/device.ts';
import { createBlockLayout } from '../../src/gpu/prepared-block.ts';
import { DeviceError } from '../../src/errors.ts';
import { FlashAttentionForward } from '../../src/gpu/flash-attention-forward.ts';
import { FORWARD_VARIANTS } from '../../src/gpu/kernel-choice.ts';
import { MergeBlock } from '../../src/gpu/merge-block.ts';
import { openGpu } from '../../src/node/adapter.ts';
import { throttleGpuPolling } from '../../src/node/gpu-polling.ts';
import { readShaders } from '../../src/node/shader-source.ts';
import { checkShader } from './shader-rules.ts';

/** One pair of head dims for each way in which a kernel is specialised: element width, rows per lane, columns. */
const HEAD_DIMS = [
  [64, 64],
  [128, 128],
  [256, 256],
  [8, 10],
  [7, 5],
] as const;

/** A kernel with its defaults and no loop expanded: what a reader sees must be what a compiler takes. */
function compileAsStored({ device, pipelines, adapter }: Gpu, shader: string): Promise<unknown> {
  const text = shaders.get(shader)!;
  if (text.includes('enable subgroups;') && !adapter.features.includes('subgroups')) return Promise.resolve();
  const access = [...text.matchAll(/@group\(0\).*var<storage, (\w+)>/g)].map(([, mode]) => mode as StorageAccess);
  const bindGroupLayouts = [createStorageLayout(device, shader, access), createBlockLayout(device)];
  return pipelines.get({ shader, bindGroupLayouts, unroll: false });
}

const shaders = await readShaders();
let numWrong = 0;
for (const [file, text] of shaders) {
  for (const { line, rule } of checkShader(text)) {
    process.stderr.write(`shaders/${file}:${line}: ${rule}\n`);
    numWrong++;
  }
}

throttleGpuPolling();
const { gpu } = await openGpu();
const compilations = [
  MergeBlock.create(gpu),
  ...[...shaders].filter(([, text]) => text.includes('fn main(')).map(([shader]) => compileAsStored(gpu, shader)),
  ...FORWARD_VARIANTS.flatMap((variant) =>
    HEAD_DIMS.map(([headDimQk, headDimV]) => FlashAttentionForward.create(gpu, { headDimQk, headDimV, variant })),
  ),
];
let numCompiled = 0;
for (const result of await Promise.allSettled(compilations)) {
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
