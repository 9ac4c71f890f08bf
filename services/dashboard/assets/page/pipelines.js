// All pipelines: what state they are in, what they do, and how one is made.

import { html } from "../core/html.js";
import { count, many, quoted } from "../core/format.js";
import { pipelinePath, read, readPipelines } from "../core/api.js";
import { useRead } from "../core/live.js";
import { href } from "../core/router.js";
import { Card, Empty, Head, Loaded, Soft, State, Theirs, Time } from "../part/basics.js";
import { PipelineLink } from "../part/frame.js";
import { Cell, Table } from "../part/table.js";

const COLUMNS = ["Pipeline", "State", "Steps", "#Backlog", "#Running", "#Completed", "#Discarded", "Made"];
const EVERY_MS = 5_000;

/** The two commands that make a first pipeline and a first task. */
function firstPipeline() {
  const url = `${location.origin}/api/applications/demo/pipelines`;
  const pipeline = { name: "hello", pipeline: [{ executor: "echo", commands: ["echo hello {{name}}"] }] };
  return [
    `curl -X POST ${quoted(url)} -d ${quoted(JSON.stringify(pipeline))}`,
    `curl -X POST ${quoted(`${url}/hello?wait=10s`)} -d ${quoted(JSON.stringify({ name: "world" }))}`,
  ].join("\n");
}

export function NoPipelines() {
  return html`<${Empty} title="There is no pipeline yet" command=${firstPipeline()}>
    <p>A pipeline is a named list of steps; a task is one piece of work for it. These two lines make one of each:</p>
  <//>`;
}

/** Of so many pipelines stats are asked for. */
const STATS_MAX = 200;

/** Pipelines with their stats; null where these cannot be had, and undefined beyond `STATS_MAX`. */
export async function readWithStats(signal) {
  const pipelines = await readPipelines(signal);
  return Promise.all(
    pipelines.map(async (pipeline, i) => {
      if (i >= STATS_MAX) return { pipeline, stats: undefined };
      const path = pipelinePath(pipeline.application, pipeline.name, "stats");
      const stats = await read(path, { signal }).catch(() => null);
      return { pipeline, stats };
    }),
  );
}

/** That there are more pipelines than are asked. */
export function ofFirst(rows) {
  return rows.length > STATS_MAX ? `, of the first ${STATS_MAX} pipelines` : "";
}

/** What a pipeline's tasks go through, in a few words. */
function stepsOf(pipeline) {
  if (pipeline.pipeline.length === 0) return "workers of their own";
  return pipeline.pipeline.map((step) => step.executor).join(" → ");
}

function Row({ pipeline, stats }) {
  const { application: app, name } = pipeline;
  return html`<tr data-href=${href.pipeline(app, name)}>
    <${Cell} name="Pipeline" kind="name"><${PipelineLink} app=${app} name=${name} /><//>
    <${Cell} name="State"><${State} name=${pipeline.state} /><//>
    <${Cell} name="Steps"><span class="clip"><${Theirs} text=${stepsOf(pipeline)} /></span><//>
    <${Cell} name="Backlog" kind="number">${count(stats?.backlog)}<//>
    <${Cell} name="Running" kind="number">${count(stats?.states.running)}<//>
    <${Cell} name="Completed" kind="number">${count(stats?.totals.completed)}<//>
    <${Cell} name="Discarded" kind="number">${count(stats?.totals.discarded)}<//>
    <${Cell} name="Made"><${Time} at=${pipeline.created_at} /><//>
  </tr>`;
}

export function Pipelines() {
  const all = useRead(readWithStats, [], { everyMs: EVERY_MS });
  return html`
    <${Head} title="Pipelines" beside=${all.value && html`<span class="soft">${many(all.value.length, "pipeline")}</span>`} />
    <${Loaded} read=${all} what="pipelines">${(rows) =>
      html`<${Card} title="All pipelines" flush more=${html`<${Soft}>totals since a shard began${ofFirst(rows)}<//>`}>
        ${rows.length === 0
          ? html`<${NoPipelines} />`
          : html`<${Table} label="Pipelines" columns=${COLUMNS}>
              ${rows.map((row) => html`<${Row} key=${row.pipeline.number} ...${row} />`)}
            <//>`}
      <//>`}
    <//>`;
}
