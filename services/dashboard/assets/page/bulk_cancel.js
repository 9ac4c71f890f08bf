// Cancelling many tasks of a pipeline: a filter, what it would be about, a confirmation, and how far it is.

import { html, useEffect, useRef, useState } from "../core/html.js";
import { count, many } from "../core/format.js";
import { act, pipelinePath, problemOf } from "../core/api.js";
import { Chips, Notice, say, State, Trouble } from "../part/basics.js";
import { Dialog } from "../part/dialog.js";

const LIVE = ["scheduled", "available", "running", "retryable"];
/** How often it is asked how far it is. */
const EVERY_MS = 1_000;

/** What the fields say, as the API takes it. */
function filterIn(form, states) {
  const filter = {};
  for (const name of ["key", "group"]) {
    const text = form.elements[name].value.trim();
    if (text) filter[name] = text;
  }
  for (const name of ["accepted_from", "accepted_before"]) {
    const text = form.elements[name].value;
    if (text) filter[name] = new Date(text).toISOString();
  }
  const pairs = form.elements.metadata.value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (pairs.length > 0) {
    filter.metadata = Object.fromEntries(pairs.map((pair) => {
      const at = pair.indexOf("=");
      return at < 0 ? [pair, ""] : [pair.slice(0, at).trim(), pair.slice(at + 1).trim()];
    }));
  }
  if (states.length > 0 && states.length < LIVE.length) filter.states = states;
  return filter;
}

function Preview({ found }) {
  const { found: states, backlog_max: backlog, has_more: hasMore } = found;
  const n = Object.values(states).reduce((sum, each) => sum + each, 0);
  const title = n === 0 && backlog === 0 ? "No task fits now" : `${hasMore ? "More than " : ""}${many(n, "task")} would be cancelled`;
  return html`<${Notice} kind="waits" role="status" title=${title}>
    <p class="chips">${Object.entries(states).map(([state, each]) => html`<span><${State} name=${state} /> ${count(each)} </span>`)}</p>
    ${backlog > 0 && html`<p>and at most ${count(backlog)} more of the backlog, which ${backlog === 1 ? "is" : "are"} not read yet</p>`}
  <//>`;
}

function Field({ name, label, type = "text", onInput }) {
  const id = `cancel-${name}`;
  return html`<div class="field">
    <label for=${id}>${label}</label>
    <input id=${id} name=${name} type=${type} step="1" autocomplete="off" onInput=${onInput} />
  </div>`;
}

function Fields({ states, setStates, onChange }) {
  const turn = (state) => {
    setStates(states.includes(state) ? states.filter((one) => one !== state) : [...states, state]);
    onChange();
  };
  return html`
    <${Chips} label="States" names=${LIVE} chosen=${states} turn=${turn} />
    <div class="columns">
      <${Field} name="key" label="Key" onInput=${onChange} />
      <${Field} name="group" label="Group" onInput=${onChange} />
    </div>
    <div class="columns">
      <${Field} name="accepted_from" label="Accepted from" type="datetime-local" onInput=${onChange} />
      <${Field} name="accepted_before" label="Accepted before" type="datetime-local" onInput=${onChange} />
    </div>
    <div class="field">
      <label for="cancel-metadata">Metadata, name=value on each line</label>
      <textarea id="cancel-metadata" name="metadata" rows="2" onInput=${onChange}></textarea>
    </div>`;
}

function Progress({ progress }) {
  const { over, cancelled, id } = progress;
  const title = `${over ? "It is over" : "It is going on"}: ${many(cancelled, "task")} cancelled`;
  return html`<${Notice} kind=${over ? "good" : "waits"} role="status" title=${title}>
    <p class="soft">No task that it covers starts any more.
      ${!over && " What runs, waits in the backlog or is parked ends when it is reached; this may be closed meanwhile."}</p>
    <p class="small soft">its id: <code>${id}</code></p>
  <//>`;
}

/** Follows a bulk cancel to its end, by the same call again. */
async function follow(path, body, onProgress, isGone) {
  for (;;) {
    const progress = await act(path, body);
    if (isGone()) return;
    onProgress(progress);
    if (progress.over) return;
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
    if (isGone()) return;
  }
}

export function BulkCancel({ app, name, states: asked, onClose }) {
  const path = pipelinePath(app, name, "tasks", "cancel");
  const form = useRef(null);
  const gone = useRef(false);
  const [states, setStates] = useState(asked.filter((state) => LIVE.includes(state)));
  const [preview, setPreview] = useState(null);
  const [progress, setProgress] = useState(null);
  const [problem, setProblem] = useState(null);
  const [busy, setBusy] = useState(false);
  useEffect(() => () => { gone.current = true; }, []);
  const changed = () => { setPreview(null); setProblem(null); };
  async function attempt(work) {
    setBusy(true);
    setProblem(null);
    try {
      await work();
    } catch (err) {
      setProblem(problemOf(err));
    }
    setBusy(false);
  }
  const countThem = (event) => {
    event.preventDefault();
    attempt(async () => {
      const filter = filterIn(form.current, states);
      setPreview({ filter, found: await act(path, { filter, preview: true }) });
    });
  };
  const confirm = () => attempt(async () => {
    const { filter } = preview;
    // An id of ours: a call that was not answered can be repeated without a second bulk cancel.
    const id = `dashboard-${crypto.getRandomValues(new Uint32Array(3)).join("-")}`;
    const body = { filter, id, all: Object.keys(filter).length === 0 };
    await follow(path, body, setProgress, () => gone.current);
    if (!gone.current) say(`The bulk cancel of ${app}/${name} is over.`);
  });
  const all = preview && Object.keys(preview.filter).length === 0;
  const verb = all ? "Cancel all of them" : "Cancel them";
  const footer = progress
    ? html`<button type="button" onClick=${onClose}>Close</button>`
    : html`<button type="button" onClick=${onClose}>Keep them</button>
        <button type="submit" form="cancel-form" disabled=${busy}>Count</button>
        <button type="button" class="danger" disabled=${busy || !preview} onClick=${confirm}>${verb}</button>`;
  return html`<${Dialog} title=${`Cancel many tasks of ${app}/${name}`} onClose=${onClose} footer=${footer}>
    ${progress ? html`<${Progress} progress=${progress} />` : html`
      <form id="cancel-form" ref=${form} onSubmit=${countThem}>
        <p class="soft">A task must fit everything that is given. Nothing given means all tasks that have not ended.</p>
        <${Fields} states=${states} setStates=${setStates} onChange=${changed} />
      </form>
      ${preview ? html`<${Preview} found=${preview.found} />` : html`<p class="soft small">Count first: that cancels none.</p>`}`}
    ${problem && html`<${Trouble} problem=${problem} />`}
  <//>`;
}
