// What a pipeline consists of: its shards and their owners, its workers, its steps and options, and how to submit.

import { html } from "../core/html.js";
import { bytes, count, many, quoted } from "../core/format.js";
import { print } from "../core/json.js";
import { pipelinePath, read } from "../core/api.js";
import { useRead } from "../core/live.js";
import { Card, Command, Facts, Loaded, Soft, State, Theirs, Time } from "../part/basics.js";
import { Cell, Table } from "../part/table.js";

const SHARD_COLUMNS = [
  "Partition", "Status", "Owner", "#Epoch", "#Backlog", "Oldest",
  "#Running", "Waits", "#Watermark", "#Memory", "Claimed",
];
const WORKER_COLUMNS = ["Worker", "State", "#Leases", "#Slots", "Labels", "Member", "Since", "Seen"];
const EVERY_MS = 5_000;

function waits(shard) {
  const reasons = Object.entries(shard.waiting ?? {});
  return reasons.map(([reason, n]) => `${reason} ${count(n)}`).join(", ");
}

function Shard({ shard }) {
  return html`<tr>
    <${Cell} name="Partition">${shard.partition}<//>
    <${Cell} name="Status"><${State} name=${shard.status} /><//>
    <${Cell} name="Owner" kind="name" text=${shard.owner} mono />
    <${Cell} name="Epoch" kind="number">${count(shard.epoch)}<//>
    <${Cell} name="Backlog" kind="number">${count(shard.backlog)}<//>
    <${Cell} name="Oldest"><${Time} at=${shard.backlog > 0 ? shard.backlog_since : undefined} /><//>
    <${Cell} name="Running" kind="number">${count(shard.states?.running)}<//>
    <${Cell} name="Waits" kind="some" text=${waits(shard)} />
    <${Cell} name="Watermark" kind="number">${count(shard.watermark)} <span class="soft">of ${count(shard.log_end)}</span><//>
    <${Cell} name="Memory" kind="number">${bytes(shard.bytes)}<//>
    <${Cell} name="Claimed"><${Time} at=${shard.claimed_at} /><//>
  </tr>`;
}

export function Shards({ path }) {
  const shards = useRead((signal) => read(`${path}/shards`, { signal }), [path], { everyMs: EVERY_MS });
  const more = shards.value && html`<${Soft}>${many(shards.value.shards.length, "partition")}<//>`;
  return html`<${Card} title="Shards" flush more=${more}>
    <${Loaded} read=${shards} what="shards">${(value) => html`
      <${Table} label="Shards" columns=${SHARD_COLUMNS}>
        ${value.shards.map((shard) => html`<${Shard} key=${shard.partition} shard=${shard} />`)}
      <//>`}<//>
  <//>`;
}

function Worker({ worker }) {
  return html`<tr>
    <${Cell} name="Worker" kind="name" text=${worker.worker} mono />
    <${Cell} name="State"><${State} name=${worker.polling ? "polling" : "busy"} /><//>
    <${Cell} name="Leases" kind="number">${count(worker.leases)}<//>
    <${Cell} name="Slots" kind="number">
      ${count(worker.slots)}${worker.credit !== undefined && html` <span class="soft">and ${count(worker.credit)} free</span>`}
    <//>
    <${Cell} name="Labels" text=${(worker.labels ?? []).join(", ")} />
    <${Cell} name="Member" kind="name" text=${worker.member} mono />
    <${Cell} name="Since"><${Time} at=${worker.since} /><//>
    <${Cell} name="Seen"><${Time} at=${worker.last_seen} /><//>
  </tr>`;
}

function howMany({ workers, more, absent }) {
  const beyond = more > 0 ? ` and ${count(more)} more` : "";
  return `${many(workers.length, "worker")}${beyond}${absent > 0 ? `; ${count(absent)} could not be asked` : ""}`;
}

export function Workers({ path }) {
  const workers = useRead((signal) => read(`${path}/workers`, { signal }), [path], { everyMs: EVERY_MS });
  return html`<${Card} title="Workers" flush more=${workers.value && html`<${Soft}>${howMany(workers.value)}<//>`}>
    <${Loaded} read=${workers} what="workers">${(value) =>
      value.workers.length === 0
        ? html`<p class="empty">No worker asks for its tasks.
            Start a <code>workload-agent</code>, or a program with <code>worker-sdk</code>.</p>`
        : html`<${Table} label="Workers" columns=${WORKER_COLUMNS}>
            ${value.workers.map((worker) => html`<${Worker} key=${worker.worker} worker=${worker} />`)}
          <//>`}<//>
  <//>`;
}

function optionText(value) {
  return typeof value === "object" ? print(value).replaceAll(/\s+/g, " ") : String(value);
}

export function Definition({ pipeline }) {
  const options = Object.entries(pipeline.options);
  return html`<${Card} title="Steps and options">
    ${pipeline.pipeline.length === 0
      ? html`<p class="soft">No steps: workers with <code>worker-sdk</code> run its tasks.</p>`
      : html`<ol class="steps-list">${pipeline.pipeline.map((step, i) => html`<li><b>${i + 1}</b> <${Theirs} text=${step.executor} />
          <pre class="text" tabindex="0" aria-label=${`Commands of step ${i + 1}`}>${step.commands.join("\n")}</pre></li>`)}</ol>`}
    <div class="gap"><${Facts} rows=${[
      ...options.map(([name, value]) => [name, html`<${Theirs} text=${optionText(value)} />`]),
      ["lease", pipeline.lease],
      ["number", `${pipeline.number}, revision ${pipeline.revision}`],
      ["made", html`<${Time} at=${pipeline.created_at} />`],
    ]} /></div>
  <//>`;
}

/** The fields that the steps' placeholders need. */
function placeholders(pipeline) {
  const commands = pipeline.pipeline.flatMap((step) => step.commands).join("\n");
  return [...new Set([...commands.matchAll(/\{\{\s*([^{}\s]+)\s*\}\}/g)].map(([, name]) => name))];
}

export function Submitting({ pipeline }) {
  const url = location.origin + pipelinePath(pipeline.application, pipeline.name);
  const data = Object.fromEntries(placeholders(pipeline).map((name) => [name, "…"]));
  const takes = pipeline.state === "active" || pipeline.state === "paused";
  return html`<${Card} title="Submit a task">
    <${Command} text=${`curl -X POST ${quoted(`${url}?wait=10s`)} -d ${quoted(JSON.stringify(data))}`} />
    ${!takes && html`<p class="soft small">It is ${pipeline.state} and takes no tasks now.</p>`}
  <//>`;
}
