// Tasks as rows: what each is about in one line.

import { html } from "../core/html.js";
import { duration } from "../core/format.js";
import { now } from "../core/live.js";
import { href } from "../core/router.js";
import { State, Theirs, Time } from "./basics.js";
import { PipelineLink } from "./frame.js";
import { Cell, Table } from "./table.js";

/** How long it ran, or runs since. */
export function tookMs(task) {
  if (!task.started_at) return undefined;
  const end = task.ended_at ? Date.parse(task.ended_at) : now.value;
  // The begin is the member's clock and the end the store's; they may differ by a millisecond.
  return Math.max(0, end - Date.parse(task.started_at));
}

/** What to know of it beside its state. */
function noteOf(task) {
  if (task.waiting) return task.waiting.text;
  const error = task.errors?.at(-1);
  if (error && task.state !== "completed") return `${error.code}: ${error.message}`;
  if (task.options?.key) return `key ${task.options.key}`;
  return "";
}

function Row({ task, withPipeline }) {
  const note = noteOf(task);
  const path = href.task(task.application, task.id);
  return html`<tr data-href=${path}>
    <${Cell} name="State"><${State} name=${task.state} /><//>
    <${Cell} name="Task"><a class="mono" href=${path}>${task.id}</a><//>
    ${withPipeline &&
    html`<${Cell} name="Pipeline" kind="name"><${PipelineLink} app=${task.application} name=${task.pipeline} /><//>`}
    <${Cell} name="Attempt" kind="name">${task.attempt} of ${task.max_attempts}<//>
    <${Cell} name="Accepted"><${Time} at=${task.accepted_at} /><//>
    <${Cell} name="Took" kind="number">${task.started_at && duration(tookMs(task))}<//>
    <${Cell} name="Note" kind="wide">${note && html`<span class="clip"><${Theirs} text=${note} max=${240} /></span>`}<//>
  </tr>`;
}

export function TaskRows({ tasks, withPipeline }) {
  const columns = ["State", "Task", ...(withPipeline ? ["Pipeline"] : []), "Attempt", "Accepted", "#Took", "Note"];
  return html`<${Table} label="Tasks" columns=${columns}>
    ${tasks.map((task) => html`<${Row} key=${task.id} task=${task} withPipeline=${withPipeline} />`)}
  <//>`;
}
