// Pausing, resuming and draining a pipeline, each after a word of confirmation.

import { html, useRef, useState } from "../core/html.js";
import { act, pipelinePath, problemOf } from "../core/api.js";
import { say, Trouble } from "../part/basics.js";
import { Dialog } from "../part/dialog.js";

const WORDS = {
  pause: { verb: "Pause", said: "is paused", text: "It goes on to take tasks and starts none. What runs now goes on." },
  resume: { verb: "Resume", said: "is active again", text: "It takes tasks and starts them." },
  drain: { verb: "Drain", said: "drains", text: "It starts what it has and refuses new tasks, until it is resumed." },
};

/** Which of them a state allows. */
const ALLOWED = {
  active: ["pause", "drain"],
  paused: ["resume", "drain"],
  draining: ["resume", "pause"],
  deleting: [],
};

function Ask({ pipeline, verb, onClose, onChanged }) {
  const form = useRef(null);
  const [problem, setProblem] = useState(null);
  const [busy, setBusy] = useState(false);
  const words = WORDS[verb];
  const name = `${pipeline.application}/${pipeline.name}`;
  async function run(event) {
    event.preventDefault();
    setBusy(true);
    const field = (id) => form.current.elements[id].value.trim();
    const body = verb === "pause" ? { by: field("by"), reason: field("reason") } : undefined;
    try {
      await act(pipelinePath(pipeline.application, pipeline.name, verb), body);
      say(`${name} ${words.said}.`);
      onChanged();
      onClose();
    } catch (err) {
      setProblem(problemOf(err));
      setBusy(false);
    }
  }
  const footer = html`<button type="button" onClick=${onClose}>Leave it</button>
    <button type="submit" form="mode-form" class="primary" disabled=${busy}>${words.verb}</button>`;
  return html`<${Dialog} title=${`${words.verb} ${name}?`} onClose=${onClose} footer=${footer}>
    <p>${words.text}</p>
    <form id="mode-form" ref=${form} onSubmit=${run}>${verb === "pause" && html`
      <div class="field"><label for="pause-by">Who pauses it</label>
        <input id="pause-by" name="by" autocomplete="name" maxlength="100" /></div>
      <div class="field"><label for="pause-reason">Why</label>
        <input id="pause-reason" name="reason" autocomplete="off" maxlength="300" /></div>`}</form>
    ${problem && html`<${Trouble} problem=${problem} />`}
  <//>`;
}

export function ModeButtons({ pipeline, onChanged }) {
  const [asking, setAsking] = useState(null);
  const verbs = ALLOWED[pipeline.state] ?? [];
  return html`${verbs.map((verb) => html`<button type="button" onClick=${() => setAsking(verb)}>${WORDS[verb].verb}</button>`)}
    ${asking && html`<${Ask} pipeline=${pipeline} verb=${asking} onClose=${() => setAsking(null)} onChanged=${onChanged} />`}`;
}
