// Rules for the text of a shader, besides those of its compiler. Pure: a file's text in, broken rules out.

/** One broken rule. */
export interface ShaderFinding {
  /** Counted from 1. */
  line: number;
  rule: string;
}

/**
 * `var x: T;` without a value inside a loop: WGSL says that it is zero in every iteration, but the Vulkan back ends zero it
 * once, on entry to the function. Outside of loops it is harmless, and inside `var x = T();` says what is meant.
 */
export function checkShader(text: string): ShaderFinding[] {
  const findings: ShaderFinding[] = [];
  /** For each open brace, whether it is the body of a loop. */
  const blocks: boolean[] = [];
  let opensLoop = false;
  for (const [index, line] of text.split('\n').entries()) {
    const code = line.replace(/\/\/.*$/, '');
    if (blocks.includes(true) && /\bvar\s+\w+\s*:\s*[^=;]+;/.test(code)) {
      findings.push({
        line: index + 1,
        rule: 'write `var x = T();`: a bare `var x: T;` in a loop is not zeroed again',
      });
    }
    for (const [token] of code.matchAll(/\b(?:for|while|loop)\b|[{}]/g)) {
      if (token === '{') {
        blocks.push(opensLoop);
        opensLoop = false;
      } else if (token === '}') blocks.pop();
      else opensLoop = true;
    }
  }
  return findings;
}
