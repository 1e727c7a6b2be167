// One way to say that something is refused: the class, the code and the message.
import { expect } from 'chai';
import { ConfigError, type ErrorCode } from '../../src/errors.ts';

/** Expects `act` to throw a ConfigError with this code and a message that matches. */
export function expectConfigError(act: () => unknown, code: ErrorCode, pattern: RegExp): void {
  let thrown: unknown;
  try {
    act();
  } catch (error) {
    thrown = error;
  }
  checkConfigError(thrown, code, pattern);
}

/** Expects `promise` to reject with a ConfigError with this code and a message that matches. */
export async function expectConfigRejection(
  promise: Promise<unknown>,
  code: ErrorCode,
  pattern: RegExp,
): Promise<void> {
  const outcome = await promise.then(
    () => undefined,
    (error: unknown) => error,
  );
  checkConfigError(outcome, code, pattern);
}

function checkConfigError(thrown: unknown, code: ErrorCode, pattern: RegExp): void {
  expect(thrown, 'what was thrown').to.be.instanceOf(ConfigError);
  const error = thrown as ConfigError;
  expect(error.message).to.match(pattern);
  expect(error.code).to.equal(code);
}
