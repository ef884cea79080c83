// Submit images to a server (`spheroseg serve`) from another language: JavaScript, Node 18 or newer, no packages.
//
// Usage: TOKEN=... node producer.mjs http://127.0.0.1:8080 IMAGE...
//
// Everything goes through HTTP. Do not write to the queues of RabbitMQ: their messages are internal.

import { readFile } from "node:fs/promises";
import { basename } from "node:path";

const [server, ...paths] = process.argv.slice(2);

async function call(path, options = {}) {
  const headers = { Authorization: `Bearer ${process.env.TOKEN}`, ...options.headers };
  const answer = await fetch(`${server}/api${path}`, { ...options, headers });
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return answer;
}

async function post(path, body, headers = {}) {
  const json = { "Content-Type": "application/json", ...headers };
  return (await call(path, { method: "POST", headers: json, body: JSON.stringify(body) })).json();
}

const project = await post("/projects", { name: `example ${Date.now()}` });

const form = new FormData();
for (const path of paths) form.append("files", new Blob([await readFile(path)]), basename(path));
await call(`/projects/${project.id}/images`, { method: "POST", body: form });

const key = { "Idempotency-Key": `example-${project.id}` };
let batch = await post("/segmentation/batches", { project_id: project.id }, key);

while (!["completed", "completed_with_errors", "failed", "cancelled"].includes(batch.state)) {
  await new Promise((resolve) => setTimeout(resolve, 1000));
  batch = await (await call(`/segmentation/batches/${batch.id}`)).json();
}
console.log(`batch ${batch.id}: ${batch.state}`);

const results = await (await call(`/segmentation/batches/${batch.id}/results`)).json();
for (const item of results.items) console.log(`${item.image}: ${item.objects.length} objects`);
