// The options that several commands share, under the same names as in the API and in JSON. An option of kvring that this
// version does not compute is known all the same, and refused: never ignored, never called unknown.
import { type Command, Option } from 'commander';
import { LAYOUTS } from '../attention/layout.ts';
import { MASK_TYPES, type MaskType } from '../attention/mask.ts';
import { type AttentionOptions, SINKS, type Sink } from '../attention/options.ts';
import { ConfigError } from '../errors.ts';
import { FLOAT_DTYPES, type FloatDType } from '../tensor/tensor.ts';
import {
  parseIndex,
  parseNumber,
  parsePositiveInteger,
  parseText,
  parseWindow,
  parseWord,
  valueOption,
  type Vocabulary,
} from './values.ts';

export const MASK_TYPE_WORDS: Vocabulary<MaskType> = { supported: MASK_TYPES };
export const CP_COMM_TYPE_WORDS: Vocabulary<'p2p'> = {
  supported: ['p2p'],
  unsupported: ['all_gather', 'a2a', 'a2a+p2p'],
};
export const DTYPE_WORDS: Vocabulary<FloatDType> = { supported: FLOAT_DTYPES };
export const LAYOUT_WORDS: Vocabulary<(typeof LAYOUTS)[number]> = { supported: LAYOUTS };
const SINK_WORDS: Vocabulary<Sink> = { supported: SINKS };

/** Options of one attention call, as `run` takes them. */
export function addAttentionOptions(command: Command): Command {
  return command
    .addOption(valueOption('--mask-type <type>', MASK_TYPES.join(', '), wordOf(MASK_TYPE_WORDS)).default('no_mask'))
    .addOption(
      valueOption(
        '--window <left,right>',
        'keys kept before and after a query (default: -1,-1, unlimited)',
        parseWindow,
      ),
    )
    .addOption(valueOption('--softmax-scale <number>', 'multiplies the scores (default: 1/√D)', parseNumber))
    .addOption(valueOption('--softcap <number>', 'c of c·tanh(score / c) (default: 0, off)', parseNumber))
    .addOption(valueOption('--sink <kind>', SINKS.join(', '), wordOf(SINK_WORDS)).default('none'))
    .addOption(valueOption('--dropout <probability>', 'of dropping a weight (default: 0)', parseNumber))
    .addOption(valueOption('--seed <number>', 'of the dropout mask (default: 0)', parseIndex))
    .addOption(new Option('--max-logit', 'also write the largest score of each head, max_logit [H]'))
    .addOption(valueOption('--ranks <number>', 'ranks of the ring', parsePositiveInteger).default(1))
    .addOption(valueOption('--layout <layout>', LAYOUTS.join(', '), wordOf(LAYOUT_WORDS)).default('zigzag'))
    .addOption(valueOption('--cp-comm-type <type>', 'p2p', wordOf(CP_COMM_TYPE_WORDS)).default('p2p'))
    .addOption(
      valueOption(
        '--dtype <type>',
        `what q, k, v and dout are rounded to: ${FLOAT_DTYPES.join(', ')} (default: that of q)`,
        wordOf(DTYPE_WORDS),
      ),
    );
}

/** The option of everything that computes on a device. */
export function addAdapterOption(command: Command): Command {
  const description = 'use the adapter whose name contains this (also KVRING_ADAPTER)';
  return command.addOption(valueOption('--adapter <name>', description, parseText));
}

/** Options of everything that moves bytes between ranks. */
export function addTransferOptions(command: Command): Command {
  return command
    .addOption(valueOption('--timeout-ms <ms>', 'longest wait for a peer', parsePositiveInteger))
    .addOption(new Option('--checksum', 'check every frame'))
    .addOption(new Option('--no-checksum', 'check no frame'));
}

/** What {@link addAdapterOption}, {@link addTransferOptions} and {@link addUnsupportedOptions} give. */
export interface DeviceFlags {
  wireDtype?: string;
  adapter?: string;
  timeoutMs?: number;
  checksum?: boolean;
}

/** What {@link addAttentionOptions} gives. */
export interface AttentionFlags extends Partial<AttentionOptions> {
  ranks: number;
  layout: (typeof LAYOUTS)[number];
  cpCommType: 'p2p';
  dtype?: FloatDType;
}

function wordOf<T extends string>(vocabulary: Vocabulary<T>) {
  return (name: string, text: string): T => parseWord(name, text, vocabulary);
}

/** Options of kvring that no command of this version computes; `off` is the value that asks for nothing. */
const UNSUPPORTED_OPTIONS: readonly (readonly [flags: string, off?: string])[] = [
  ['--wire-dtype <type>', 'f32'],
  ['--hierarchical-context-parallel-sizes <sizes>'],
  ['--remote-ranks <number>', '0'],
  ['--host <address>'],
  ['--port <number>'],
];

/** Adds the options that this version refuses with ERR_UNSUPPORTED, but for a value that asks for nothing. */
export function addUnsupportedOptions(command: Command): Command {
  for (const [flags, off] of UNSUPPORTED_OPTIONS) {
    const option = new Option(flags).hideHelp();
    option.argParser((text) => {
      if (text === off) return text;
      const refused = `--${option.name()}: this version does not compute it, got '${text}'`;
      throw new ConfigError('ERR_UNSUPPORTED', `${refused}; leave the option out`);
    });
    command.addOption(option);
  }
  return command;
}

/** Throws ConfigError ERR_UNSUPPORTED when `--wire-dtype` asks for another dtype than that in which blocks are stored. */
export function checkWireDtype(wireDtype: string | undefined, dtype: FloatDType): void {
  if (wireDtype === undefined || wireDtype === dtype) return;
  throw new ConfigError(
    'ERR_UNSUPPORTED',
    `--wire-dtype: this version sends blocks as they are stored, in ${dtype}, got '${wireDtype}'; leave the option out`,
  );
}
