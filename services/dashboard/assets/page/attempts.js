// The attempts of a task: a line of time, and what every step and command of each attempt said.

import { html } from "../core/html.js";
import { duration, many } from "../core/format.js";
import { now } from "../core/live.js";
import { Card, Soft, State, Theirs, Time } from "../part/basics.js";
import { Json, Text } from "../part/output.js";

const WIDTH = 1_000;
/** A bar that is shorter is still seen. */
const BAR_MIN = 3;

function commandsOf(record) {
  return (record?.steps ?? []).flatMap((step) => step.commands ?? []);
}

/** What is known of a task's attempts, oldest first: failed ones by their errors, the last by result or progress. */
function attemptsOf(task) {
  const failed = (task.errors ?? []).map((error) => ({
    number: error.attempt,
    state: "failed",
    error,
    worker: error.worker,
    record: error.detail,
    started_at: commandsOf(error.detail)[0]?.started_at,
    ended_at: error.at,
  }));
  const last = task.state === "running" || task.state === "completed" || (task.state === "cancelled" && task.started_at);
  if (!last) return failed;
  const record = task.state === "completed" ? task.result : task.progress;
  return [...failed, {
    number: task.attempt,
    state: task.state,
    worker: task.worker,
    record,
    started_at: task.started_at,
    ended_at: task.ended_at,
  }];
}

function commandKind(command) {
  if (!command.ended_at) return "runs";
  return command.exit_code === 0 ? "completed" : "failed";
}

/** The whole life of a task as one line: what waits is grey, each attempt a bar, and each command a thin one below. */
function Span({ task, attempts }) {
  const start = Date.parse(task.accepted_at);
  const end = Math.max(task.ended_at ? Date.parse(task.ended_at) : now.value, start + 1);
  const x = (at) => ((Math.min(Math.max(Date.parse(at), start), end) - start) / (end - start)) * WIDTH;
  const bars = attempts.filter((attempt) => attempt.started_at || attempt.ended_at).map((attempt) => {
    const to = attempt.ended_at ? x(attempt.ended_at) : WIDTH;
    const from = attempt.started_at ? x(attempt.started_at) : to;
    return { attempt, from: Math.min(from, WIDTH - BAR_MIN), width: Math.max(to - from, BAR_MIN) };
  });
  const commands = attempts.flatMap((attempt) => commandsOf(attempt.record)).filter((command) => command.started_at);
  const kind = { running: "runs", completed: "completed", failed: "failed", cancelled: "waits" };
  const said = attempts.map((attempt) => `attempt ${attempt.number} ${attempt.state}`).join(", ") || "no attempt yet";
  const label = `Over ${duration(end - start)}: ${said}`;
  const ended = task.ended_at ? html`${task.state} <${Time} at=${task.ended_at} />` : "now";
  return html`<div class="body">
    <svg class="span" viewBox=${`0 0 ${WIDTH} 40`} preserveAspectRatio="none" role="img" aria-label=${label}>
      <rect class="ground" x="0" y="12" width=${WIDTH} height="8" rx="4" />
      ${bars.map(({ attempt, from, width }) => html`<rect class=${kind[attempt.state]} x=${from} y="6" width=${width} height="20" />`)}
      ${commands.map((command) => {
        const from = x(command.started_at);
        const width = Math.max((command.ended_at ? x(command.ended_at) : WIDTH) - from - 1, BAR_MIN);
        return html`<rect class=${commandKind(command)} x=${Math.min(from, WIDTH - BAR_MIN)} y="30" width=${width} height="5" />`;
      })}
    </svg>
    <div class="scale">
      <span>accepted <${Time} at=${task.accepted_at} /></span><span>${duration(end - start)}</span><span>${ended}</span>
    </div>
  </div>`;
}

function tookOf({ started_at: from, ended_at: to }) {
  if (!from) return "";
  return duration(Math.max(0, (to ? Date.parse(to) : now.value) - Date.parse(from)));
}

function endOf(command) {
  if (command.exit_code !== undefined) return `exit ${command.exit_code}`;
  if (command.signal !== undefined) return `signal ${command.signal}`;
  return command.ended_at || command.error ? "failed" : "runs";
}

function Stream({ command, name }) {
  const text = command[name];
  if (typeof text !== "string" || text === "") return null;
  const encoding = command[`${name}_encoding`];
  return html`<${Text} text=${text} atEnd label=${encoding ? `${name} (${encoding})` : name} name=${`${name}.txt`} />`;
}

function Run({ command }) {
  return html`<div class="run">
    <div class="line">
      <code class="theirs">${String(command.command ?? "")}</code>
      <span class="soft nowrap">${endOf(command)} · ${tookOf(command)}</span>
    </div>
    ${command.error && html`<p><${Theirs} text=${command.error} /></p>`}
    <${Stream} command=${command} name="stdout" />
    <${Stream} command=${command} name="stderr" />
  </div>`;
}

function Step({ step, number }) {
  const commands = step.commands ?? [];
  return html`<li class="step">
    <header>
      <b>${number}</b><${Theirs} text=${step.executor} /><${State} name=${String(step.state)} />
      <${Soft}>${many(commands.length, "command")}<//>
    </header>
    ${commands.map((command) => html`<${Run} command=${command} />`)}
  </li>`;
}

/** A record of steps, or whatever else a worker said. */
function Record({ record, label }) {
  if (record === undefined || record === null) return null;
  if (!Array.isArray(record.steps)) return html`<${Json} value=${record} label=${label} />`;
  return html`<ol class="steps">${record.steps.map((step, i) => html`<${Step} step=${step} number=${i + 1} />`)}</ol>`;
}

function Attempt({ attempt }) {
  const { error } = attempt;
  // A result that is no record of steps has a card of its own.
  const isValue = !error && !Array.isArray(attempt.record?.steps);
  return html`<li class="attempt">
    <header>
      <h3>Attempt ${attempt.number}</h3><${State} name=${attempt.state} />
      <${Soft}>${tookOf(attempt)}<//>
      ${attempt.worker && html`<${Soft}>on <${Theirs} text=${attempt.worker} mono /><//>`}
      <${Soft}><${Time} at=${attempt.ended_at ?? attempt.started_at} /><//>
    </header>
    ${error && html`<p class="message">
      <code class="theirs">${error.code}</code> <${Theirs} text=${error.message} max=${2_000} />
      ${!error.retryable && html` <${Soft}>(not tried again)<//>`}
    </p>`}
    ${!isValue && html`<${Record} record=${attempt.record} label=${`Detail of attempt ${attempt.number}`} />`}
  </li>`;
}

export function Attempts({ task }) {
  const attempts = attemptsOf(task);
  return html`<${Card} title="Attempts" flush more=${html`<${Soft}>newest first<//>`}>
    <${Span} task=${task} attempts=${attempts} />
    ${attempts.length === 0
      ? html`<p class="empty">No attempt has begun.</p>`
      : html`<ol class="attempts">
          ${attempts.toReversed().map((attempt) => html`<${Attempt} key=${attempt.number} attempt=${attempt} />`)}
        </ol>`}
  <//>`;
}
