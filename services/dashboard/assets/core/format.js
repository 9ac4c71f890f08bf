// Numbers, times and durations for people, and texts of others made safe to look at.

const UNITS = [["d", 86_400_000], ["h", 3_600_000], ["min", 60_000], ["s", 1_000]];

/** A duration in milliseconds: `340 ms`, `1.2 s`, `3 min 20 s`. */
export function duration(ms) {
  if (!Number.isFinite(ms)) return "–";
  if (ms < 0) return "0 ms";
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  if (ms < 10_000) return `${(ms / 1_000).toFixed(1)} s`;
  const i = UNITS.findIndex(([, size]) => ms >= size);
  const [unit, size] = UNITS[i];
  const n = Math.floor(ms / size);
  const next = UNITS[i + 1];
  const rest = next ? Math.floor((ms % size) / next[1]) : 0;
  return rest > 0 && n < 10 ? `${n} ${unit} ${rest} ${next[0]}` : `${n} ${unit}`;
}

/** How long ago, or how long until: `3 min ago`, `in 20 s`. */
export function relative(at, now) {
  const ms = now - Date.parse(at);
  if (!Number.isFinite(ms)) return String(at);
  if (Math.abs(ms) < 1_000) return "now";
  const size = UNITS.find(([, unit]) => Math.abs(ms) >= unit);
  const text = `${Math.floor(Math.abs(ms) / size[1])} ${size[0]}`;
  return ms > 0 ? `${text} ago` : `in ${text}`;
}

/** The exact time, in the reader's zone and in UTC. */
export function exact(at) {
  const time = new Date(at);
  return Number.isNaN(time.getTime()) ? String(at) : `${time.toLocaleString()} (${at})`;
}

/** A count with thin groups: `12 345`; above a million `1.23 M`. */
export function count(n) {
  if (n === undefined || n === null || !Number.isFinite(Number(n))) return "–";
  if (n >= 1_000_000) return `${(n / 1_000_000).toFixed(2)} M`;
  return Number(n).toLocaleString("en-US").replaceAll(",", "\u202f");
}

/** A rate per second. */
export function rate(perSecond) {
  if (perSecond === undefined || perSecond === null) return "–";
  if (perSecond === 0) return "0/s";
  if (perSecond < 0.1) return `${count(Math.round(perSecond * 600) / 10)}/min`;
  return perSecond < 10 ? `${perSecond.toFixed(1)}/s` : `${count(Math.round(perSecond))}/s`;
}

/** Bytes: `4.2 KiB`. */
export function bytes(n) {
  if (!Number.isFinite(n)) return "–";
  if (n < 1_024) return `${n} B`;
  const [size, unit] = n < 1_048_576 ? [1_024, "KiB"] : [1_048_576, "MiB"];
  return `${(n / size).toFixed(1)} ${unit}`;
}

// Characters that are not seen, or that turn the order of those around them.
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;

/** A short text of others on one line: what cannot be seen is written out, and it ends at `max` characters. */
export function shown(text, max = 300) {
  const all = String(text ?? "");
  const cut = all.length > max ? `${all.slice(0, max).toWellFormed()}…` : all;
  return cut.replace(UNSEEN, (one) => {
    if (one === "\n" || one === "\t" || one === "\r") return " ";
    return `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`;
  });
}

/** A text as one argument of a POSIX shell. */
export function quoted(text) {
  return `'${String(text).replaceAll("'", "'\\''")}'`;
}

/** `1 task`, `2 tasks`. */
export function many(n, word) {
  return `${count(n)} ${word}${n === 1 ? "" : "s"}`;
}
