// The tensors of `kvring run`: which names of a file are which inputs of a call, and which results are written under which
// names. A file holds what its command line uses and nothing else.
import {
  type AttentionCall,
  type AttentionGradients,
  type AttentionInputs,
  type AttentionResult,
  checkDout,
  queryShape,
} from '../attention/call.ts';
import { ConfigError } from '../errors.ts';
import type { HostTensor } from '../tensor/tensor.ts';

/** Names of files, and of the inputs that they stand for. */
const INPUT_NAMES: Readonly<Record<string, keyof AttentionInputs>> = {
  q: 'q',
  k: 'k',
  v: 'v',
  bias: 'bias',
  sink: 'sink',
  alibi_slopes: 'alibiSlopes',
  cu_seqlens_q: 'cuSeqlensQ',
  cu_seqlens_kv: 'cuSeqlensKv',
  cu_seqlens_q_padded: 'cuSeqlensQPadded',
  cu_seqlens_kv_padded: 'cuSeqlensKvPadded',
};
const DOUT = 'dout';

export interface RunTensors {
  inputs: AttentionInputs;
  /** The gradient of out, for `--backward`. */
  dout: HostTensor | undefined;
}

/**
 * The inputs that a file holds. Throws ConfigError ERR_FILE without q, k and v, or with a tensor that kvring has no name
 * for: what changes the result and is not looked at would make the result wrong.
 */
export function pickTensors(path: string, tensors: ReadonlyMap<string, HostTensor>): RunTensors {
  const held = `got ${[...tensors.keys()].join(', ') || 'no tensor'}`;
  const [q, k, v] = ['q', 'k', 'v'].map((name) => tensors.get(name));
  if (!q || !k || !v) {
    const missing = ['q', 'k', 'v'].filter((name) => !tensors.has(name)).join(', ');
    throw new ConfigError('ERR_FILE', `run: ${path} must hold q, k and v, ${held}; missing ${missing}`);
  }
  const unknown = [...tensors.keys()].find((name) => name !== DOUT && !Object.hasOwn(INPUT_NAMES, name));
  if (unknown !== undefined) {
    throw new ConfigError('ERR_FILE', `run: '${unknown}' is no tensor that kvring knows, ${held} in ${path}`);
  }
  const named = [...tensors].filter(([name]) => name !== DOUT).map(([name, tensor]) => [INPUT_NAMES[name], tensor]);
  return { inputs: { q, k, v, ...(Object.fromEntries(named) as Partial<AttentionInputs>) }, dout: tensors.get(DOUT) };
}

/** Throws ConfigError unless dout is there exactly when gradients are wanted, with the shape and dtype of out. */
export function checkGradientInput(dout: HostTensor | undefined, backward: boolean, call: AttentionCall): void {
  if (dout !== undefined && !backward) {
    throw new ConfigError('ERR_OPTION', 'run: the tensor dout is for --backward; add it or leave the tensor out');
  }
  if (!backward) return;
  if (dout === undefined) {
    const expected = queryShape(call, call.shape.headDimV).join(', ');
    throw new ConfigError('ERR_OPTION', `run: --backward needs the tensor dout [${expected}], got none`);
  }
  checkDout(dout, call);
}

/** Results under the names of a file, in the order of the design: out, lse, max_logit, then gradients. */
export function nameResults(
  { out, lse, maxLogit }: AttentionResult,
  gradients: AttentionGradients | undefined,
): Record<string, HostTensor> {
  return { out, lse, ...(maxLogit && { max_logit: maxLogit }), ...gradients };
}
