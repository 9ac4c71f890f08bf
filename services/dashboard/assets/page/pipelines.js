// All pipelines: what state they are in, what they do, and how one is made.

import { html } from "../core/html.js";
import { count, many, quoted } from "../core/format.js";
import { pipelinePath, read, readPipelines } from "../core/api.js";
import { useRead } from "../core/live.js";
import { href } from "../core/router.js";
import { Card, Empty, Head, Loaded, State, Theirs, Time } from "../part/basics.js";
import { PipelineLink } from "../part/frame.js";

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

/** Pipelines with their stats; null where these cannot be had. */
export async function readWithStats(signal) {
  const pipelines = await readPipelines(signal);
  return Promise.all(
    pipelines.map(async (pipeline) => {
      const path = pipelinePath(pipeline.application, pipeline.name, "stats");
      const stats = await read(path, { signal }).catch(() => null);
      return { pipeline, stats };
    }),
  );
}

/** What a pipeline's tasks go through, in a few words. */
function stepsOf(pipeline) {
  if (pipeline.pipeline.length === 0) return "workers of their own";
  return pipeline.pipeline.map((step) => step.executor).join(" → ");
}

function Row({ pipeline, stats }) {
  const { application: app, name } = pipeline;
  return html`<tr data-href=${href.pipeline(app, name)}>
    <td data-name="Pipeline" class="name"><${PipelineLink} app=${app} name=${name} /></td>
    <td data-name="State"><${State} name=${pipeline.state} /></td>
    <td data-name="Steps"><span class="clip"><${Theirs} text=${stepsOf(pipeline)} /></span></td>
    <td data-name="Backlog" class="number"><span>${count(stats?.backlog)}</span></td>
    <td data-name="Running" class="number"><span>${count(stats?.states.running)}</span></td>
    <td data-name="Completed" class="number"><span>${count(stats?.totals.completed)}</span></td>
    <td data-name="Discarded" class="number"><span>${count(stats?.totals.discarded)}</span></td>
    <td data-name="Made"><${Time} at=${pipeline.created_at} /></td>
  </tr>`;
}

export function Pipelines() {
  const all = useRead(readWithStats, [], { everyMs: EVERY_MS });
  return html`
    <${Head} title="Pipelines" beside=${all.value && html`<span class="soft">${many(all.value.length, "pipeline")}</span>`} />
    <${Loaded} read=${all} what="pipelines">${(rows) =>
      html`<${Card} title="All pipelines" flush more=${html`<span class="soft small">totals since a shard began</span>`}>
        ${rows.length === 0
          ? html`<${NoPipelines} />`
          : html`<div class="scroll" tabindex="0" role="group" aria-label="Pipelines"><table class="rows folds">
              <thead><tr><th>Pipeline</th><th>State</th><th>Steps</th><th class="number">Backlog</th><th class="number">Running</th><th class="number">Completed</th><th class="number">Discarded</th><th>Made</th></tr></thead>
              <tbody>${rows.map((row) => html`<${Row} key=${row.pipeline.number} ...${row} />`)}</tbody>
            </table></div>`}
      <//>`}
    <//>`;
}
