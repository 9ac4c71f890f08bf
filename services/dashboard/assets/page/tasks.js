// Tasks: filtered by the address, newest first, a page at a time; and many cancelled at once.

import { html, useRef, useState } from "../core/html.js";
import { count, many, quoted } from "../core/format.js";
import { pipelinePath, read, readPipelines } from "../core/api.js";
import { useEvents, useRead } from "../core/live.js";
import { goQuery, place } from "../core/router.js";
import { Card, Chips, Empty, Head, Live, Loaded, Theirs } from "../part/basics.js";
import { PipelineChoice } from "../part/frame.js";
import { TaskRows } from "../part/task_rows.js";
import { BulkCancel } from "./bulk_cancel.js";
import { NoPipelines } from "./pipelines.js";

const STATES = ["scheduled", "available", "running", "retryable", "completed", "cancelled", "discarded"];
const LIMITS = [50, 100, 200];
/** Of so many pipelines the newest tasks are shown together. */
const PIPELINES_MAX = 20;
const OF_EACH = 20;
/** A change is followed by a new read of the first page, at most so often. */
const CHANGED_MS = 1_500;
const EVERY_MS = 5_000;

const SINCE = [["", "any time"], ["15m", "15 minutes"], ["1h", "1 hour"], ["24h", "1 day"], ["7d", "7 days"]];
const MS = { m: 60_000, h: 3_600_000, d: 86_400_000 };

/** A time of the address as the API takes it: `1h` is an hour ago, anything else is passed on. */
function sinceOf(text) {
  const found = /^(\d{1,4})([mhd])$/.exec(text);
  return found ? new Date(Date.now() - Number(found[1]) * MS[found[2]]).toISOString() : text;
}

/** The filter of the address. */
function filterOf(query) {
  const states = (query.get("state") ?? "").split(",").filter(Boolean);
  const limit = Number(query.get("limit"));
  return {
    pipeline: query.get("pipeline") ?? "",
    states,
    since: query.get("since") ?? "",
    page: query.get("page") ?? "",
    limit: LIMITS.includes(limit) ? limit : LIMITS[0],
  };
}

function queryOf(filter, limit) {
  const query = { limit };
  if (filter.states.length > 0) query.state = filter.states.join(",");
  if (filter.since) query.since = sinceOf(filter.since);
  if (filter.page) query.page_token = filter.page;
  return query;
}

async function readPage(filter, signal) {
  const [app, name] = filter.pipeline.split("/");
  return read(pipelinePath(app, name ?? "", "tasks"), { query: queryOf(filter, filter.limit), signal });
}

/** The newest of every pipeline; pages are of one pipeline. */
async function readNewest(filter, pipelines, signal) {
  const query = queryOf({ ...filter, page: "" }, OF_EACH);
  const pages = await Promise.all(
    pipelines.slice(0, PIPELINES_MAX).map((one) =>
      read(pipelinePath(one.application, one.name, "tasks"), { query, signal }).catch((err) => {
        if (err.status === 404) return { tasks: [], backlog: 0 };
        throw err;
      }),
    ),
  );
  const tasks = pages.flatMap((page) => page.tasks);
  tasks.sort((a, b) => Date.parse(b.accepted_at) - Date.parse(a.accepted_at));
  return { tasks, backlog: pages.reduce((sum, page) => sum + page.backlog, 0) };
}

function Filters({ filter, pipelines }) {
  const change = (changes) => goQuery({ ...changes, page: "" });
  const turn = (state) => {
    const states = filter.states.includes(state) ? filter.states.filter((one) => one !== state) : [...filter.states, state];
    change({ state: STATES.filter((one) => states.includes(one)).join(",") });
  };
  const known = SINCE.some(([value]) => value === filter.since);
  return html`<div class="filters">
    <${PipelineChoice} pipelines=${pipelines} value=${filter.pipeline} all onChange=${(pipeline) => change({ pipeline })} />
    <div class="field"><label for="since">Accepted within</label>
      <select id="since" value=${filter.since} onChange=${(event) => change({ since: event.target.value })}>
        ${!known && html`<option value=${filter.since} selected>${filter.since}</option>`}
        ${SINCE.map(([value, name]) => html`<option value=${value} selected=${value === filter.since}>${name}</option>`)}
      </select></div>
    <${Chips} label="States" names=${STATES} chosen=${filter.states} turn=${turn} />
  </div>`;
}

