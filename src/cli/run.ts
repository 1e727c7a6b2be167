// `kvring run`: tensors from a file through the engine into a file. All that can be wrong with the command line and the
// input is found before a rank is started.
import type { Command } from 'commander';
import { type AttentionGradients, describeCall } from '../attention/call.ts';
import { type AttentionOptions, fillOptions, OPTION_NAMES } from '../attention/options.ts';
import { ConfigError } from '../errors.ts';
import { checkWritable, readSafetensors, writeBytes, writeSafetensors } from '../node/files.ts';
import { buildChromeTrace } from '../trace/perfetto.ts';
import { type CliContext, EXIT_OK } from './context.ts';
import {
  addAdapterOption,
  addAttentionOptions,
  addTransferOptions,
  addUnsupportedOptions,
  type AttentionFlags,
  checkWireDtype,
  type DeviceFlags,
} from './options.ts';
import { createProgress } from './progress.ts';
import { checkGradientInput, nameResults, pickTensors, type RunTensors } from './run-tensors.ts';
import { parseText, valueOption } from './values.ts';

interface RunFlags extends AttentionFlags, DeviceFlags {
  input: string;
  output: string;
  backward?: boolean;
  metrics?: string;
  trace?: string;
}

/** Adds `run`. */
export function addRunCommand(program: Command, context: CliContext): void {
  const run = program
    .command('run')
    .description('attention over q, k, v [B, S, H, D], or packed [T, H, D], of a safetensors file')
    .addOption(
      valueOption(
        '--input <file>',
        'safetensors with q, k, v and the tensors of options',
        parseText,
      ).makeOptionMandatory(),
    )
    .addOption(
      valueOption('--output <file>', 'safetensors for out, lse and the other results', parseText).makeOptionMandatory(),
    )
    .option('--backward', 'also write the gradients of the inputs for the tensor dout')
    .addOption(valueOption('--metrics <file>', 'write the counters of every rank as JSON', parseText))
    .addOption(valueOption('--trace <file>', 'write a trace for ui.perfetto.dev', parseText));
  addTransferOptions(addAdapterOption(addAttentionOptions(run)));
  addUnsupportedOptions(run).action(async (flags: RunFlags) => {
    const tensors = await readTensors(flags);
    await runAttention(flags, tensors, context);
    context.exitCode = EXIT_OK;
  });
}

/** The tensors of the input file, once everything about the command line and them is known to be right. */
async function readTensors(flags: RunFlags): Promise<RunTensors> {
  const { input, output, metrics, trace, backward = false, ranks, dtype, wireDtype } = flags;
  const options = pickAttentionOptions(flags);
  // The rules do not depend on the head dim, which only the file tells.
  fillOptions(options, 1);
  if (backward && ranks > 1) {
    const rule = 'this version computes gradients on 1 rank';
    throw new ConfigError('ERR_UNSUPPORTED', `run: --backward: ${rule}, got ranks=${ranks}; leave --ranks out`);
  }
  for (const path of [output, metrics, trace]) if (path !== undefined) await checkWritable(path);
  const tensors = pickTensors(input, (await readSafetensors(input)).tensors);
  const call = describeCall(tensors.inputs, options, dtype);
  checkGradientInput(tensors.dout, backward, call);
  checkWireDtype(wireDtype, call.storage);
  return tensors;
}

async function runAttention(
  flags: RunFlags,
  { inputs, dout }: RunTensors,
  { signal, stderr }: CliContext,
): Promise<void> {
  const { output, metrics, trace, ranks, dtype } = flags;
  const progress = createProgress(stderr);
  const { createEngine } = await import('../node/engine.ts');
  progress.update(`starting ${ranks} rank${ranks === 1 ? '' : 's'}`);
  const engine = await createEngine({ ...pickEngineOptions(flags), signal });
  try {
    progress.update('computing');
    const options = { ...pickAttentionOptions(flags), ...(dtype && { dtype }), signal };
    const result = await engine.forward(inputs, options);
    const timelines = [...engine.timelines()];
    let gradients: AttentionGradients | undefined;
    if (dout) {
      progress.update('computing gradients');
      gradients = await engine.backward(dout, { signal });
      timelines.push(...engine.timelines());
    }
    await writeSafetensors(output, nameResults(result, gradients));
    if (metrics !== undefined) await writeBytes(metrics, `${JSON.stringify(engine.metrics(), null, 2)}\n`);
    if (trace !== undefined) await writeBytes(trace, JSON.stringify(buildChromeTrace(timelines)));
  } finally {
    progress.clear();
    await engine.close();
  }
}

/** What changes the result of the call: the options that were given. */
function pickAttentionOptions(flags: RunFlags): Partial<AttentionOptions> {
  return Object.fromEntries(
    OPTION_NAMES.filter((name) => flags[name] !== undefined).map((name) => [name, flags[name]]),
  );
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
