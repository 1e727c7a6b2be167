// Overlap: on a network where a block takes 70 % as long as the compute of a block, the ring takes hardly longer than on
// the same network without a limit. Four ranks with their sockets in this process, a proxy of its own before each.
import { expect } from 'chai';
import { fillOptions } from '../../src/attention/options.ts';
import { gatherShard } from '../../src/attention/layout.ts';
import { GpuBlockAttention } from '../../src/context-parallel/gpu-block-attention.ts';
import { KvExchange } from '../../src/context-parallel/kv-exchange.ts';
import { ringAttention } from '../../src/context-parallel/ring-attention.ts';
import { planRing, type RingCall } from '../../src/context-parallel/ring-plan.ts';
import { acceptEdge, createNodeTransport } from '../../src/node/node-transport.ts';
import { listen } from '../../src/node/websocket-server.ts';
import { createTimeline } from '../../src/trace/timeline.ts';
import { startFaultProxyProcess } from '../helpers/fault-proxy-process.ts';
import { useGpu } from '../helpers/gpu-fixture.ts';
import { seededNormal } from '../helpers/seeded.ts';

const RANKS = 4;
const ROUNDS = 15;
const CHUNK_BYTES = 64 * 1024;
/** Few KV heads: much compute per byte, so that the proxies take no core from it. */
const CALL: RingCall = {
  shape: { batch: 1, seqLenQ: 8192, seqLenKv: 8192, numHeads: 8, numKvHeads: 1, headDimQk: 64, headDimV: 64 },
  options: fillOptions({ maskType: 'causal' }, 64),
  layout: 'zigzag',
  dtype: 'f32',
  storage: 'f32',
  lengths: null,
  bias: null,
  alibi: false,
};

describe('overlap', function () {
  this.timeout(240_000);
  const gpu = useGpu();

  it('hides a transfer of 70 % of the compute of a block: at most 1.10 × the time without a limit', async function () {
    // SwiftShader needs as long for a quarter of the sequence.
    const { shape } = CALL;
    const seqLen = gpu().adapter.name.includes('SwiftShader') ? 2048 : shape.seqLenQ;
    const call = { ...CALL, shape: { ...shape, seqLenQ: seqLen, seqLenKv: seqLen } };
    const network = await startNetwork();
    const ranks = await Promise.all(network.transports.map((_, rank) => loadRank(call, rank)));
    let opSeq = 0;
    const runRing = async (): Promise<number> => {
      opSeq++;
      const startMs = performance.now();
      await Promise.all(
        ranks.map(({ plan, compute }, rank) => {
          const timeline = createTimeline({ rank, enabled: false });
          const transport = network.transports[rank];
          const exchange = new KvExchange({
            plan,
            transport,
            group: [0, 1, 2, 3],
            compute,
            opSeq,
            timeline,
            transfer: {},
          });
          return ringAttention({ plan, compute, exchange, timeline });
        }),
      );
      return performance.now() - startMs;
    };
    try {
      await runRing();
      const { blockBytes } = ranks[0].plan.steps[0];
      const ratios: number[] = [];
      let blockMs = 0;
      for (let round = 0; round < ROUNDS; round++) {
        network.limit(0);
        const freeMs = await runRing();
        // All ranks share one device, so that a step of the ring is a quarter of its time. Measured anew in every round,
        // since the speed of a shared machine drifts.
        blockMs = (0.7 * freeMs) / RANKS;
        network.limit(blockBytes / (blockMs / 1000));
        ratios.push((await runRing()) / freeMs);
      }
      expect(median(ratios), `ratios ${String(ratios)}`).to.be.at.most(1.1);
      // The limit was real: a block alone needs its time.
      expect(await network.timeTransfer(blockBytes)).to.be.above(0.6 * blockMs);
    } finally {
      for (const { compute } of ranks) compute.destroy();
      await network.close();
    }
  });

  async function loadRank(call: RingCall, rank: number) {
    const plan = planRing(call, rank, RANKS);
    const compute = await GpuBlockAttention.create(gpu(), plan);
    const { seqLenQ: seqLen, numHeads, headDimQk } = call.shape;
    const q = gatherShard(
      seededNormal(seqLen * numHeads * headDimQk, 1),
      plan.queryShard,
      1,
      seqLen,
      numHeads * headDimQk,
    );
    compute.writeQ(0, new Uint8Array(q.buffer));
    compute.writeOwnKv(new Uint8Array(seededNormal(plan.steps[0].blockBytes / 4, 2 + rank).buffer));
    return { plan, compute };
  }
});

async function startNetwork() {
  const token = 'overlap';
  const proxyUrls: string[] = [];
  const transports = Array.from({ length: RANKS }, (_, rank) =>
    createNodeTransport({
      rank,
      worldSize: RANKS,
      runHash: 1,
      token,
      chunkBytes: CHUNK_BYTES,
      peerUrl: (peer) => proxyUrls[peer],
    }),
  );
  const servers = await Promise.all(
    transports.map((transport) => listen({ token, routes: { '/edge': (socket) => acceptEdge(transport, socket) } })),
  );
  const proxies = await Promise.all(servers.map(({ port }) => startFaultProxyProcess(port)));
  proxyUrls.push(...proxies.map(({ port }) => `ws://127.0.0.1:${port}`));
  return {
    transports,
    limit: (bytesPerSecond: number): void => proxies.forEach((proxy) => proxy.set({ bytesPerSecond })),
    /** One block over one edge, with nothing else going on, in ms. */
    async timeTransfer(byteLength: number): Promise<number> {
      const block = { opSeq: 1_000_000, step: 0, tensor: 9, byteLength, shapeHash: 0 };
      const startMs = performance.now();
      const received = transports[1].receive(0, block, () => undefined);
      const writer = transports[0].send(1, block);
      for (let at = 0; at < byteLength; at += CHUNK_BYTES) {
        void writer.write(new Uint8Array(Math.min(CHUNK_BYTES, byteLength - at)).fill(7));
      }
      await received;
      return performance.now() - startMs;
    },
    async close(): Promise<void> {
      await Promise.all(transports.map((transport) => transport.close()));
      await Promise.all(servers.map((server) => server.close()));
      await Promise.all(proxies.map((proxy) => proxy.close()));
    },
  };
}

function median(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];
}
