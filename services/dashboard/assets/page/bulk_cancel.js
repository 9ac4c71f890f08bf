// Cancelling many tasks of a pipeline: a filter, what it would be about, a confirmation, and how far it is.

import { html, useEffect, useRef, useState } from "../core/html.js";
import { count, many } from "../core/format.js";
import { act, pipelinePath, problemOf } from "../core/api.js";
import { say, State, Trouble } from "../part/basics.js";
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
  const n = Object.values(found.found).reduce((sum, each) => sum + each, 0);
  return html`<div class="notice waits" role="status">
    <h2>${n === 0 && found.backlog_max === 0 ? "No task fits now" : `${found.has_more ? "More than " : ""}${many(n, "task")} would be cancelled`}</h2>
    <p class="chips">${Object.entries(found.found).map(([state, each]) => html`<span><${State} name=${state} /> ${count(each)} </span>`)}</p>
    ${found.backlog_max > 0 && html`<p>and at most ${count(found.backlog_max)} more of the backlog, which ${found.backlog_max === 1 ? "is" : "are"} not read yet</p>`}
  </div>`;
}

function Fields({ states, setStates, onChange }) {
  const turn = (state) => {
    setStates(states.includes(state) ? states.filter((one) => one !== state) : [...states, state]);
    onChange();
  };
  const field = (name, label, type, hint) => html`<div class="field"><label for=${`cancel-${name}`}>${label}</label><input id=${`cancel-${name}`} name=${name} type=${type} step="1" placeholder=${hint} autocomplete="off" onInput=${onChange} /></div>`;
  return html`
    <div class="chips" role="group" aria-label="States">${LIVE.map(
      (state) => html`<button type="button" class="chip" aria-pressed=${states.includes(state)} onClick=${() => turn(state)}>${state}</button>`,
    )}</div>
    <div class="columns">${field("key", "Key", "text", "any")}${field("group", "Group", "text", "any")}</div>
    <div class="columns">${field("accepted_from", "Accepted from", "datetime-local")}${field("accepted_before", "Accepted before", "datetime-local")}</div>
    <div class="field"><label for="cancel-metadata">Metadata, name=value on each line</label><textarea id="cancel-metadata" name="metadata" rows="2" onInput=${onChange}></textarea></div>`;
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
  const countThem = () => attempt(async () => {
    const filter = filterIn(form.current, states);
    setPreview({ filter, found: await act(path, { filter, preview: true }) });
  });
  const confirm = () => attempt(async () => {
    const { filter } = preview;
    // An id of ours: a call that was not answered can be repeated without a second bulk cancel.
    const id = `dashboard-${crypto.randomUUID?.() ?? Date.now()}`;
    const body = { filter, id, all: Object.keys(filter).length === 0 };
    await follow(path, body, setProgress, () => gone.current);
    if (!gone.current) say(`The bulk cancel of ${app}/${name} is over.`);
  });
  const all = preview && Object.keys(preview.filter).length === 0;
  const footer = progress
    ? html`<button type="button" onClick=${onClose}>Close</button>`
    : html`<button type="button" onClick=${onClose}>Keep them</button>
        <button type="button" disabled=${busy} onClick=${countThem}>Count</button>
        <button type="button" class="danger" disabled=${busy || !preview} onClick=${confirm}>${all ? "Cancel all of them" : "Cancel them"}</button>`;
  return html`<${Dialog} title=${`Cancel many tasks of ${app}/${name}`} onClose=${onClose} footer=${footer}>
    ${progress
      ? html`<div class=${`notice ${progress.over ? "good" : "waits"}`} role="status">
          <h2>${progress.over ? "It is over" : "It is going on"}: ${many(progress.cancelled, "task")} cancelled</h2>
          <p class="soft">${progress.over ? "No task that it covers starts any more." : "No task that it covers starts any more. What runs, waits in the backlog or is parked ends when it is reached; this may be closed meanwhile."}</p>
          <p class="small soft">its id: <code>${progress.id}</code></p>
        </div>`
      : html`<form ref=${form} onSubmit=${(event) => { event.preventDefault(); countThem(); }}>
          <p class="soft">A task must fit everything that is given. Nothing given means all tasks that have not ended.</p>
          <${Fields} states=${states} setStates=${setStates} onChange=${changed} />
          <button type="submit" hidden>Count</button>
        </form>
        ${preview ? html`<${Preview} found=${preview.found} />` : html`<p class="soft small">Count first: it shows how many there are and cancels none.</p>`}`}
    ${problem && html`<${Trouble} problem=${problem} />`}
  <//>`;
}
