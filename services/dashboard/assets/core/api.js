// Calls of the public HTTP API, its problems with what to do about them, and how much is asked for at once.

import { parse } from "./json.js";

/** How long an answer may take. */
const WAIT_MAX_MS = 30_000;
/** Calls of one page at the same time: a browser has six connections to a server, and events keep some. */
const AT_ONCE = 3;

const ADVICE = {
  "foreign-request": "Open the dashboard under localhost, or a name that the server was told to serve.",
  "not-found": "Check the name. It may have been deleted, or belong to another tenant.",
  "wrong-state": "Look at its state as it is now, then decide.",
  gone: "It ended, and its result is no longer kept. A longer `retention` keeps results longer.",
  "stale-revision": "Load the page again and repeat the change.",
  "too-large": "Ask for less.",
  invalid: "Mend the value that is named.",
  malformed: "Mend the value that is named; the address of this page may have been changed by hand.",
  overloaded: "Wait a moment, then try again.",
  unavailable: "Nothing was done. Try again in a moment; the logs of the server say what is missing.",
  "unknown-outcome": "It may have happened. Look at the state first, then decide whether to repeat it.",
  internal: "Look into the logs of the server.",
};

/** A call that was not done. */
export class Problem extends Error {
  constructor({ status = 0, type = "", title, detail = "", field, retry_after: retryAfter }) {
    super(title);
    this.status = status;
    this.kind = type.replace(/^urn:workload:problem:/, "");
    this.title = title;
    this.detail = detail;
    this.field = field;
    this.retryAfter = retryAfter;
  }

  get advice() {
    if (this.retryAfter) return `Try again after ${this.retryAfter}.`;
    return ADVICE[this.kind] ?? "";
  }
}

/** Whatever went wrong, as a problem. */
export function problemOf(err) {
  if (err instanceof Problem) return err;
  if (err?.name === "TimeoutError") {
    return new Problem({ title: "The server takes too long", detail: "It did not answer within 30 s.", type: "unavailable" });
  }
  if (err instanceof TypeError) {
    return new Problem({
      title: "The server cannot be reached",
      detail: "It may be starting again, or the connection is gone. The page goes on by itself once it is back.",
    });
  }
  return new Problem({ title: "This page is broken", detail: String(err?.message ?? err) });
}

/** The path of an API resource. */
export function pathOf(...segments) {
  return `/api/${segments.map(encodeURIComponent).join("/")}`;
}

export const pipelinePath = (app, name, ...more) => pathOf("applications", app, "pipelines", name, ...more);
export const taskPath = (app, id, ...more) => pathOf("applications", app, "tasks", id, ...more);

async function ask(method, path, { body, signal } = {}) {
  const late = AbortSignal.timeout(WAIT_MAX_MS);
  const answer = await fetch(path, {
    method,
    body: body === undefined ? undefined : JSON.stringify(body),
    headers: body === undefined ? {} : { "content-type": "application/json" },
    signal: signal ? AbortSignal.any([signal, late]) : late,
    cache: "no-store",
  });
  if (!answer.ok) throw await refusal(answer);
  return answer;
}

async function refusal(answer) {
  const text = await answer.text();
  try {
    return new Problem(parse(text));
  } catch {
    return new Problem({ status: answer.status, title: `The server answers ${answer.status}`, detail: text.slice(0, 300) });
  }
}

let running = 0;
const queue = [];

/** Waits for a place among the reads of this page. */
async function inTurn(work, signal) {
  if (running >= AT_ONCE) await new Promise((resolve) => queue.push(resolve));
  else running += 1;
  try {
    signal?.throwIfAborted();
    return await work();
  } finally {
    const next = queue.shift();
    if (next) next();
    else running -= 1;
  }
}

/** Reads a resource. */
export function read(path, { query, signal } = {}) {
  const text = query ? `?${new URLSearchParams(query)}` : "";
  return inTurn(async () => parse(await (await ask("GET", path + text, { signal })).text()), signal);
}

/** Does something, and answers what it says, if anything. */
export async function act(path, body) {
  const text = await (await ask("POST", path, { body })).text();
  return text ? parse(text) : null;
}

/** Does something that answers line by line for as long as it takes; `signal` ends it. */
export async function actByLines(path, body, onLine, signal) {
  const answer = await fetch(path, {
    method: "POST",
    body: JSON.stringify(body),
    headers: { "content-type": "application/json" },
    signal,
  });
  if (!answer.ok) throw await refusal(answer);
  let rest = "";
  const decoder = new TextDecoder();
  for (const reader = answer.body.getReader(); ;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line) onLine(parse(line));
  }
}

/** All pipelines of all applications, sorted by name. */
export async function readPipelines(signal) {
  const { applications } = await read(pathOf("applications"), { signal });
  const lists = await Promise.all(
    applications.map(({ name }) =>
      read(pathOf("applications", name, "pipelines"), { signal }).catch((err) => {
        // It was deleted meanwhile.
        if (err instanceof Problem && err.status === 404) return { pipelines: [] };
        throw err;
      }),
    ),
  );
  const name = (pipeline) => `${pipeline.application}/${pipeline.name}`;
  return lists.flatMap((list) => list.pipelines).sort((a, b) => name(a).localeCompare(name(b)));
}
