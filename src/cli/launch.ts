// `kvring launch`: one process per rank, on one machine or several, as torchrun does it. Everything after the script's
// name belongs to the script.
import type { Command } from 'commander';
import { ConfigError } from '../errors.ts';
import { type CliContext, EXIT_FAILED, EXIT_OK } from './context.ts';
import { addAdapterOption, addUnsupportedOptions } from './options.ts';
import { parseIndex, parsePositiveInteger, parseText, valueOption } from './values.ts';

interface LaunchFlags {
  nprocPerNode: number;
  nnodes: number;
  nodeRank: number;
  rdzvEndpoint?: string;
  rdzvId?: string;
  insecure?: boolean;
  tlsCert?: string;
  tlsKey?: string;
  tlsCa?: string;
  adapter?: string;
}

/** Programs of kvring itself that this version does not have. */
const LATER_PROGRAMS = ['pretrain-gpt'];

/** Adds `launch`. */
export function addLaunchCommand(program: Command, context: CliContext): void {
  const launch = program
    .command('launch')
    .description('run a script or command once per rank')
    .argument('<script>', 'a script for Node, or a command')
    .argument('[args...]', 'its own arguments, untouched')
    .passThroughOptions()
    .addOption(
      valueOption('--nproc-per-node <number>', 'ranks on this machine', parsePositiveInteger).makeOptionMandatory(),
    )
    .addOption(valueOption('--nnodes <number>', 'machines', parsePositiveInteger).default(1))
    .addOption(valueOption('--node-rank <number>', 'which machine this is, from 0', parseIndex).default(0))
    .addOption(valueOption('--rdzv-endpoint <host:port>', 'where machine 0 listens', parseText))
    .addOption(valueOption('--rdzv-id <id>', 'name of this run', parseText))
    .option('--insecure', 'allow plain ws:// off this host')
    .addOption(valueOption('--tls-cert <file>', 'certificate of this machine, PEM', parseText))
    .addOption(valueOption('--tls-key <file>', 'its private key, PEM', parseText))
    .addOption(valueOption('--tls-ca <file>', 'certificate authority of the others, PEM', parseText));
  addUnsupportedOptions(addAdapterOption(launch)).action(async (script: string, args: string[], flags: LaunchFlags) => {
    checkFlags(script, flags);
    const { launch: launchRanks } = await import('../node/launcher.ts');
    const { signal, stdout, stderr } = context;
    const { exitCode } = await launchRanks({ ...flags, command: [script, ...args], signal, stdout, stderr });
    context.exitCode = exitCode === 0 ? EXIT_OK : EXIT_FAILED;
  });
}

function checkFlags(script: string, { nnodes, nodeRank, rdzvEndpoint, tlsCert, tlsKey }: LaunchFlags): void {
  if (LATER_PROGRAMS.includes(script)) {
    throw new ConfigError('ERR_UNSUPPORTED', `launch: this version has no ${script}; name a script of your own`);
  }
  if (nodeRank >= nnodes) {
    const values = `got --node-rank ${nodeRank}, --nnodes ${nnodes}`;
    throw new ConfigError('ERR_OPTION', `launch: --node-rank must be less than --nnodes, ${values}`);
  }
  if (nnodes > 1 && rdzvEndpoint === undefined) {
    const remedy = 'add --rdzv-endpoint host:port of machine 0';
    throw new ConfigError(
      'ERR_USAGE',
      `launch: several machines need a place to meet, got --nnodes ${nnodes}; ${remedy}`,
    );
  }
  if ((tlsCert === undefined) !== (tlsKey === undefined)) {
    const given = tlsCert === undefined ? '--tls-key' : '--tls-cert';
    throw new ConfigError('ERR_USAGE', `launch: --tls-cert and --tls-key belong together, got ${given} alone`);
  }
}