function Nothing({ filter }) {
  if (filter.states.length > 0 || filter.since || filter.page) {
    return html`<${Empty} title="No task fits">
      <p>Tasks that were accepted and not read yet stand in the backlog, and are not listed. Ended tasks are listed while
        their results are kept.</p>
      <p class="actions"><button type="button" onClick=${() => goQuery({ state: "", since: "", page: "" })}>Show all</button></p>
    <//>`;
  }
  if (!filter.pipeline) return html`<${Empty} title="No tasks yet"><p>Choose a pipeline to see how to submit one.</p><//>`;
  const [app, name] = filter.pipeline.split("/");
  const url = `${location.origin}${pipelinePath(app, name)}`;
  return html`<${Empty} title="No tasks yet" command=${`curl -X POST ${quoted(url)} -d '{}'`}>
    <p>Submit one; its fields fill the placeholders of the steps:</p>
  <//>`;
}

function PageSize({ limit }) {
  const choose = (event) => goQuery({ limit: event.target.value, page: "" });
  return html`<label class="choice">a page of
    <select aria-label="Tasks of a page" value=${String(limit)} onChange=${choose}>
      ${LIMITS.map((n) => html`<option value=${n} selected=${n === limit}>${n}</option>`)}
    </select>
  </label>`;
}

function List({ filter, pipelines, page }) {
  const last = page.next_page_token;
  const whose = pipelines.length > PIPELINES_MAX ? `the first ${PIPELINES_MAX} pipelines` : "each pipeline";
  const each = ` · the newest ${OF_EACH} of ${whose}`;
  return html`
    ${page.tasks.length === 0
      ? html`<${Nothing} filter=${filter} />`
      : html`<${TaskRows} tasks=${page.tasks} withPipeline=${!filter.pipeline} />`}
    <div class="pager">
      <span>${many(page.tasks.length, "task")}, newest first · ${count(page.backlog)} in the backlog${filter.pipeline ? "" : each}</span>
      <span class="actions">
        ${filter.pipeline && html`<${PageSize} limit=${filter.limit} />`}
        ${filter.page && html`<button type="button" onClick=${() => goQuery({ page: "" })}>Newest</button>`}
        ${filter.pipeline && html`<button type="button" disabled=${!last} onClick=${() => goQuery({ page: last })}>Older</button>`}
      </span>
    </div>`;
}

export function Tasks() {
  const filter = filterOf(place.value.query);
  const [cancelling, setCancelling] = useState(false);
  const pipelines = useRead(readPipelines, []);
  const all = pipelines.value ?? [];
  const ready = Boolean(filter.pipeline) || pipelines.value !== undefined;
  const [app, name] = filter.pipeline.split("/");
  const listensTo = filter.pipeline && !filter.page ? pipelinePath(app, name ?? "", "events") : null;
  const page = useRead(
    async (signal) => {
      if (!ready) return undefined;
      return filter.pipeline ? readPage(filter, signal) : readNewest(filter, all, signal);
    },
    [filter, ready],
    { everyMs: filter.pipeline ? undefined : EVERY_MS },
  );
  const due = useRef(null);
  const changed = () => {
    due.current ??= setTimeout(() => {
      due.current = null;
      page.again();
    }, CHANGED_MS);
  };
  // Stats come first on a stream, so what changed while there was none is seen as well.
  const status = useEvents(listensTo, { stats: changed, changes: changed });
  const beside = html`<span class="soft"><${Theirs} text=${filter.pipeline} /></span>${listensTo && html`<${Live} status=${status} />`}`;
  return html`
    <${Head} title="Tasks" beside=${filter.pipeline && beside}>
      ${filter.pipeline && html`<button type="button" class="danger" onClick=${() => setCancelling(true)}>Cancel many…</button>`}
    <//>
    <${Card} title=${filter.states.length > 0 ? filter.states.join(", ") : "All states"} flush>
      ${pipelines.value?.length === 0
        ? html`<${NoPipelines} />`
        : html`<${Filters} filter=${filter} pipelines=${all} />
            <${Loaded} read=${page} what="tasks">${(value) => html`<${List} filter=${filter} pipelines=${all} page=${value} />`}<//>`}
    <//>
    ${cancelling && html`<${BulkCancel} app=${app} name=${name} states=${filter.states}
      onClose=${() => setCancelling(false)} />`}`;
}
