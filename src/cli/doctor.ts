// `kvring doctor`: what is there, what is missing, and the command that mends it.
import type { Command } from 'commander';
import type { Finding } from '../node/doctor.ts';
import { type CliContext, EXIT_FAILED, EXIT_OK } from './context.ts';
import { addAdapterOption } from './options.ts';

/** Adds `doctor`; it fails when something that kvring needs is missing. */
export function addDoctorCommand(program: Command, context: CliContext): void {
  const doctor = program.command('doctor').description('look for an adapter and for what else kvring needs');
  addAdapterOption(doctor).action(async (flags: { adapter?: string }) => {
    const { runDoctor } = await import('../node/doctor.ts');
    const findings = await runDoctor(flags);
    context.stdout.write(formatFindings(findings));
    context.exitCode = findings.some(({ status }) => status === 'missing') ? EXIT_FAILED : EXIT_OK;
  });
}

/** One line per finding, and below it the remedy where there is one. */
export function formatFindings(findings: readonly Finding[]): string {
  const width = Math.max(...findings.map(({ topic }) => topic.length));
  return findings
    .map(({ topic, status, detail, remedy }) => {
      const line = `${status.padEnd('missing'.length)}  ${topic.padEnd(width)}  ${detail}\n`;
      return remedy === undefined ? line : `${line}${' '.repeat('missing'.length + 2)}→ ${remedy}\n`;
    })
    .join('');
}
