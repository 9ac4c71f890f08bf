// Dead letters: discarded tasks by their cause, and redriving those of a cause, a few first.

import { html, useState } from "../core/html.js";
import { count, many } from "../core/format.js";
import { pipelinePath, read, readPipelines } from "../core/api.js";
import { useRead } from "../core/live.js";
import { goQuery, href, place } from "../core/router.js";
import { Card, Empty, Head, Loaded, Soft, Theirs, Time } from "../part/basics.js";
import { PipelineChoice, PipelineLink } from "../part/frame.js";
import { NoPipelines } from "./pipelines.js";
import { Redrive } from "./redrive.js";

/** So many of the newest are read, of one pipeline or of each of so many. */
const OF_ONE = 1_000;
const OF_EACH = 100;
const PIPELINES_MAX = 20;
const PAGE = 100;
/** Ids that a cause lists. */
const IDS_MAX = 50;

/** A message without its words with digits: what tells causes apart. */
function fingerprint(message) {
  return message.split(/\s+/).filter((word) => !/\d/.test(word)).join(" ");
}

async function readDead(pipeline, max, signal) {
  const path = pipelinePath(pipeline.application, pipeline.name, "tasks");
  const tasks = [];
  let token;
  do {
    const query = { state: "discarded", limit: PAGE };
    if (token) query.page_token = token;
    const page = await read(path, { query, signal });
    tasks.push(...page.tasks);
    token = page.next_page_token;
  } while (token && tasks.length < max);
  return { tasks, hasMore: Boolean(token) };
}

/** Dead letters by pipeline, code and fingerprint; most first. */
function causesOf(tasks) {
  const causes = new Map();
  for (const task of tasks) {
    const error = task.errors?.at(-1) ?? { code: "unknown", message: "it has no error" };
    const key = JSON.stringify([task.application, task.pipeline, error.code, fingerprint(error.message)]);
    const cause = causes.get(key) ?? { key, error, app: task.application, name: task.pipeline, tasks: [], last_at: "" };
    cause.tasks.push(task);
    if ((task.ended_at ?? "") > cause.last_at) {
      cause.last_at = task.ended_at;
      cause.error = error;
    }
    causes.set(key, cause);
  }
  return [...causes.values()].sort((a, b) => b.tasks.length - a.tasks.length);
}

async function readAll(chosen, pipelines, signal) {
  const isChosen = (one) => `${one.application}/${one.name}` === chosen;
  const wanted = chosen ? pipelines.filter(isChosen) : pipelines.slice(0, PIPELINES_MAX);
  const found = await Promise.all(wanted.map((one) => readDead(one, chosen ? OF_ONE : OF_EACH, signal)));
  return {
    causes: causesOf(found.flatMap(({ tasks }) => tasks)),
    n: found.reduce((sum, { tasks }) => sum + tasks.length, 0),
    hasMore: found.some(({ hasMore }) => hasMore) || (!chosen && pipelines.length > PIPELINES_MAX),
  };
}

function Cause({ cause, onRedrive }) {
  const { error, app, name, tasks } = cause;
  const all = href.tasks(app, name, { state: "discarded" });
  return html`<li class="cause">
    <div>
      <code class="theirs">${error.code}</code> <span class="small"><${PipelineLink} app=${app} name=${name} /></span>
      <p class="clip"><${Theirs} text=${error.message} max=${400} /></p>
      <p class="soft small">newest <${Time} at=${cause.last_at} /></p>
    </div>
    <div>
      <div class="count">${count(tasks.length)}</div>
      <button type="button" class="small" onClick=${() => onRedrive({ app, name, code: error.code })}>Redrive…</button>
    </div>
    <details><summary>${many(tasks.length, "task")}</summary>
      <div class="ids">${tasks.slice(0, IDS_MAX).map((task) => html`<a class="mono" href=${href.task(app, task.id)}>${task.id}</a>`)}</div>
      ${tasks.length > IDS_MAX && html`<a class="small" href=${all}>all discarded tasks of ${name}</a>`}
    </details>
  </li>`;
}

export function DeadLetters() {
  const chosen = place.value.query.get("pipeline") ?? "";
  const [redriving, setRedriving] = useState(null);
  const pipelines = useRead(readPipelines, []);
  const known = pipelines.value;
  const dead = useRead(
    async (signal) => (known ? readAll(chosen, known, signal) : undefined),
    [chosen, known?.map((one) => one.number)],
  );
  const [app, name] = chosen.split("/");
  const more = dead.value?.hasMore ? " of the newest; there are more" : "";
  const choose = (pipeline) => goQuery({ pipeline });
  return html`
    <${Head} title="Dead letters" beside=${dead.value && html`<${Soft}>${many(dead.value.n, "task")}${more}<//>`}>
      <button type="button" onClick=${dead.again}>Read again</button>
      ${chosen && html`<button type="button" onClick=${() => setRedriving({ app, name })}>Redrive all…</button>`}
    <//>
    <${Card} title="By cause" flush>
      ${pipelines.problem && html`<${Loaded} read=${pipelines} what="pipelines">${() => null}<//>`}
      ${known?.length === 0 && html`<${NoPipelines} />`}
      ${known?.length > 0 && html`<div class="filters">
        <${PipelineChoice} pipelines=${known} value=${chosen} all onChange=${choose} />
      </div>`}
      ${known?.length !== 0 && html`<${Loaded} read=${dead} what="dead letters">${({ causes }) =>
        causes.length === 0
          ? html`<${Empty} title="No dead letters">
              <p>A task that fails with all its attempts, or that cannot be tried again, is kept here with all its errors.</p>
            <//>`
          : html`<ul class="causes">
              ${causes.map((cause) => html`<${Cause} key=${cause.key} cause=${cause} onRedrive=${setRedriving} />`)}
            </ul>`}<//>`}
    <//>
    ${redriving && html`<${Redrive} ...${redriving} onClose=${() => {
      setRedriving(null);
      dead.again();
    }} />`}`;
}
