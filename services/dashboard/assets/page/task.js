// One task: where it stands and why, its attempts over time, its data and result, and what can be done to it.

import { html, useState } from "../core/html.js";
import { duration, many, quoted } from "../core/format.js";
import { print, write } from "../core/json.js";
import { act, pipelinePath, Problem, problemOf, read, taskPath } from "../core/api.js";
import { useEvents, useRead } from "../core/live.js";
import { href } from "../core/router.js";
import { Card, Copy, Facts, Head, Live, Loaded, Notice, say, State, Theirs, Time, Trouble } from "../part/basics.js";
import { Dialog } from "../part/dialog.js";
import { PipelineLink } from "../part/frame.js";
import { Json } from "../part/output.js";
import { tookMs } from "../part/task_rows.js";
import { Attempts } from "./attempts.js";

const ENDED = ["completed", "cancelled", "discarded"];

/** A command that submits the same task again. Its own idempotency key would only find this task. */
function asCurl(task) {
  const { idempotency_key: key, delay, run_at: runAt, ...options } = task.options ?? {};
  const url = location.origin + pipelinePath(task.application, task.pipeline, "tasks");
  const body = write(Object.keys(options).length > 0 ? { data: task.data, options } : { data: task.data });
  return `curl -X POST ${quoted(url)} \\\n  -H 'Content-Type: application/json' \\\n  --data-raw ${quoted(body)}`;
}

function Waiting({ task }) {
  const { waiting } = task;
  if (!waiting) return null;
  const link = (id) => html`<a class="mono" href=${href.task(task.application, id)}>${id}</a>`;
  const before = waiting.before_at_most !== undefined && waiting.before_at_most !== waiting.before
    ? `about ${waiting.before} go before it, at most ${waiting.before_at_most}`
    : waiting.before !== undefined && `${many(waiting.before, "task")} before it`;
  return html`<${Notice} kind="waits" title=${`It waits: ${waiting.reason}`}>
    <p><${Theirs} text=${waiting.text} max=${600} /></p>
    <${Facts} rows=${[
      ["until", waiting.until && html`<${Time} at=${waiting.until} />`],
      ["turn", before],
      ["for", waiting.tasks?.length > 0 && html`<span class="ids">${waiting.tasks.map(link)}</span>`],
    ]} />
  <//>`;
}

/** A value of an option; a number may be one that keeps its digits. */
function plainly(value) {
  return typeof value === "string" ? value : print(value);
}

function Options({ options }) {
  const { metadata, retry, labels, non_retryable: codes, ...plain } = options;
  const text = (value) => html`<${Theirs} text=${value} />`;
  return html`<${Facts} rows=${[
    ...Object.entries(plain).map(([name, value]) => [name, name.endsWith("_at") ? html`<${Time} at=${value} />` : text(plainly(value))]),
    ["labels", labels && text(labels.join(", "))],
    ["non_retryable", codes && text(codes.join(", "))],
    ["retry", retry && text(Object.entries(retry).map(([name, value]) => `${name} ${plainly(value)}`).join(", "))],
    ...Object.entries(metadata ?? {}).map(([name, value]) => [html`<${Theirs} text=${name} max=${80} />`, text(value)]),
  ]} />`;
}

/** Asks before something that cannot be taken back. */
function Confirm({ title, text, verb, danger, work, onClose }) {
  const [problem, setProblem] = useState(null);
  const [busy, setBusy] = useState(false);
  async function run() {
    setBusy(true);
    try {
      await work();
      onClose();
    } catch (err) {
      setProblem(problemOf(err));
      setBusy(false);
    }
  }
  const footer = html`<button type="button" onClick=${onClose}>Leave it</button>
    <button type="button" class=${danger ? "danger" : "primary"} disabled=${busy} onClick=${run}>${verb}</button>`;
  return html`<${Dialog} title=${title} onClose=${onClose} footer=${footer}>
    <p>${text}</p>${problem && html`<${Trouble} problem=${problem} />`}
  <//>`;
}

