// Redriving dead letters carefully: the first one, then ten, then more, each once those before went well.

import { html, useEffect, useRef, useState } from "../core/html.js";
import { many } from "../core/format.js";
import { actByLines, pipelinePath, problemOf } from "../core/api.js";
import { href } from "../core/router.js";
import { Facts, Notice, Theirs, Trouble } from "../part/basics.js";
import { Dialog } from "../part/dialog.js";

const LIMIT = 1_000;
const LIMIT_MAX = 100_000;

function Halted({ app, halted }) {
  if (halted.reason === "no-verdict") {
    return html`<p>${many(halted.tasks, "task")} neither completed nor failed in time.
      They go on by themselves; look at the workers.</p>`;
  }
  return html`<p><a class="mono" href=${href.task(app, halted.task)}>${halted.task}</a> failed as before with${" "}
    <code class="theirs">${halted.code}</code> <${Theirs} text=${halted.message} max=${400} /></p>`;
}

function Progress({ app, line, going }) {
  const title = line.halted ? "It halted" : going ? "It is going on" : line.over ? "It is over" : "It was stopped";
  const kind = line.halted || line.problem ? "bad" : line.over ? "good" : "waits";
  return html`<${Notice} kind=${kind} role="status" title=${title}>
    ${line.problem && html`<p><${Theirs} text=${line.problem} max=${600} /></p>`}
    ${line.halted && html`<${Halted} app=${app} halted=${line.halted} />`}
    <${Facts} rows=${[
      ["found", line.found],
      ["redriven", line.redriven],
      ["skipped", line.skipped && `${line.skipped}, which are no dead letters any more`],
      ["changed", line.changed && `${line.changed}, which failed in another way`],
    ]} />
  <//>`;
}

export function Redrive({ app, name, code, onClose }) {
  const ended = useRef(null);
  const form = useRef(null);
  const [line, setLine] = useState(null);
  const [going, setGoing] = useState(false);
  const [problem, setProblem] = useState(null);
  useEffect(() => () => ended.current?.abort(), []);
  async function run(event) {
    event.preventDefault();
    const limit = Number(form.current.elements.limit.value);
    const body = code ? { code, limit } : { limit };
    ended.current = new AbortController();
    setGoing(true);
    setProblem(null);
    try {
      await actByLines(pipelinePath(app, name, "redrive"), body, setLine, ended.current.signal);
    } catch (err) {
      if (err?.name !== "AbortError") setProblem(problemOf(err));
    }
    setGoing(false);
  }
  const footer = going
    ? html`<button type="button" class="danger" onClick=${() => ended.current.abort()}>Stop here</button>`
    : html`<button type="button" onClick=${onClose}>Close</button>
        ${!line && html`<button type="submit" form="redrive-form" class="primary">Redrive</button>`}`;
  return html`<${Dialog} title=${`Redrive dead letters of ${app}/${name}`} onClose=${onClose} footer=${footer}>
    ${!line && html`
      <p>${code ? html`Those that failed with <code class="theirs">${code}</code>` : "All"} become available again with all their
        attempts: first one, then 10, then 1 %, then the rest, each once those before have completed or failed in another way.
        It halts when one fails as before. It goes on while this is open.</p>
      <form id="redrive-form" ref=${form} onSubmit=${run}><div class="field">
        <label for="redrive-limit">At most so many</label>
        <input id="redrive-limit" name="limit" type="number" min="1" max=${LIMIT_MAX} value=${LIMIT} disabled=${going} />
      </div></form>`}
    ${line && html`<${Progress} app=${app} line=${line} going=${going} />`}
    ${going && !line && html`<p class="loading" role="status">Starting with one…</p>`}
    ${problem && html`<${Trouble} problem=${problem} />`}
  <//>`;
}
