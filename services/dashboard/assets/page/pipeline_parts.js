// What a pipeline consists of: its shards and their owners, its workers, its steps and options, and how to submit.

import { html } from "../core/html.js";
import { bytes, count, many, quoted } from "../core/format.js";
import { print } from "../core/json.js";
import { pipelinePath, read } from "../core/api.js";
import { useRead } from "../core/live.js";
import { Card, Command, Facts, Loaded, State, Theirs, Time } from "../part/basics.js";

const EVERY_MS = 5_000;

function waits(shard) {
  const reasons = Object.entries(shard.waiting ?? {});
  return reasons.map(([reason, n]) => `${reason} ${count(n)}`).join(", ");
}

function Shard({ shard }) {
  return html`<tr>
    <td data-name="Partition">${shard.partition}</td>
    <td data-name="Status"><${State} name=${shard.status} /></td>
    <td data-name="Owner"><${Theirs} text=${shard.owner} mono /></td>
    <td data-name="Epoch" class="number"><span>${count(shard.epoch)}</span></td>
    <td data-name="Backlog" class="number"><span>${count(shard.backlog)}</span></td>
    <td data-name="Oldest"><${Time} at=${shard.backlog > 0 ? shard.backlog_since : undefined} /></td>
    <td data-name="Running" class="number"><span>${count(shard.states?.running)}</span></td>
    <td data-name="Waits"><${Theirs} text=${waits(shard)} /></td>
    <td data-name="Watermark" class="number"><span>${count(shard.watermark)} <span class="soft">of ${count(shard.log_end)}</span></span></td>
    <td data-name="Memory" class="number"><span>${bytes(shard.bytes)}</span></td>
    <td data-name="Claimed"><${Time} at=${shard.claimed_at} /></td>
  </tr>`;
}

export function Shards({ path }) {
  const shards = useRead((signal) => read(`${path}/shards`, { signal }), [path], { everyMs: EVERY_MS });
  return html`<${Card} title="Shards" flush more=${shards.value && html`<span class="soft small">${many(shards.value.shards.length, "partition")}</span>`}>
    <${Loaded} read=${shards} what="shards">${(value) => html`
      <div class="scroll" tabindex="0" role="group" aria-label="Shards"><table class="rows folds">
        <thead><tr><th>Partition</th><th>Status</th><th>Owner</th><th class="number">Epoch</th><th class="number">Backlog</th><th>Oldest</th><th class="number">Running</th><th>Waits</th><th class="number">Watermark</th><th class="number">Memory</th><th>Claimed</th></tr></thead>
        <tbody>${value.shards.map((shard) => html`<${Shard} key=${shard.partition} shard=${shard} />`)}</tbody>
      </table></div>`}<//>
  <//>`;
}

function Worker({ worker }) {
  return html`<tr>
    <td data-name="Worker"><${Theirs} text=${worker.worker} max=${120} mono /></td>
    <td data-name="State"><${State} name=${worker.polling ? "polling" : "busy"} /></td>
    <td data-name="Leases" class="number"><span>${count(worker.leases)}</span></td>
    <td data-name="Slots" class="number"><span>${count(worker.slots)}${worker.credit !== undefined && html` <span class="soft">and ${count(worker.credit)} free</span>`}</span></td>
    <td data-name="Labels"><${Theirs} text=${(worker.labels ?? []).join(", ")} /></td>
    <td data-name="Member"><${Theirs} text=${worker.member} mono /></td>
    <td data-name="Since"><${Time} at=${worker.since} /></td>
    <td data-name="Seen"><${Time} at=${worker.last_seen} /></td>
  </tr>`;
}

export function Workers({ path }) {
  const workers = useRead((signal) => read(`${path}/workers`, { signal }), [path], { everyMs: EVERY_MS });
  return html`<${Card} title="Workers" flush more=${workers.value && html`<span class="soft small">${many(workers.value.workers.length, "worker")}${
    workers.value.more > 0 ? ` and ${count(workers.value.more)} more` : ""}${
    workers.value.absent > 0 ? `; ${count(workers.value.absent)} could not be asked` : ""}</span>`}>
    <${Loaded} read=${workers} what="workers">${(value) =>
      value.workers.length === 0
        ? html`<p class="empty">No worker asks for its tasks. Start a <code>workload-agent</code>, or a program with <code>worker-sdk</code>.</p>`
        : html`<div class="scroll" tabindex="0" role="group" aria-label="Workers"><table class="rows folds">
            <thead><tr><th>Worker</th><th>State</th><th class="number">Leases</th><th class="number">Slots</th><th>Labels</th><th>Member</th><th>Since</th><th>Seen</th></tr></thead>
            <tbody>${value.workers.map((worker) => html`<${Worker} key=${worker.worker} worker=${worker} />`)}</tbody>
          </table></div>`}<//>
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
