// Things that are timed in turns: one run each per iteration, in order, and samples for the timed ones only.
import { expect } from 'chai';
import { timeInTurns } from '../../bench/turns.ts';

describe('timeInTurns', () => {
  const { signal } = new AbortController();

  it('runs each once per iteration, and keeps no sample of a warm-up', async () => {
    const log: string[] = [];
    const run = (name: string) => async (): Promise<void> => void log.push(name);
    const onIteration = (iteration: number): void => void log.push(String(iteration));
    const samples = await timeInTurns([run('a'), run('b')], { iters: 2, warmup: 1, signal, onIteration });
    expect(log.join(' ')).to.equal('0 a b 1 a b 2 a b');
    expect(samples.map(({ length }) => length)).to.deep.equal([2, 2]);
  });

  it('gives each the time that it took', async () => {
    const busy = (ms: number) => async (): Promise<void> => {
      const endMs = performance.now() + ms;
      while (performance.now() < endMs);
    };
    const [slow, fast] = await timeInTurns([busy(20), busy(1)], { iters: 3, warmup: 0, signal });
    expect(Math.min(...slow)).to.be.at.least(20);
    expect(Math.min(...fast))
      .to.be.at.least(1)
      .and.be.below(20);
  });

  it('ends with the reason of the signal before the next run', async () => {
    const controller = new AbortController();
    let runs = 0;
    const run = async (): Promise<void> => {
      if (++runs === 2) controller.abort(new Error('enough'));
    };
    const timed = timeInTurns([run], { iters: 9, warmup: 0, signal: controller.signal });
    expect(await timed.catch((error: Error) => error.message)).to.equal('enough');
    expect(runs).to.equal(2);
  });
});
