// `kvring run`: tensors from a file through the engine into a file. All that can be wrong with the command line and the
// input is found before a rank is started.
import type { Command } from 'commander';
import { inferShape } from '../attention/shape.ts';
import { ConfigError } from '../errors.ts';
import { checkWritable, readSafetensors, writeBytes, writeSafetensors } from '../node/files.ts';
import type { HostTensor } from '../tensor/tensor.ts';
import { buildChromeTrace } from '../trace/perfetto.ts';
import { type CliContext, EXIT_OK } from './context.ts';
import {
  addAdapterOption,
  addAttentionOptions,
  addTransferOptions,
  addUnsupportedOptions,
  type AttentionFlags,
  type DeviceFlags,
} from './options.ts';
import { createProgress } from './progress.ts';
import { parseText, valueOption } from './values.ts';

interface RunFlags extends AttentionFlags, DeviceFlags {
  input: string;
  output: string;
  metrics?: string;
  trace?: string;
}

/** Tensors that kvring has names for and this version does not take. */
const UNSUPPORTED_TENSORS = [
  'dout',
  'bias',
  'sink',
  'alibi_slopes',
  'cu_seqlens_q',
  'cu_seqlens_kv',
  'cu_seqlens_q_padded',
  'cu_seqlens_kv_padded',
];

/** Adds `run`. */
export function addRunCommand(program: Command, context: CliContext): void {
  const run = program
    .command('run')
    .description('attention over q, k, v [B, S, H, D] of a safetensors file; writes out and lse')
    .addOption(valueOption('--input <file>', 'safetensors with q, k and v', parseText).makeOptionMandatory())
    .addOption(valueOption('--output <file>', 'safetensors for out and lse', parseText).makeOptionMandatory())
    .addOption(valueOption('--metrics <file>', 'write the counters of every rank as JSON', parseText))
    .addOption(valueOption('--trace <file>', 'write a trace for ui.perfetto.dev', parseText));
  addTransferOptions(addAdapterOption(addAttentionOptions(run)));
  addUnsupportedOptions(run).action(async (flags: RunFlags) => {
    await runAttention(flags, context);
    context.exitCode = EXIT_OK;
  });
}

async function runAttention(flags: RunFlags, { signal, stderr }: CliContext): Promise<void> {
  const { input, output, metrics, trace } = flags;
  for (const path of [output, metrics, trace]) if (path !== undefined) await checkWritable(path);
  const inputs = pickInputs(input, (await readSafetensors(input)).tensors);
  inferShape(inputs.q, inputs.k, inputs.v);

  const progress = createProgress(stderr);
  const { createEngine } = await import('../node/engine.ts');
  progress.update(`starting ${flags.ranks} rank${flags.ranks === 1 ? '' : 's'}`);
  const engine = await createEngine({ ...pickEngineOptions(flags), signal });
  try {
    progress.update('computing');
    const { maskType, softmaxScale } = flags;
    const { out, lse } = await engine.forward(inputs, {
      maskType,
      signal,
      ...(softmaxScale === undefined ? {} : { softmaxScale }),
    });
    await writeSafetensors(output, { out, lse });
    if (metrics !== undefined) await writeBytes(metrics, `${JSON.stringify(engine.metrics(), null, 2)}\n`);
    if (trace !== undefined) await writeBytes(trace, JSON.stringify(buildChromeTrace(engine.timelines())));
  } finally {
    progress.clear();
    await engine.close();
  }
}

function pickEngineOptions({ ranks, layout, cpCommType, adapter, timeoutMs, checksum, trace }: RunFlags) {
  return {
    ranks,
    layout,
    cpCommType,
    trace: trace !== undefined,
    ...(adapter === undefined ? {} : { adapter }),
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
    ...(checksum === undefined ? {} : { checksum }),
  };
}

/**
 * q, k and v of a file, which must hold these and nothing else: a tensor that changes the result and is not looked at
 * would make the result wrong.
 */
function pickInputs(
  path: string,
  tensors: ReadonlyMap<string, HostTensor>,
): { q: HostTensor; k: HostTensor; v: HostTensor } {
  const held = `got ${[...tensors.keys()].join(', ') || 'no tensor'}`;
  const q = tensors.get('q');
  const k = tensors.get('k');
  const v = tensors.get('v');
  if (!q || !k || !v) {
    const missing = ['q', 'k', 'v'].filter((name) => !tensors.has(name)).join(', ');
    throw new ConfigError('ERR_FILE', `run: ${path} must hold q, k and v, ${held}; missing ${missing}`);
  }
  for (const name of tensors.keys()) {
    if (UNSUPPORTED_TENSORS.includes(name)) {
      throw new ConfigError('ERR_UNSUPPORTED', `run: this version does not compute with '${name}', ${held} in ${path}`);
    }
    if (!['q', 'k', 'v'].includes(name)) {
      throw new ConfigError('ERR_FILE', `run: '${name}' is no tensor that kvring knows, ${held} in ${path}`);
    }
  }
  return { q, k, v };
}
