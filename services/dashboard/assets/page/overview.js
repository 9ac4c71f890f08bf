// All pipelines at a glance: what happens per second, how long tasks wait and run, and what fails.

import { html, useRef } from "../core/html.js";
import { count, duration, many, rate } from "../core/format.js";
import { useRead } from "../core/live.js";
import { READINGS_MAX, Readings, TOTALS } from "../core/rates.js";
import { href } from "../core/router.js";
import { Card, Head, Loaded, Notice, Soft, State, Tile } from "../part/basics.js";
import { Chart } from "../part/chart.js";
import { Failures } from "../part/failures.js";
import { PipelineLink } from "../part/frame.js";
import { Cell, Table } from "../part/table.js";
import { NoPipelines, ofFirst, readWithStats } from "./pipelines.js";

const COLUMNS = ["Pipeline", "State", "#Backlog", "#Running", "#Completed", "#Failed", "#Wait", "#Run"];
const EVERY_MS = 2_000;
const FAILURES_MAX = 20;

/** Readings of every pipeline, and what all do together. */
class Together {
  constructor() {
    this.each = new Map();
    this.points = [];
  }

  add(rows, at) {
    const known = new Map();
    for (const { pipeline, stats } of rows) {
      if (!stats) continue;
      const readings = this.each.get(pipeline.number) ?? new Readings();
      readings.add(stats, at);
      known.set(pipeline.number, readings);
    }
    this.each = known;
    const rates = [...known.values()].map((readings) => readings.rates()).filter(Boolean);
    const sum = (name) => rates.reduce((soFar, each) => soFar + each[name], 0);
    const all = rates.length > 0 ? Object.fromEntries(TOTALS.map((name) => [name, sum(name)])) : undefined;
    this.points.push({ at, rates: all });
    if (this.points.length > READINGS_MAX) this.points.shift();
    const column = (name) => this.points.map((point) => point.rates?.[name] ?? null);
    const columns = [this.points.map((point) => point.at / 1_000), ...["accepted", "completed", "failed_attempts"].map(column)];
    const ratesOf = new Map([...known].map(([number, readings]) => [number, readings.rates()]));
    return { rows, rates: all, ratesOf, columns };
  }
}

function Percentiles({ of: times }) {
  if (!times || times.count === 0) return html`<span class="soft">–</span>`;
  return html`<span class="nowrap">${duration(times.p50_ms)} <span class="soft">/ ${duration(times.p99_ms)}</span></span>`;
}

function Row({ pipeline, stats, rates }) {
  return html`<tr data-href=${href.pipeline(pipeline.application, pipeline.name)}>
    <${Cell} name="Pipeline" kind="name"><${PipelineLink} app=${pipeline.application} name=${pipeline.name} /><//>
    <${Cell} name="State"><${State} name=${pipeline.state} /><//>
    <${Cell} name="Backlog" kind="number">${count(stats?.backlog)}<//>
    <${Cell} name="Running" kind="number">${count(stats?.states.running)}<//>
    <${Cell} name="Completed" kind="number">${rate(rates?.completed)}<//>
    <${Cell} name="Failed" kind="number">${rate(rates?.failed_attempts)}<//>
    <${Cell} name="Wait" kind="number"><${Percentiles} of=${stats?.wait} /><//>
    <${Cell} name="Run" kind="number"><${Percentiles} of=${stats?.run} /><//>
  </tr>`;
}

/** The failures of all pipelines, most first. */
function failuresOf(rows) {
  const all = rows.flatMap(({ pipeline, stats }) =>
    (stats?.failures ?? []).map((failure) => ({ ...failure, app: pipeline.application, name: pipeline.name })),
  );
  return all.sort((a, b) => b.count - a.count).slice(0, FAILURES_MAX);
}

function Numbers({ rows, rates }) {
  const known = rows.map(({ stats }) => stats).filter(Boolean);
  const sum = (pick) => known.reduce((soFar, stats) => soFar + pick(stats), 0);
  const waiting = sum((stats) => stats.states.scheduled + stats.states.available + stats.states.retryable);
  return html`<div class="tiles">
    <${Tile} name="Accepted" value=${rate(rates?.accepted)} />
    <${Tile} name="Completed" value=${rate(rates?.completed)} />
    <${Tile} name="Failed attempts" value=${rate(rates?.failed_attempts)} />
    <${Tile} name="Running" value=${count(sum((stats) => stats.states.running))} />
    <${Tile} name="Waiting" value=${count(waiting)} more="in memory" />
    <${Tile} name="Backlog" value=${count(sum((stats) => stats.backlog))} more="not read yet" />
  </div>`;
}

function Notes({ rows }) {
  const unknown = rows.filter(({ stats }) => stats === null);
  const held = rows.filter(({ pipeline }) => pipeline.state !== "active");
  const absent = rows.reduce((sum, { stats }) => sum + (stats?.absent ?? 0), 0);
  return html`
    ${unknown.length > 0 && html`<${Notice} kind="bad" role="alert" title=${`${many(unknown.length, "pipeline")} could not be asked`}>
      <p>The numbers below are without ${unknown.length === 1 ? "it" : "them"}.</p>
    <//>`}
    ${absent > 0 && html`<${Notice} kind="waits" title=${`${many(absent, "shard")} could not be asked`}>
      <p>Shards that move between members, or whose member is away, are missing in the numbers below.${" "}
        <a href="/members">See the members</a></p>
    <//>`}
    ${held.length > 0 && html`<${Notice} kind="waits" title=${`${many(held.length, "pipeline")} not at work as usual`}>
      <p>${held.map(({ pipeline }) => html`
        <${PipelineLink} app=${pipeline.application} name=${pipeline.name} /> <${State} name=${pipeline.state} /> `)}</p>
    <//>`}`;
}

function All({ rows, rates, ratesOf, columns }) {
  if (rows.length === 0) return html`<${Card} title="Welcome" flush><${NoPipelines} /><//>`;
  return html`
    <${Notes} rows=${rows} />
    <${Numbers} rows=${rows} rates=${rates} />
    <${Card} title="Per second"><${Chart} label="Per second" format=${rate} columns=${columns} lines=${[
      { name: "accepted", colour: "blue", now: rate(rates?.accepted) },
      { name: "completed", colour: "green", now: rate(rates?.completed) },
      { name: "failed attempts", colour: "red", now: rate(rates?.failed_attempts) },
    ]} /><//>
    <${Card} title="Pipelines" flush more=${html`<${Soft}>wait and run: p50 / p99 of about 5 minutes${ofFirst(rows)}<//>`}>
      <${Table} label="Pipelines" columns=${COLUMNS}>
        ${rows.map((row) => html`<${Row} key=${row.pipeline.number} ...${row} rates=${ratesOf.get(row.pipeline.number)} />`)}
      <//>
    <//>
    <${Card} title="What fails" flush more=${html`<${Soft}>of about an hour, grouped by code and message<//>`}>
      <${Failures} failures=${failuresOf(rows)} withPipeline />
    <//>`;
}

export function Overview() {
  const together = useRef(null);
  together.current ??= new Together();
  const read = useRead(async (signal) => {
    const rows = await readWithStats(signal);
    return together.current.add(rows, Date.now());
  }, [], { everyMs: EVERY_MS });
  return html`
    <${Head} title="Overview" />
    <${Loaded} read=${read} what="the overview">${(value) => html`<${All} ...${value} />`}<//>`;
}
