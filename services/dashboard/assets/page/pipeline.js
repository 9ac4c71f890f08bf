// One pipeline: what it does now, why its tasks wait, who owns and works it; and pausing, resuming, draining.

import { html, useRef, useState } from "../core/html.js";
import { count, duration, many, rate } from "../core/format.js";
import { pipelinePath, Problem, read } from "../core/api.js";
import { useEvents, useRead, useTick } from "../core/live.js";
import { Readings } from "../core/rates.js";
import { href } from "../core/router.js";
import { Card, Head, Live, Loaded, Notice, Soft, State, Theirs, Tile, Time, Trouble } from "../part/basics.js";
import { Chart } from "../part/chart.js";
import { Failures } from "../part/failures.js";
import { Definition, Shards, Submitting, Workers } from "./pipeline_parts.js";
import { ModeButtons } from "./pipeline_mode.js";

const EVERY_MS = 5_000;
const SAMPLE_MS = 1_000;

function Waiting({ stats }) {
  const reasons = Object.entries(stats.waiting).sort(([, a], [, b]) => b - a);
  const most = reasons[0]?.[1] ?? 1;
  const parked = stats.parked && html`<p class="soft small">
    More are parked in the store: scheduled for later, or in backoff. They are not counted.
  </p>`;
  if (reasons.length === 0) return html`<p class="soft">Nothing in memory waits.</p>${parked}`;
  const bar = ([reason, n]) => html`<li>
    <span>${reason}</span>
    <svg viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">
      <rect class="ground" width="100" height="8" /><rect width=${(n / most) * 100} height="8" />
    </svg>
    <b>${count(n)}</b>
  </li>`;
  return html`<ul class="bars">${reasons.map(bar)}</ul>${parked}`;
}

function Numbers({ stats, rates }) {
  const times = (of) => (of.count === 0 ? "–" : html`${duration(of.p50_ms)}`);
  const more = (of) => (of.count === 0 ? "nothing in 5 minutes" : `p99 ${duration(of.p99_ms)}`);
  return html`<div class="tiles">
    <${Tile} name="Completed" value=${rate(rates?.completed)} more=${`${count(stats.totals.completed)} in all`} />
    <${Tile} name="Failed attempts" value=${rate(rates?.failed_attempts)} more=${`${count(stats.totals.failed_attempts)} in all`} />
    <${Tile} name="Discarded" value=${count(stats.totals.discarded)} more=${`${count(stats.totals.cancelled)} cancelled`} />
    <${Tile} name="Running" value=${count(stats.states.running)} />
    <${Tile} name="Backlog" value=${count(stats.backlog)} more=${stats.parked ? "more is parked" : "nothing is parked"} />
    <${Tile} name="Wait, p50" value=${times(stats.wait)} more=${more(stats.wait)} />
    <${Tile} name="Run, p50" value=${times(stats.run)} more=${more(stats.run)} />
  </div>`;
}

function Charts({ readings, stats, rates }) {
  const perSecond = readings.columns(["accepted", "completed", "failed_attempts"].map((name) => (_, each) => each?.[name]));
  const depth = readings.columns([(each) => each.backlog, (each) => each.waiting, (each) => each.running]);
  const waiting = Object.values(stats.waiting).reduce((sum, n) => sum + n, 0);
  return html`<div class="charts">
    <${Chart} label="Per second" format=${rate} columns=${perSecond} lines=${[
      { name: "accepted", colour: "blue", now: rate(rates?.accepted) },
      { name: "completed", colour: "green", now: rate(rates?.completed) },
      { name: "failed attempts", colour: "red", now: rate(rates?.failed_attempts) },
    ]} />
    <${Chart} label="Tasks" format=${count} columns=${depth} lines=${[
      { name: "backlog", colour: "violet", now: count(stats.backlog) },
      { name: "waiting", colour: "amber", now: count(waiting) },
      { name: "running", colour: "blue", now: count(stats.states.running) },
    ]} />
  </div>`;
}

function Paused({ pipeline }) {
  const { paused, state } = pipeline;
  if (state === "draining") {
    return html`<${Notice} kind="waits" title="It drains">
      <p>It starts what it has and takes no more tasks. Resume it to take tasks again.</p>
    <//>`;
  }
  if (state === "deleting") {
    return html`<${Notice} kind="waits" title="It is being deleted">
      <p>It takes no tasks, and is gone once all that it has have ended.</p>
    <//>`;
  }
  if (!paused) return null;
  const by = paused.by && html`, by <${Theirs} text=${paused.by} max=${100} />`;
  return html`<${Notice} kind="waits" title="It is paused">
    <p>It takes tasks and starts none, since <${Time} at=${paused.at} />${by}.</p>
    ${paused.reason && html`<p><${Theirs} text=${paused.reason} max=${600} /></p>`}
  <//>`;
}

function Now({ app, stats, readings }) {
  const rates = readings.rates();
  return html`
    ${stats.absent > 0 && html`<${Notice} kind="waits" title=${`${many(stats.absent, "shard")} could not be asked`}>
      <p>What moves between members, or whose member is away, is missing in these numbers.</p>
    <//>`}
    <${Numbers} stats=${stats} rates=${rates} />
    <${Card} title="The newest minutes"><${Charts} readings=${readings} stats=${stats} rates=${rates} /><//>
    <div class="columns">
      <${Card} title="Why tasks wait"><${Waiting} stats=${stats} /><//>
      <${Card} title="What fails" flush more=${html`<${Soft}>of about an hour<//>`}>
        <${Failures} failures=${stats.failures} app=${app} />
      <//>
    </div>`;
}

export function Pipeline({ app, name }) {
  const path = pipelinePath(app, name);
  const pipeline = useRead((signal) => read(path, { signal }), [path], { everyMs: EVERY_MS });
  const readings = useRef(null);
  readings.current ??= new Readings();
  const newest = useRef(null);
  const [stats, setStats] = useState(null);
  const [streamed, setStreamed] = useState(null);
  const status = useEvents(pipeline.value ? `${path}/events` : null, {
    stats: (found) => {
      const first = newest.current === null;
      newest.current = found;
      setStreamed(null);
      if (first) {
        readings.current.add(found, Date.now());
        setStats(found);
      }
    },
    problem: (problem) => setStreamed(new Problem(problem)),
  });
  // What has not changed is not sent: each second what holds is a reading.
  useTick(() => {
    if (status !== "on" || !newest.current) return;
    readings.current.add(newest.current, Date.now());
    setStats({ ...newest.current });
  }, SAMPLE_MS);
  return html`
    <${Head} crumbs=${html`<a href="/pipelines">Pipelines</a>`} title=${html`<${Theirs} text=${`${app}/${name}`} />`}
      beside=${pipeline.value && html`<${State} name=${pipeline.value.state} /><${Live} status=${status} />`}>
      ${pipeline.value && html`
        <a class="button" href=${href.tasks(app, name)}>Tasks</a>
        <a class="button" href=${href.deadLetters(app, name)}>Dead letters</a>
        <${ModeButtons} pipeline=${pipeline.value} onChanged=${pipeline.again} />`}
    <//>
    ${streamed && html`<${Trouble} problem=${streamed} />`}
    <${Loaded} read=${pipeline} what="the pipeline">${(value) => html`
      <${Paused} pipeline=${value} />
      ${stats && html`<${Now} app=${app} stats=${stats} readings=${readings.current} />`}
      <${Shards} path=${path} />
      <${Workers} path=${path} />
      <div class="columns"><${Definition} pipeline=${value} /><${Submitting} pipeline=${value} /></div>`}<//>`;
}
