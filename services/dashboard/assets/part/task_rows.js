// Tasks as rows: what each is about in one line.

import { html } from "../core/html.js";
import { duration } from "../core/format.js";
import { now } from "../core/live.js";
import { href } from "../core/router.js";
import { State, Theirs, Time } from "./basics.js";
import { PipelineLink } from "./frame.js";

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

export function TaskRows({ tasks, withPipeline }) {
  return html`<div class="scroll" tabindex="0" role="group" aria-label="Tasks"><table class="rows folds">
    <thead><tr><th>State</th><th>Task</th>${withPipeline && html`<th>Pipeline</th>`}<th>Attempt</th><th>Accepted</th><th class="number">Took</th><th>Note</th></tr></thead>
    <tbody>${tasks.map((task) => {
      const note = noteOf(task);
      return html`<tr key=${task.id} data-href=${href.task(task.application, task.id)}>
        <td data-name="State"><${State} name=${task.state} /></td>
        <td data-name="Task"><a class="mono" href=${href.task(task.application, task.id)}>${task.id}</a></td>
        ${withPipeline && html`<td data-name="Pipeline" class="name"><${PipelineLink} app=${task.application} name=${task.pipeline} /></td>`}
        <td data-name="Attempt"><span class="nowrap">${task.attempt} of ${task.max_attempts}</span></td>
        <td data-name="Accepted"><${Time} at=${task.accepted_at} /></td>
        <td data-name="Took" class="number">${task.started_at && html`<span>${duration(tookMs(task))}</span>`}</td>
        <td data-name="Note" class="wide">${note && html`<span class="clip"><${Theirs} text=${note} max=${240} /></span>`}</td>
      </tr>`;
    })}</tbody>
  </table></div>`;
}
