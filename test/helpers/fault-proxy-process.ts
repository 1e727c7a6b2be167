// The fault proxy in a process of its own, so that it goes on passing bytes while the event loops of the ranks are busy:
// startFaultProxyProcess() for tests; the file itself is what that process runs.
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { startFaultProxy } from './fault-proxy.ts';
import type { FaultProxy, Faults } from './fault-proxy.ts';

type Command = { set: Partial<Faults> } | { reset: true };

/** Like startFaultProxy; commands take effect as soon as the other process has read them. */
export async function startFaultProxyProcess(port: number, initial: Partial<Faults> = {}): Promise<FaultProxy> {
  const child = fork(fileURLToPath(import.meta.url), [String(port), JSON.stringify(initial)], { stdio: 'inherit' });
  const [started] = (await once(child, 'message')) as [{ port: number }];
  const tell = (command: Command): void => void child.send(command);
  return {
    port: started.port,
    set: (changes) => tell({ set: changes }),
    reset: () => tell({ reset: true }),
    close: async () => {
      const exited = once(child, 'exit');
      child.disconnect();
      await exited;
    },
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url) && process.send !== undefined) {
  const proxy = await startFaultProxy(Number(process.argv[2]), JSON.parse(process.argv[3]) as Partial<Faults>);
  process.on('message', (command: Command) => ('set' in command ? proxy.set(command.set) : proxy.reset()));
  process.on('disconnect', () => void proxy.close());
  process.send({ port: proxy.port });
}
