// Small parts of every page: states, times, notices, cards, copying, and short messages in the corner.

import { html, signal, useState } from "../core/html.js";
import { exact, relative, shown } from "../core/format.js";
import { now } from "../core/live.js";

const COLOURS = {
  scheduled: "violet",
  available: "blue",
  running: "blue",
  retryable: "amber",
  completed: "green",
  cancelled: "",
  discarded: "red",
  active: "green",
  paused: "amber",
  draining: "amber",
  deleting: "red",
  failed: "red",
  working: "green",
  away: "amber",
  unowned: "amber",
  ready: "green",
  "not ready": "red",
  polling: "green",
  busy: "blue",
};

/** A state as a word in its colour. */
export function State({ name }) {
  return html`<span class=${`state ${COLOURS[name] ?? ""} ${name === "running" ? "running" : ""}`}>${name}</span>`;
}

/** A time, relative to now; the exact one is its title. */
export function Time({ at }) {
  if (!at) return html`<span class="soft">–</span>`;
  return html`<time class="nowrap" datetime=${at} title=${exact(at)}>${relative(at, now.value)}</time>`;
}

/** A short text that others wrote. */
export function Theirs({ text, max, mono }) {
  if (text === undefined || text === null || text === "") return null;
  return html`<bdi class=${`theirs ${mono ? "mono" : ""}`}>${shown(text, max)}</bdi>`;
}

/** A word beside something more important. */
export function Soft({ children }) {
  return html`<span class="soft small">${children}</span>`;
}

/** Something to know; `kind` is bad, waits or good. */
export function Notice({ kind, title, role, children }) {
  return html`<div class=${`notice ${kind}`} role=${role}><h2>${title}</h2>${children}</div>`;
}

/** Names that can be chosen, each by itself; `turn` is told which. */
export function Chips({ names, chosen, turn, label }) {
  const chip = (name) => html`<button type="button" class="chip" aria-pressed=${chosen.includes(name)} onClick=${() => turn(name)}>
    ${name}
  </button>`;
  return html`<div class="chips" role="group" aria-label=${label}>${names.map(chip)}</div>`;
}

function Loading({ what }) {
  return html`<p class="loading" role="status">Loading ${what}…</p>`;
}

/** A problem, and what to do about it. */
export function Trouble({ problem, again }) {
  const field = problem.field && html`<code>${shown(problem.field)}</code>: `;
  return html`<${Notice} kind="bad" role="alert" title=${problem.title}>
    ${problem.detail && html`<p>${field}<${Theirs} text=${problem.detail} max=${1_000} /></p>`}
    ${problem.advice && html`<p class="soft">${problem.advice}</p>`}
    ${again && html`<p class="actions"><button type="button" onClick=${again}>Try again</button></p>`}
  <//>`;
}

/** What was read: its trouble, that it is loading, or what `children` makes of it. */
export function Loaded({ read, what, children }) {
  return html`
    ${read.problem && html`<${Trouble} problem=${read.problem} again=${read.again} />`}
    ${read.loading && html`<${Loading} what=${what} />`}
    ${read.value !== undefined && children(read.value)}`;
}

/** Nothing is there yet: what to do, with a command that works. */
export function Empty({ title, command, children }) {
  return html`<div class="empty"><h2>${title}</h2>${children}${command && html`<${Command} text=${command} />`}</div>`;
}

export function Card({ title, more, flush, children }) {
  return html`<section class="card">
    <header><h2>${title}</h2>${more}</header>
    ${flush ? children : html`<div class="body">${children}</div>`}
  </section>`;
}

/** A number with its name. */
export function Tile({ name, value, more }) {
  return html`<div class="tile">
    <div class="name">${name}</div>
    <div class="value">${value}</div>
    ${more && html`<div class="more">${more}</div>`}
  </div>`;
}

/** Names and values; empty values are left out. */
export function Facts({ rows }) {
  const there = rows.filter(([, value]) => value !== undefined && value !== null && value !== "" && value !== false);
  return html`<dl class="facts">${there.map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}</dl>`;
}

/** The head of a page. */
export function Head({ crumbs, title, beside, children }) {
  return html`<div class="head">
    <div>${crumbs && html`<p class="crumbs">${crumbs}</p>`}<div class="title"><h1>${title}</h1>${beside}</div></div>
    ${children && html`<div class="actions">${children}</div>`}
  </div>`;
}

/** How a stream stands. */
export function Live({ status }) {
  const texts = { on: "live", lost: "connecting again", paused: "paused" };
  return html`<span class=${`live ${status}`} role="status">${texts[status]}</span>`;
}

/** A command to copy. */
export function Command({ text }) {
  return html`<div class="command"><pre class="text" tabindex="0" aria-label="Command">${text}</pre><${Copy} text=${text} /></div>`;
}

/** Copies by the older way: the newer one is only there under HTTPS and on this machine. */
function copyBySelection(text) {
  const field = document.createElement("textarea");
  field.value = text;
  document.body.append(field);
  field.select();
  const isDone = document.execCommand("copy");
  field.remove();
  if (!isDone) throw new Error("the browser does not copy");
}

/** Copies a text; `text` may be a function. */
export function Copy({ text, label = "Copy", small = true, quiet = false }) {
  const [said, setSaid] = useState("");
  async function copy() {
    const copied = typeof text === "function" ? text() : text;
    try {
      if (navigator.clipboard) await navigator.clipboard.writeText(copied);
      else copyBySelection(copied);
      setSaid("Copied");
    } catch {
      setSaid("Not allowed");
    }
    setTimeout(() => setSaid(""), 1_500);
  }
  return html`<button type="button" class=${`${small ? "small" : ""} ${quiet ? "quiet" : ""}`} onClick=${copy}>
    <span aria-live="polite">${said || label}</span>
  </button>`;
}

const toasts = signal([]);

/** Says something in the corner for a while. */
export function say(text) {
  const toast = { text };
  toasts.value = [...toasts.value.slice(-2), toast];
  setTimeout(() => {
    toasts.value = toasts.value.filter((one) => one !== toast);
  }, 5_000);
}

export function Toasts() {
  return html`<div class="toasts" role="status" aria-live="polite">
    ${toasts.value.map((toast) => html`<div class="toast">${shown(toast.text)}</div>`)}
  </div>`;
}
