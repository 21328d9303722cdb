// Adds and takes jobs with BullMQ on the Redis at REDIS_PORT, and prints microseconds a job.
import { Queue, Worker } from "bullmq";

const jobs = Number(process.env.JOBS ?? 2500);
const connection = { host: "127.0.0.1", port: Number(process.env.REDIS_PORT), maxRetriesPerRequest: null };
const queue = new Queue("jobs", { connection });
await queue.waitUntilReady();
const batch = (from) => Array.from({ length: 500 }, (_, n) => ({ name: "job", data: { id: from + n } }));

async function round() {
  let taken = 0;
  let done;
  const finished = new Promise((resolve) => (done = resolve));
  const worker = new Worker("jobs", async () => {}, { connection, concurrency: 100, autorun: false, removeOnComplete: { count: 0 } });
  worker.on("completed", () => { if (++taken === jobs) done(); });
  await worker.waitUntilReady();
  const started = process.hrtime.bigint();
  worker.run();
  for (let from = 0; from < jobs; from += 500) await queue.addBulk(batch(from));
  await finished;
  const micros = Number(process.hrtime.bigint() - started) / 1000 / jobs;
  await worker.close();
  return micros;
}

await round(); // warm
const rounds = [];
for (let n = 0; n < 7; n += 1) rounds.push(await round());
rounds.sort((a, b) => a - b);
console.log(rounds[3].toFixed(2));
await queue.close();
