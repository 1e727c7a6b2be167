// The program that adapter-probe.ts starts: prints what it finds as one line of JSON, and ends.
import { encodeError } from '../errors.ts';
import type { ProbeAnswer } from './adapter-probe.ts';
import { type AdapterOptions, findRankAdapter } from './adapter.ts';

async function probe(): Promise<ProbeAnswer> {
  try {
    return { adapter: await findRankAdapter(JSON.parse(process.argv[2]) as AdapterOptions) };
  } catch (error) {
    return { error: encodeError(error) };
  }
}

process.stdout.write(JSON.stringify(await probe()));
