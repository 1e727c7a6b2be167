// A coordinator that listens: the control side of a run on the machine that owns it.
import { Coordinator, type CoordinatorOptions } from '../cluster/coordinator.ts';
import { webSocketChannel } from './control-websocket.ts';
import { type LinkSecurity, readTls } from './link-security.ts';
import { EDGE_PATH } from './node-transport.ts';
import { type ConnectionHandler, type Listener, listen } from './websocket-server.ts';

export const CONTROL_PATH = '/control';

export interface HostOptions extends Omit<CoordinatorOptions, 'driverUrl'>, LinkSecurity {
  host: string;
  port: number;
  token: string;
  /** The driver's data links, where there is a driver. */
  onEdge?: ConnectionHandler;
}

export interface CoordinatorHost {
  coordinator: Coordinator;
  port: number;
  url: string;
  close(): Promise<void>;
}

/** Starts to listen. Rejects with ConfigError or TransportError when it cannot. */
export async function hostCoordinator({
  host,
  port,
  token,
  onEdge,
  ...options
}: HostOptions): Promise<CoordinatorHost> {
  const coordinator = new Coordinator({ ...options, driverUrl: () => (onEdge ? listener.url : '') });
  const listener: Listener = await listen({
    host,
    port,
    token,
    insecure: options.insecure,
    tls: await readTls(options),
    routes: {
      [CONTROL_PATH]: (socket) => coordinator.accept(webSocketChannel(socket)),
      ...(onEdge ? { [EDGE_PATH]: onEdge } : {}),
    },
  }).catch((error: unknown) => {
    coordinator.close();
    throw error;
  });
  return {
    coordinator,
    port: listener.port,
    url: listener.url,
    async close() {
      coordinator.close();
      await listener.close();
    },
  };
}
