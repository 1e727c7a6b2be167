// Texts of the command line as values. Every parser names the option in its error and accepts nothing by accident.
import { Option } from 'commander';
import type { Window } from '../attention/mask.ts';
import { ConfigError } from '../errors.ts';

/** An option that takes a value; `parse` gets the option's name for its message, and the text. */
export function valueOption(
  flags: string,
  description: string,
  parse: (name: string, text: string) => unknown,
): Option {
  const option = new Option(flags, description);
  return option.argParser((text) => parse(`--${option.name()}`, text));
}

/** A positive safe integer. */
export function parsePositiveInteger(name: string, text: string): number {
  return checkInteger(name, text, 1);
}

/** A safe integer from 0. */
export function parseIndex(name: string, text: string): number {
  return checkInteger(name, text, 0);
}

function checkInteger(name: string, text: string, least: number): number {
  const value = /^\d+$/.test(text) ? Number(text) : NaN;
  if (!Number.isSafeInteger(value) || value < least) {
    throw new ConfigError('ERR_OPTION', `${name}: must be an integer from ${least}, got '${text}'`);
  }
  return value;
}

/** A finite number. */
export function parseNumber(name: string, text: string): number {
  const value = text.trim() === '' ? NaN : Number(text);
  if (!Number.isFinite(value)) throw new ConfigError('ERR_OPTION', `${name}: must be a finite number, got '${text}'`);
  return value;
}

/** A window: how many keys before and after a query are kept, separated by a comma; −1 is unlimited. */
export function parseWindow(name: string, text: string): Window {
  const [, left, right] = /^\s*(-1|\d+)\s*,\s*(-1|\d+)\s*$/.exec(text) ?? [];
  if (left === undefined || right === undefined) {
    const form = 'left,right, each an integer from -1 (unlimited)';
    throw new ConfigError('ERR_OPTION', `${name}: takes ${form}, got '${text}'`);
  }
  return [Number(left), Number(right)];
}

/** Windows, separated by semicolons. */
export function parseWindowList(name: string, text: string): Window[] {
  return text.split(';').map((window) => parseWindow(name, window));
}

/** A text that is not empty: a path, a part of a name. */
export function parseText(name: string, text: string): string {
  if (text === '') throw new ConfigError('ERR_OPTION', `${name}: must not be empty, got ''`);
  return text;
}

/** Which words an option takes. */
export interface Vocabulary<T extends string> {
  /** Words that this version computes. */
  readonly supported: readonly T[];
  /** Words of the same option that it knows, and refuses with ERR_UNSUPPORTED. */
  readonly unsupported?: readonly string[];
  /** Why it refuses them. */
  readonly reason?: string;
}

/** One word of a vocabulary. */
export function parseWord<T extends string>(name: string, text: string, vocabulary: Vocabulary<T>): T {
  const { supported, unsupported = [], reason } = vocabulary;
  const word = supported.find((candidate) => candidate === text);
  if (word !== undefined) return word;
  const choices = `this version computes ${supported.join(', ')}`;
  if (unsupported.includes(text)) {
    const because = reason === undefined ? '' : `; ${reason}`;
    throw new ConfigError('ERR_UNSUPPORTED', `${name}: ${choices}, got '${text}'${because}`);
  }
  throw new ConfigError('ERR_OPTION', `${name}: '${text}' is no known value; ${choices}`);
}

/** A list of words, separated by commas. */
export function parseWordList<T extends string>(name: string, text: string, vocabulary: Vocabulary<T>): T[] {
  return text.split(',').map((word) => parseWord(name, word.trim(), vocabulary));
}