function Summary({ task }) {
  const took = tookMs(task);
  return html`<${Card} title="Task"><${Facts} rows=${[
    ["pipeline", html`<${PipelineLink} app=${task.application} name=${task.pipeline} />`],
    ["attempt", `${task.attempt} of ${task.max_attempts}`],
    ["accepted", html`<${Time} at=${task.accepted_at} />`],
    ["due", task.due_at && !ENDED.includes(task.state) && html`<${Time} at=${task.due_at} />`],
    ["started", task.started_at && html`<${Time} at=${task.started_at} />`],
    ["ended", task.ended_at && html`<${Time} at=${task.ended_at} />`],
    [task.ended_at ? "took" : "runs for", took !== undefined && duration(took)],
    ["worker", task.worker && html`<${Theirs} text=${task.worker} mono />`],
  ]} /><//>`;
}

/** A task's data, or its result where no steps show it already. */
function Values({ task }) {
  const hasSteps = (value) => Array.isArray(value?.steps);
  const values = [
    ["Result", hasSteps(task.result) ? undefined : task.result],
    ["Progress", hasSteps(task.progress) ? undefined : task.progress],
    ["Data", task.data ?? undefined],
  ];
  return values.map(([name, value]) => value !== undefined && html`<${Card} key=${name} title=${name}>
    <${Json} value=${value} label=${name} name=${`${task.id}-${name.toLowerCase()}.json`} />
  <//>`);
}

function Body({ task }) {
  const hasOptions = Object.keys(task.options ?? {}).length > 0;
  return html`
    <${Waiting} task=${task} />
    <div class="beside">
      <div><${Attempts} task=${task} /></div>
      <div>
        <${Summary} task=${task} />
        ${hasOptions && html`<${Card} title="Options"><${Options} options=${task.options} /><//>`}
        <${Values} task=${task} />
      </div>
    </div>`;
}

export function TaskPage({ app, id }) {
  const [task, setTask] = useState(null);
  const [streamed, setStreamed] = useState(null);
  const [asking, setAsking] = useState(null);
  const path = taskPath(app, id);
  const take = (found) => {
    setTask(found);
    setStreamed(null);
  };
  const first = useRead(async (signal) => {
    const found = await read(path, { signal });
    take(found);
    return true;
  }, [path]);
  const over = task && ENDED.includes(task.state);
  const status = useEvents(first.value && !over ? `${path}/events` : null, {
    task: take,
    problem: (problem) => setStreamed(new Problem(problem)),
  });
  const doing = (verb, said) => async () => {
    take(await act(taskPath(app, id, verb)));
    say(said);
  };
  const close = () => setAsking(null);
  const parent = task && html` / <a href=${href.tasks(app, task.pipeline)}>${app}/${task.pipeline}</a>`;
  const isDead = task?.state === "discarded";
  const notDead = isDead ? "" : "Only a discarded task can run again";
  const effect = task?.state === "running"
    ? "Its worker is told to stop; what it has done by then stays done."
    : "It will not run. It stays visible as cancelled.";
  return html`
    <${Head} crumbs=${html`<a href="/tasks">Tasks</a>${parent}`}
      title=${html`<span class="mono">${id}</span>`}
      beside=${task && html`<${State} name=${task.state} />${!over && html`<${Live} status=${status} />`}`}>
      ${task && html`
        <${Copy} label="Copy as curl" small=${false} text=${() => asCurl(task)} />
        <${Copy} label="Copy JSON" small=${false} text=${() => print(task)} />
        <button type="button" disabled=${!isDead} title=${notDead} onClick=${() => setAsking("redrive")}>Redrive</button>
        <button type="button" class="danger" disabled=${over} title=${over ? "It has ended" : ""}
          onClick=${() => setAsking("cancel")}>Cancel</button>`}
    <//>
    ${streamed && html`<${Trouble} problem=${streamed} />`}
    <${Loaded} read=${first} what="the task">${() => task && html`<${Body} task=${task} />`}<//>
    ${asking === "cancel" && html`<${Confirm} title="Cancel this task?" danger verb="Cancel the task" onClose=${close}
      text=${effect} work=${doing("cancel", "The task is cancelled.")} />`}
    ${asking === "redrive" && html`<${Confirm} title="Redrive this task?" verb="Redrive the task" onClose=${close}
      text="It becomes available again with all its attempts, and with the same id and data."
      work=${doing("redrive", "The task is available again.")} />`}`;
}
