// The only code that edits shader text. It concatenates the modules that a `// requires:` line names, sets the `const`
// and `alias` values of the header, adds `enable` lines, and expands loops marked `// unroll`, so that their index is a
// constant. Every line of the result knows which file and line it came from.
import { DeviceError } from '../errors.ts';
import type { ShaderLibrary } from './shader-library.ts';

/** Where a line of specialised text comes from; `line` counts from 1, and is 0 for a line that specialise added. */
export interface SourceLine {
  file: string;
  line: number;
  text: string;
}

export interface Specialization {
  /** New values of `const NAME: T = …;` and `alias NAME = …;`. Each name must occur exactly once. */
  constants?: Readonly<Record<string, number | string>>;
  /** WGSL extensions to enable besides those that the file enables itself. */
  enable?: readonly string[];
  /** Whether to expand loops marked `// unroll`; default true. The text is valid either way. */
  unroll?: boolean;
}

export interface SpecializedShader {
  code: string;
  /** One entry per line of `code`. */
  lines: readonly SourceLine[];
}

/** Specialises `name` of the library. Throws DeviceError ERR_SHADER when a file, constant or loop is not as promised. */
export function specialize(shaders: ShaderLibrary, name: string, options: Specialization = {}): SpecializedShader {
  let lines = concatenateModules(shaders, name);
  for (const [constant, value] of Object.entries(options.constants ?? {})) setConstant(lines, name, constant, value);
  if (options.unroll ?? true) lines = expandLoops(lines, readIntegerConstants(lines));
  const enables = (options.enable ?? []).map((extension) => ({ file: name, line: 0, text: `enable ${extension};` }));
  lines = [...enables, ...lines];
  return { code: lines.map(({ text }) => text).join('\n'), lines };
}

/** The file, then each module that it or one of its modules requires, once, in the order of first mention. */
function concatenateModules(shaders: ShaderLibrary, name: string): SourceLine[] {
  const names = [name];
  const lines: SourceLine[] = [];
  for (const file of names) {
    const source = shaders.get(file);
    if (source === undefined) {
      throw shaderError(`there is no shader ${file}, got ${[...shaders.keys()].join(', ') || 'an empty library'}`);
    }
    for (const [index, text] of source.split('\n').entries()) {
      lines.push({ file, line: index + 1, text });
      for (const required of /^\/\/ requires: (.*)$/.exec(text)?.[1]?.split(', ') ?? []) {
        if (!names.includes(required)) names.push(required);
      }
    }
  }
  return lines;
}

function setConstant(lines: SourceLine[], name: string, constant: string, value: number | string): void {
  const declaration = new RegExp(`^((?:const ${constant}: \\w+|alias ${constant}) = )[^;]+;`);
  const matches = lines.filter(({ text }) => declaration.test(text));
  if (matches.length !== 1) {
    throw shaderError(`${name} must declare ${constant} exactly once, got ${matches.length} declarations`);
  }
  matches[0].text = matches[0].text.replace(declaration, `$1${value};`);
}

/** Constants with an integer literal as value: what the bound of an `// unroll` loop may name. */
function readIntegerConstants(lines: readonly SourceLine[]): Map<string, number> {
  const constants = new Map<string, number>();
  for (const { text } of lines) {
    const match = /^const (\w+): u32 = (\d+)u?;/.exec(text);
    if (match) constants.set(match[1], Number(match[2]));
  }
  return constants;
}

const UNROLL = /^(\s*)for \(var (\w+) = 0u; \2 < (\w+); \2\+\+\) \{ \/\/ unroll$/;

/** Replaces each marked loop by one block per iteration, in which the index is a `const`. Inner loops expand too. */
function expandLoops(lines: readonly SourceLine[], constants: ReadonlyMap<string, number>): SourceLine[] {
  const result: SourceLine[] = [];
  for (let index = 0; index < lines.length; index++) {
    const head = lines[index];
    const loop = UNROLL.exec(head.text);
    if (!loop) {
      if (head.text.includes('// unroll')) {
        throw shaderError(
          `${head.file}:${head.line}: an unroll loop reads "for (var i = 0u; i < NAME; i++) { // unroll"`,
        );
      }
      result.push(head);
      continue;
    }
    const [, indent, variable, bound] = loop;
    const count = constants.get(bound);
    if (count === undefined) {
      throw shaderError(
        `${head.file}:${head.line}: the bound of an unroll loop must be an integer const, got ${bound}`,
      );
    }
    const end = lines.findIndex((line, at) => at > index && line.text === `${indent}}`);
    if (end < 0) throw shaderError(`${head.file}:${head.line}: the unroll loop has no closing brace at its own indent`);
    const body = expandLoops(lines.slice(index + 1, end), constants);
    for (let iteration = 0; iteration < count; iteration++) {
      result.push({ ...head, text: `${indent}{ const ${variable}: u32 = ${iteration}u;` }, ...body, lines[end]);
    }
    index = end;
  }
  return result;
}

function shaderError(message: string): DeviceError {
  return new DeviceError('ERR_SHADER', `specialize: ${message}`);
}
