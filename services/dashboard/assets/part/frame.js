// The frame around every page: navigation, search, theme and help.

import { html, signal, useState } from "../core/html.js";
import { PLACES } from "../core/keys.js";
import { go, href, place } from "../core/router.js";
import { theme, turnTheme } from "../core/theme.js";
import { Problem, problemOf, read, readPipelines, taskPath, pathOf } from "../core/api.js";
import { Dialog } from "./dialog.js";
import { Theirs, Toasts } from "./basics.js";

/** Whether the keys are explained. */
export const helping = signal(false);

const KEYS = [
  ["/", "search for a pipeline or a task's id"],
  ...PLACES.map(({ key, name }) => [`g ${key}`, `go to ${name.toLowerCase()}`]),
  ["j  k", "next, previous row; Enter opens it"],
  ["t", "dark or light"],
  ["?", "these keys"],
  ["Esc", "close a dialog"],
];

const ID = /^[a-z2-7]{20,40}$/;

/** The page of a task's id or a pipeline's name, else null. */
async function find(text) {
  if (ID.test(text)) {
    const { applications } = await read(pathOf("applications"));
    for (const { name } of applications) {
      try {
        await read(taskPath(name, text));
        return href.task(name, text);
      } catch (err) {
        if (err instanceof Problem && err.status === 410) return href.task(name, text);
        if (!(err instanceof Problem) || err.status !== 404) throw err;
      }
    }
    return null;
  }
  const pipelines = await readPipelines();
  const wanted = text.toLowerCase();
  const name = (pipeline) => `${pipeline.application}/${pipeline.name}`;
  const found =
    pipelines.find((pipeline) => name(pipeline) === wanted || pipeline.name === wanted) ??
    pipelines.find((pipeline) => name(pipeline).includes(wanted));
  return found ? href.pipeline(found.application, found.name) : null;
}

function Search() {
  const [said, setSaid] = useState("");
  async function submit(event) {
    event.preventDefault();
    const field = event.target.elements.text;
    const text = field.value.trim();
    if (!text) return;
    setSaid("Searching…");
    try {
      const found = await find(text);
      setSaid(found ? "" : `No pipeline has this in its name, and no task that is kept has this id.`);
      if (found) {
        field.value = "";
        field.blur();
        go(found);
      }
    } catch (err) {
      const problem = problemOf(err);
      setSaid(`${problem.title}. ${problem.advice}`);
    }
  }
  return html`<form class="search" role="search" onSubmit=${submit}>
    <label class="unseen" for="search">Search for a pipeline or a task's id</label>
    <input id="search" name="text" type="search" placeholder="Pipeline or task id" autocomplete="off" spellcheck="false"
      maxlength="200" onInput=${() => setSaid("")} />
    <kbd aria-hidden="true">/</kbd>
    <p class="small soft" role="status">${said}</p>
  </form>`;
}

function isHere(path) {
  const here = place.value.path;
  if (here === path) return true;
  if (path === "/pipelines") return here.startsWith("/applications/") && here.includes("/pipelines/");
  return path === "/tasks" && here.startsWith("/applications/") && here.includes("/tasks/");
}

function Help() {
  const close = () => {
    helping.value = false;
  };
  const keys = (text) => text.split(/\s+/).map((key) => html`<kbd>${key}</kbd> `);
  return html`<${Dialog} title="Keys" onClose=${close}>
    <dl class="keys">${KEYS.map(([text, does]) => html`<dt>${keys(text)}</dt><dd>${does}</dd>`)}</dl>
    <p class="soft small">Everything that is shown and done here is also in the HTTP API below <code>/api</code>.</p>
  <//>`;
}

function Mark() {
  return html`<svg viewBox="0 0 32 32" aria-hidden="true">
    <rect width="32" height="32" rx="8" fill="#4f57c9" />
    <path d="M7 10h12M7 16h18M7 22h8" stroke="#fff" stroke-width="3.2" stroke-linecap="round" />
  </svg>`;
}

export function Frame({ children }) {
  const link = ({ key, path, name }) => html`<a href=${path} aria-current=${isHere(path) ? "page" : undefined}>
    ${name}<kbd aria-hidden="true">g ${key}</kbd>
  </a>`;
  return html`<div class="frame">
    <a class="skip" href="#main">Skip to the page</a>
    <div class="side">
      <a class="brand" href="/"><${Mark} />Workload</a>
      <${Search} />
      <nav class="nav" aria-label="Pages">${PLACES.map(link)}</nav>
      <div class="foot">
        <button type="button" class="quiet small" onClick=${turnTheme}>${theme.value === "dark" ? "Light" : "Dark"}</button>
        <button type="button" class="quiet small" onClick=${() => { helping.value = true; }}>Keys</button>
      </div>
    </div>
    <main id="main" tabindex="-1">${children}</main>
    <${Toasts} />
    ${helping.value && html`<${Help} />`}
  </div>`;
}

/** A pipeline to choose: the value of a field. */
export function PipelineChoice({ pipelines, value, onChange, all }) {
  return html`<div class="field"><label for="pipeline">Pipeline</label>
    <select id="pipeline" value=${value} onChange=${(event) => onChange(event.target.value)}>
      ${all && html`<option value="">all pipelines</option>`}
      ${pipelines.map((pipeline) => {
        const name = `${pipeline.application}/${pipeline.name}`;
        return html`<option value=${name} selected=${name === value}>${name}</option>`;
      })}
    </select></div>`;
}

/** A link to a pipeline. */
export function PipelineLink({ app, name }) {
  return html`<a href=${href.pipeline(app, name)}><${Theirs} text=${`${app}/${name}`} /></a>`;
}
