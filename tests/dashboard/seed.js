// Tasks of every kind in a fresh `workload dev`: done, failing, running, waiting, paused, loud and hostile.

import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { until } from "./dev.js";

/** Text that must stay text: markup, a script, a template, letters that turn the line, and one very long word. */
export const HOSTILE =
  `<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>\${window.hacked=1}{{7*7}}` +
  `\u202eesrever\u202c مرحبا بالعالم ${"long".repeat(120)}`;

/** Options of a task that is done: the factor is shown as 2.0. */
const DONE = { metadata: { customer: "a-17", note: "<i>x</i>" }, priority: 7, retry: { factor: 2 } };
const PIPELINES = "/applications/shop/pipelines";

function deep(levels) {
  let value = "the bottom";
  for (let i = 0; i < levels; i += 1) value = i % 2 ? [value] : { inner: value };
  return value;
}

/** A program that says a line, waits for a file of that name beside it, says another line, and ends. */
function liveProgram(directory) {
  const path = join(directory, "live.sh");
  writeFileSync(path, `#!/bin/sh\necho first line of $1\nwhile [ ! -e "${directory}/$1" ]; do sleep 0.05; done\necho last line\n`);
  chmodSync(path, 0o755);
  return path;
}

/** Answers the ids of tasks by what they are. */
export async function seed(dev) {
  const make = (name, pipeline, options = {}) => dev.call("POST", PIPELINES, { name, pipeline, options });
  const submit = async (name, data, options = {}) => (await dev.call("POST", `${PIPELINES}/${name}/tasks`, { data, options })).id;
  const task = (id) => dev.call("GET", `/applications/shop/tasks/${id}`);
  const twice = { retry: { max_attempts: 2, initial: "50ms" } };
  await make("hello", [
    { executor: "echo", commands: ["echo hello {{name}}", "echo and again {{name}}"] },
    { executor: "wc", commands: ["echo the last step"] },
  ]);
  await make("fails", [{ executor: "ls", commands: ["ls {{path}}"] }], twice);
  await make("slow", [{ executor: "sleep", commands: ["sleep 600"] }]);
  await make("live", [{ executor: "live", commands: [`${liveProgram(dev.directory)} {{name}}`] }]);
  await make("loud", [{ executor: "seq", commands: ["seq 1 {{to}}"] }]);
  await make("held", [{ executor: "echo", commands: ["echo {{name}}"] }]);
  await dev.call("POST", `${PIPELINES}/held/pause`, { by: "<b>mallory</b>", reason: HOSTILE.slice(0, 250) });
  const ids = { done: await submit("hello", { name: "world" }, DONE) };
  for (const name of ["Ada", "Grace", "Edsger", "Barbara"]) await submit("hello", { name });
  const metadata = { "<u>name</u>": HOSTILE.slice(0, 200) };
  ids.hostile = await submit("hello", { name: HOSTILE, "<b>key</b>": HOSTILE }, { metadata });
  ids.deep = await submit("hello", { name: "deep", deep: deep(60), list: [null, true, false, 1.5] });
  ids.dead = await submit("fails", { path: "/does/not/exist" });
  for (const path of ["/also/missing", "/and/this"]) await submit("fails", { path });
  ids.deadHostile = await submit("fails", { path: `/${HOSTILE.slice(0, 150)}` });
  ids.running = await submit("slow", {});
  for (let i = 0; i < 9; i += 1) ids.waits = await submit("slow", { i });
  ids.later = await submit("hello", { name: "later" }, { delay: "2h" });
  ids.live = await submit("live", { name: "go" });
  ids.loud = await submit("loud", { to: 140_000 });
  for (let i = 0; i < 3; i += 1) ids.held = await submit("held", { name: `held ${i}` });
  const settled = (id, states) => until(`task ${id} is ${states}`, async () => states.includes((await task(id)).state));
  await settled(ids.dead, ["discarded"]);
  await settled(ids.deadHostile, ["discarded"]);
  await settled(ids.deep, ["completed"]);
  await settled(ids.hostile, ["completed"]);
  await settled(ids.loud, ["completed", "discarded"]);
  await settled(ids.running, ["running"]);
  await settled(ids.live, ["running"]);
  return ids;
}
