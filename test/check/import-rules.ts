// Who may import whom. Pure: file texts in, broken rules out. The map is the one of src/README.md: imports only point down.
import { dirname, join, normalize } from 'node:path/posix';
import ts from 'typescript';

/** One broken rule. */
export interface Finding {
  file: string;
  /** Counted from 1. */
  line: number;
  rule: string;
}

const PURE = ['errors', 'tensor', 'attention', 'trace', 'plan'];
const BYTES = ['errors', 'trace', 'plan', 'transport', 'cluster', 'parallel'];
const LIBRARY = [...new Set([...PURE, ...BYTES, 'gpu', 'context-parallel', 'transformer', 'training'])];

/** What each folder of src may import besides itself. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  errors: [],
  tensor: ['errors'],
  attention: ['errors', 'tensor'],
  trace: ['errors'],
  plan: ['errors', 'tensor', 'attention'],
  gpu: PURE,
  transport: ['errors', 'trace', 'plan'],
  cluster: ['errors', 'trace', 'plan', 'transport'],
  parallel: ['errors', 'trace', 'plan', 'transport', 'cluster'],
  'context-parallel': [...PURE, ...BYTES, 'gpu'],
  transformer: [...PURE, ...BYTES, 'gpu', 'context-parallel'],
  training: [...PURE, ...BYTES, 'gpu', 'context-parallel', 'transformer'],
  node: LIBRARY,
  web: LIBRARY,
  cli: [...LIBRARY, 'node', 'bench'],
  common: LIBRARY,
  index: ['common', ...LIBRARY, 'node'],
  browser: ['common', ...LIBRARY, 'web'],
};

/** Packages that a folder of src may import; bench and test may import any. */
const MAY_USE: Readonly<Record<string, RegExp>> = {
  node: /^(node:.*|ws|webgpu)$/,
  cli: /^commander$/,
};

const PAGE_GLOBALS = ['window', 'document', 'Worker'];

/** Checks directions, packages, page globals, the two index files, and cycles. `files` maps posix paths to texts. */
export function checkImports(files: ReadonlyMap<string, string>): Finding[] {
  const findings: Finding[] = [];
  const graph = new Map<string, Edge[]>();
  for (const [file, text] of files) {
    const source = ts.createSourceFile(file, text, ts.ScriptTarget.Latest, true);
    const imports = listImports(source);
    for (const { specifier, line } of imports) {
      const rule = specifier.startsWith('.')
        ? checkDirection(file, resolvePath(file, specifier))
        : checkPackage(file, specifier);
      if (rule) findings.push({ file, line, rule });
    }
    const local = imports.filter(({ specifier }) => specifier.startsWith('.'));
    graph.set(
      file,
      local.map(({ specifier, line }) => ({ line, target: resolvePath(file, specifier) })),
    );
    findings.push(...checkGlobals(file, source), ...checkReexports(file, source));
  }
  return [...findings, ...findCycles(graph)];
}

/** `gpu` for src/gpu/device.ts, `errors` for src/errors.ts, `bench` and `test` for what lies beside src. */
function areaOf(path: string): string {
  const [top, next = ''] = path.split('/');
  return top === 'src' ? next.replace(/\.ts$/, '') : (top ?? '');
}

function resolvePath(file: string, specifier: string): string {
  return normalize(join(dirname(file), specifier));
}

function checkDirection(file: string, target: string): string | undefined {
  const [from, to] = [areaOf(file), areaOf(target)];
  if (from === to || from === 'test' || (from === 'bench' && to !== 'test')) return undefined;
  return MAY_IMPORT[from]?.includes(to) ? undefined : `${from} must not import ${to} (${target})`;
}

function checkPackage(file: string, specifier: string): string | undefined {
  const area = areaOf(file);
  if (area === 'test' || area === 'bench' || MAY_USE[area]?.test(specifier)) return undefined;
  return `${area} must not import the package ${specifier}`;
}

interface ImportSite {
  specifier: string;
  line: number;
}

function lineOf(source: ts.SourceFile, node: ts.Node): number {
  return source.getLineAndCharacterOfPosition(node.getStart(source)).line + 1;
}

function listImports(source: ts.SourceFile): ImportSite[] {
  const sites: ImportSite[] = [];
  const visit = (node: ts.Node): void => {
    let specifier: ts.Node | undefined;
    if (ts.isImportDeclaration(node) || ts.isExportDeclaration(node)) specifier = node.moduleSpecifier;
    else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword) {
      specifier = node.arguments[0];
    } else if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument)) specifier = node.argument.literal;
    if (specifier && ts.isStringLiteral(specifier))
      sites.push({ specifier: specifier.text, line: lineOf(source, node) });
    ts.forEachChild(node, visit);
  };
  visit(source);
  return sites;
}

/** Uses of the globals of a page outside web/; a file that declares the name itself means its own. */
function checkGlobals(file: string, source: ts.SourceFile): Finding[] {
  if (!file.startsWith('src/') || areaOf(file) === 'web') return [];
  const declared = new Set<string>();
  const used: Finding[] = [];
  const visit = (node: ts.Node): void => {
    const isBinding = ts.isVariableDeclaration(node) || ts.isParameter(node) || ts.isBindingElement(node);
    if ((isBinding || ts.isImportSpecifier(node)) && ts.isIdentifier(node.name)) declared.add(node.name.text);
    const isUse = ts.isPropertyAccessExpression(node) || ts.isNewExpression(node) || ts.isCallExpression(node);
    if (isUse && ts.isIdentifier(node.expression) && PAGE_GLOBALS.includes(node.expression.text)) {
      used.push({ file, line: lineOf(source, node), rule: `only web/ may use the global ${node.expression.text}` });
    }
    ts.forEachChild(node, visit);
  };
  visit(source);
  return used.filter(({ rule }) => !declared.has(rule.slice(rule.lastIndexOf(' ') + 1)));
}

function checkReexports(file: string, source: ts.SourceFile): Finding[] {
  if (!['src/common.ts', 'src/index.ts', 'src/browser.ts'].includes(file)) return [];
  return source.statements
    .filter((statement) => !(ts.isExportDeclaration(statement) && statement.moduleSpecifier))
    .map((statement) => ({ file, line: lineOf(source, statement), rule: 'an index file holds re-exports only' }));
}

interface Edge {
  line: number;
  target: string;
}

/** Every import that closes a cycle, with the way round. */
function findCycles(graph: ReadonlyMap<string, readonly Edge[]>): Finding[] {
  const findings: Finding[] = [];
  const done = new Set<string>();
  const path: string[] = [];
  const visit = (file: string): void => {
    if (done.has(file)) return;
    path.push(file);
    for (const { line, target } of graph.get(file) ?? []) {
      const start = path.indexOf(target);
      if (start < 0) visit(target);
      else findings.push({ file, line, rule: `import cycle: ${[...path.slice(start), target].join(' → ')}` });
    }
    path.pop();
    done.add(file);
  };
  for (const file of graph.keys()) visit(file);
  return findings;
}
