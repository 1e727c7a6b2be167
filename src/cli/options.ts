// The options that several commands share, under the same names as in the API and in JSON. An option of kvring that this
// version does not compute is known all the same, and refused: never ignored, never called unknown.
import { type Command, Option } from 'commander';
import { LAYOUTS } from '../attention/layout.ts';
import { MASK_TYPES } from '../attention/shape.ts';
import { ConfigError } from '../errors.ts';
import { parseNumber, parsePositiveInteger, parseText, parseWord, valueOption, type Vocabulary } from './values.ts';

export const MASK_TYPE_WORDS: Vocabulary<(typeof MASK_TYPES)[number]> = {
  supported: MASK_TYPES,
  unsupported: ['causal_bottom_right', 'padding', 'padding_causal', 'padding_causal_bottom_right'],
};
export const CP_COMM_TYPE_WORDS: Vocabulary<'p2p'> = {
  supported: ['p2p'],
  unsupported: ['all_gather', 'a2a', 'a2a+p2p'],
};
export const DTYPE_WORDS: Vocabulary<'f32'> = { supported: ['f32'], unsupported: ['f16', 'bf16'] };
export const DIRECTION_WORDS: Vocabulary<'forward'> = {
  supported: ['forward'],
  unsupported: ['backward', 'forward_backward'],
};
export const LAYOUT_WORDS: Vocabulary<(typeof LAYOUTS)[number]> = { supported: LAYOUTS };

/** Options of one attention call, as `run` takes them. */
export function addAttentionOptions(command: Command): Command {
  return command
    .addOption(valueOption('--mask-type <type>', 'no_mask or causal', wordOf(MASK_TYPE_WORDS)).default('no_mask'))
    .addOption(valueOption('--softmax-scale <number>', 'multiplies the scores (default: 1/√D)', parseNumber))
    .addOption(valueOption('--ranks <number>', 'ranks of the ring', parsePositiveInteger).default(1))
    .addOption(valueOption('--layout <layout>', LAYOUTS.join(', '), wordOf(LAYOUT_WORDS)).default('zigzag'))
    .addOption(valueOption('--cp-comm-type <type>', 'p2p', wordOf(CP_COMM_TYPE_WORDS)).default('p2p'))
    .addOption(valueOption('--dtype <type>', 'that of q: f32', wordOf(DTYPE_WORDS)));
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

/** What {@link addAdapterOption} and {@link addTransferOptions} give. */
export interface DeviceFlags {
  adapter?: string;
  timeoutMs?: number;
  checksum?: boolean;
}

/** What {@link addAttentionOptions} gives. */
export interface AttentionFlags {
  maskType: (typeof MASK_TYPES)[number];
  softmaxScale?: number;
  ranks: number;
  layout: (typeof LAYOUTS)[number];
  cpCommType: 'p2p';
  dtype?: 'f32';
}

function wordOf<T extends string>(vocabulary: Vocabulary<T>) {
  return (name: string, text: string): T => parseWord(name, text, vocabulary);
}

/** Options of kvring that no command of this version computes; `off` is the value that asks for nothing. */
const UNSUPPORTED_OPTIONS: readonly (readonly [flags: string, off?: string])[] = [
  ['--window <left,right>', '-1,-1'],
  ['--softcap <number>', '0'],
  ['--sink <kind>', 'none'],
  ['--dropout <probability>', '0'],
  ['--seed <number>'],
  ['--wire-dtype <type>', 'f32'],
  ['--hierarchical-context-parallel-sizes <sizes>'],
  ['--remote-ranks <number>', '0'],
  ['--host <address>'],
  ['--port <number>'],
  ['--backward'],
  ['--max-logit'],
];

/**
 * Adds the options that this version refuses, except those whose names are in `except`: a value that asks for nothing
 * is accepted, any other is a ConfigError ERR_UNSUPPORTED.
 */
export function addUnsupportedOptions(command: Command, except: readonly string[] = []): Command {
  for (const [flags, off] of UNSUPPORTED_OPTIONS) {
    const option = new Option(flags).hideHelp();
    const name = `--${option.name()}`;
    if (except.includes(name)) continue;
    const refuse = (value?: string) => {
      const got = value === undefined ? '' : `, got '${value}'`;
      throw new ConfigError('ERR_UNSUPPORTED', `${name}: this version does not compute it${got}; leave the option out`);
    };
    if (option.required) option.argParser((text) => text === off || refuse(text));
    // A flag without a value has no parser: commander reports it as an event instead.
    else command.on(`option:${option.name()}`, () => refuse());
    command.addOption(option);
  }
  return command;
}
