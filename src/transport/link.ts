// An ordered pipe of whole messages between two ends: all that the block transport asks of a network. A WebSocket, a
// pair of queues in one process and a relayed connection are links; none of them knows what a frame means.

/** Takes one message as the pieces in which it arrived; their concatenation is the message. Pieces may be kept. */
export type FrameListener = (pieces: readonly Uint8Array[]) => void;

/** Told once that a link is gone: without an error when one end closed it in good order. */
export type CloseListener = (error?: Error) => void;

export interface Link {
  /**
   * Sends `header` followed by `payload` as one message. Messages arrive in the order of these calls. Resolves when the
   * bytes have been handed to the network and their memory may be reused; rejects when the link closes before that.
   */
  send(header: Uint8Array, payload?: Uint8Array): Promise<void>;
  /** Sets the one listener for messages; a later call replaces it. Messages wait until there is one. */
  onFrame(listener: FrameListener): void;
  /** Sets the one listener for the end of the link; a later call replaces it. Is called even if the end came before. */
  onClose(listener: CloseListener): void;
  /** Closes in good order: what was sent before still arrives. Idempotent. */
  close(): void;
  /** Drops the link at once, with whatever is under way. Idempotent. */
  terminate(): void;
}
