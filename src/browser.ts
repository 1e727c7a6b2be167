// What a page gets.
export * from './common.ts';

// Engine
export { createEngine } from './web/engine.ts';
