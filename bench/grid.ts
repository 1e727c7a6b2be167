// Lists and ranges of the command line, the grid that they span, and runs of its points. Pure.
//   1024,2048        the values themselves
//   1024-8192*2      1024, 2048, 4096, 8192
//   1024-4096+1024   1024, 2048, 3072, 4096
import { ConfigError } from '../src/errors.ts';

/** Most values that one option may expand to: more is a slip of the keyboard. */
export const MAX_VALUES = 1000;

const VALUE = /^\d+$/;
const RANGE = /^(\d+)-(\d+)([*+])(\d+)$/;

/**
 * Expands a list of positive integers and ranges, in the order given.
 *
 * @param option the option's name, for the message
 * @throws ConfigError ERR_OPTION for anything else, a range that runs backwards or stands still, or too many values
 */
export function parseIntegers(option: string, text: string): number[] {
  const values = text.split(',').flatMap((part) => expandPart(option, part.trim()));
  if (values.length > MAX_VALUES) {
    throw new ConfigError('ERR_OPTION', `${option}: at most ${MAX_VALUES} values, got ${values.length} from '${text}'`);
  }
  return values;
}

function expandPart(option: string, part: string): number[] {
  if (VALUE.test(part)) return [checkInteger(option, part)];
  const [, first, last, operator, by] = RANGE.exec(part) ?? [];
  if (first === undefined || last === undefined || by === undefined) {
    const forms = 'positive integers, or ranges such as 1024-8192*2 and 1024-4096+1024';
    throw new ConfigError('ERR_OPTION', `${option}: takes a list of ${forms}, got '${part}'`);
  }
  const [start, end, stride] = [first, last, by].map((value) => checkInteger(option, value)) as [
    number,
    number,
    number,
  ];
  if (end < start || (operator === '*' && stride < 2)) {
    throw new ConfigError('ERR_OPTION', `${option}: a range must grow from its first value to its last, got '${part}'`);
  }
  const values: number[] = [];
  for (let value = start; value <= end && values.length <= MAX_VALUES;) {
    values.push(value);
    value = operator === '*' ? value * stride : value + stride;
  }
  return values;
}

function checkInteger(option: string, digits: string): number {
  const value = Number(digits);
  if (!Number.isSafeInteger(value) || value < 1) {
    throw new ConfigError('ERR_OPTION', `${option}: every value must be a positive integer, got '${digits}'`);
  }
  return value;
}

/** Every combination of one value per axis; the last axis changes fastest. */
export function expandGrid<T extends object>(axes: { readonly [K in keyof T]: readonly T[K][] }): T[] {
  let points: Partial<T>[] = [{}];
  for (const [name, values] of Object.entries<readonly unknown[]>(axes)) {
    points = points.flatMap((point) => values.map((value) => ({ ...point, [name]: value })));
  }
  return points as T[];
}

/** Cuts a list into runs of neighbours whose `keyOf` is the same. */
export function groupNeighbours<T>(items: readonly T[], keyOf: (item: T) => string): T[][] {
  const groups: T[][] = [];
  for (const item of items) {
    const last = groups.at(-1);
    if (last && keyOf(last[0]) === keyOf(item)) last.push(item);
    else groups.push([item]);
  }
  return groups;
}
