// Looks for the adapter of rank processes in a process of its own: the caller's process loads no GPU binding for ranks
// that run elsewhere, and what drivers print while they are looked at does not reach the terminal.
import { spawn } from 'node:child_process';
import { DeviceError, type WireError, decodeError } from '../errors.ts';
import type { AdapterOptions, RankAdapter } from './adapter.ts';
import { moduleCommand } from './rank-processes.ts';

/** What the other process answers, as one line of JSON. */
export type ProbeAnswer = { adapter: RankAdapter } | { error: WireError };

/** findRankAdapter() in another process. Rejects as it does. */
export async function probeAdapter(options: AdapterOptions = {}): Promise<RankAdapter> {
  const [program, ...args] = moduleCommand('./adapter-probe-process', import.meta.url);
  const child = spawn(program, [...args, JSON.stringify(options)], { stdio: ['ignore', 'pipe', 'ignore'] });
  let text = '';
  child.stdout.on('data', (chunk: Buffer) => (text += chunk.toString('utf8')));
  await new Promise<void>((resolve, reject) => child.once('close', () => resolve()).once('error', reject));
  if (text === '')
    throw new DeviceError('ERR_NO_ADAPTER', 'adapter search: the drivers of this machine ended the search process');
  const answer = JSON.parse(text) as ProbeAnswer;
  if ('error' in answer) throw decodeError(answer.error);
  return answer.adapter;
}
