// Adds and takes jobs with BullMQ on the Redis at REDIS_PORT, and prints the processor time of both in microseconds a job,
// and the time that went by.
import { Queue, Worker } from "bullmq";
import { Redis } from "ioredis";

const jobs = Number(process.env.JOBS ?? 2500);
const connection = { host: "127.0.0.1", port: Number(process.env.REDIS_PORT), maxRetriesPerRequest: null };
const queue = new Queue("jobs", { connection });
const redis = new Redis(connection);
await queue.waitUntilReady();
const batch = (from) => Array.from({ length: 500 }, (_, n) => ({ name: "job", data: { id: from + n } }));

// Processor time of this process and of Redis, microseconds.
async function spent() {
  const { user, system } = process.cpuUsage();
  const told = await redis.info("cpu");
  const seconds = (name) => Number(told.match(new RegExp(`${name}:([0-9.]+)`))[1]);
  return user + system + (seconds("used_cpu_user") + seconds("used_cpu_sys")) * 1e6;
}

async function round() {
  let taken = 0;
  let done;
  const finished = new Promise((resolve) => (done = resolve));
  const worker = new Worker("jobs", async () => {}, { connection, concurrency: 100, autorun: false, removeOnComplete: { count: 0 } });
  worker.on("completed", () => { if (++taken === jobs) done(); });
  await worker.waitUntilReady();
  const [before, started] = [await spent(), process.hrtime.bigint()];
  worker.run();
  for (let from = 0; from < jobs; from += 500) await queue.addBulk(batch(from));
  await finished;
  const elapsed = Number(process.hrtime.bigint() - started) / 1000 / jobs;
  const processor = ((await spent()) - before) / jobs;
  await worker.close();
  return { processor, elapsed };
}

await round(); // warm
const rounds = [];
for (let n = 0; n < 7; n += 1) rounds.push(await round());
const median = (name) => rounds.map((round) => round[name]).sort((a, b) => a - b)[3];
console.log(`${median("processor").toFixed(2)} ${median("elapsed").toFixed(2)}`);
await queue.close();
redis.disconnect();
