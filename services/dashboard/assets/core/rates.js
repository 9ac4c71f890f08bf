// Rates out of totals that only grow: the newest readings of a pipeline, and what happened between them.

/** How many readings are kept: five minutes of one a second. */
export const READINGS_MAX = 300;
/** A rate is taken over about so long. */
const OVER_MS = 10_000;

export const TOTALS = ["accepted", "completed", "failed_attempts", "cancelled", "discarded"];

/** The readings of one pipeline. */
export class Readings {
  constructor() {
    this.all = [];
  }

  /** Adds a reading. After a shard began anew its totals say nothing about those before. */
  add(stats, at) {
    const last = this.all.at(-1);
    if (last && (last.claims !== stats.claims || last.absent !== stats.absent)) this.all = [];
    this.all.push({
      at,
      claims: stats.claims,
      absent: stats.absent,
      totals: stats.totals,
      waiting: Object.values(stats.waiting ?? {}).reduce((sum, n) => sum + n, 0),
      running: stats.states.running,
      backlog: stats.backlog,
    });
    if (this.all.length > READINGS_MAX) this.all.shift();
  }

  /** Per second, by the name of the total; undefined before two readings. */
  rates(end = this.all.length - 1) {
    const last = this.all[end];
    let start = end - 1;
    while (start > 0 && last.at - this.all[start].at < OVER_MS) start -= 1;
    if (start < 0) return undefined;
    const first = this.all[start];
    const seconds = (last.at - first.at) / 1_000;
    const per = (name) => Math.max(0, (last.totals[name] - first.totals[name]) / seconds);
    return Object.fromEntries(TOTALS.map((name) => [name, per(name)]));
  }

  /** Columns for a chart: seconds, then a row for each of `pick(reading, rates)`. */
  columns(picks) {
    const points = this.all.map((reading, i) => ({ reading, rates: this.rates(i) }));
    return [
      points.map(({ reading }) => reading.at / 1_000),
      ...picks.map((pick) => points.map(({ reading, rates }) => pick(reading, rates) ?? null)),
    ];
  }
}
