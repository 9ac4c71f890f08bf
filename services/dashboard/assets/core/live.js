// What keeps a page current: reads that repeat and streams of events, both at rest while nobody looks.

import { signal } from "../vendor/preact-signals.js";
import { useEffect, useRef, useState } from "../vendor/preact-hooks.js";
import { parse } from "./json.js";
import { problemOf } from "./api.js";

/** How long to wait before a read or stream that failed is tried again: doubled each time. */
const AGAIN_MIN_MS = 2_000;
const AGAIN_MAX_MS = 30_000;

/** The time that relative times are shown against. */
export const now = signal(Date.now());
/** Whether the page is looked at. */
export const visible = signal(!document.hidden);

document.addEventListener("visibilitychange", () => {
  visible.value = !document.hidden;
  now.value = Date.now();
});
setInterval(() => {
  if (visible.value) now.value = Date.now();
}, 1_000);

function later(nFailures) {
  return Math.min(AGAIN_MIN_MS * 2 ** (nFailures - 1), AGAIN_MAX_MS);
}

/**
 * Reads when `deps` change, then every `everyMs`; pauses while hidden. What was read before stays until the next
 * answer, unless `deps` changed.
 */
export function useRead(work, deps, { everyMs } = {}) {
  const [state, setState] = useState({ key: null, value: undefined, problem: null });
  const again = useRef(() => {});
  const key = JSON.stringify(deps);
  const seen = visible.value;
  useEffect(() => {
    if (!seen) return undefined;
    const ended = new AbortController();
    let timer;
    let nFailures = 0;
    let round = 0;
    async function run() {
      clearTimeout(timer);
      round += 1;
      const mine = round;
      try {
        const value = await work(ended.signal);
        if (ended.signal.aborted || mine !== round) return;
        nFailures = 0;
        setState({ key, value, problem: null });
        if (everyMs) timer = setTimeout(run, everyMs);
      } catch (err) {
        if (ended.signal.aborted || mine !== round) return;
        const problem = problemOf(err);
        nFailures += 1;
        setState((before) => ({ key, value: before.key === key ? before.value : undefined, problem }));
        const mayPass = problem.status === 0 || problem.status === 429 || problem.status >= 500;
        if (everyMs || mayPass) timer = setTimeout(run, later(nFailures));
      }
    }
    again.current = run;
    run();
    return () => {
      ended.abort();
      clearTimeout(timer);
    };
  }, [key, seen]);
  const current = state.key === key ? state : { value: undefined, problem: null };
  return { ...current, loading: current.value === undefined && !current.problem, again: () => again.current() };
}

/**
 * Listens to a stream of events while the page is looked at, and connects again when it breaks. `on` maps names of
 * events to functions of their data. Answers how it stands: `on`, `lost` or `paused`; without a `url` it rests.
 */
export function useEvents(url, on) {
  const [status, setStatus] = useState("paused");
  const handlers = useRef(on);
  handlers.current = on;
  const seen = visible.value;
  useEffect(() => {
    if (!url || !seen) {
      setStatus("paused");
      return undefined;
    }
    let source;
    let timer;
    let nFailures = 0;
    function connectLater() {
      source.close();
      setStatus("lost");
      clearTimeout(timer);
      nFailures += 1;
      timer = setTimeout(connect, later(nFailures));
    }
    function connect() {
      source = new EventSource(url);
      source.onopen = () => setStatus("on");
      for (const name of Object.keys(handlers.current)) {
        source.addEventListener(name, (event) => {
          // After a problem the server ends the stream.
          if (name === "problem") connectLater();
          else nFailures = 0;
          handlers.current[name]?.(parse(event.data));
        });
      }
      source.onerror = () => {
        setStatus("lost");
        // Unless it is closed, the browser connects again by itself.
        if (source.readyState === EventSource.CLOSED) connectLater();
      };
    }
    connect();
    return () => {
      source.close();
      clearTimeout(timer);
    };
  }, [url, seen]);
  return status;
}

/** Calls `work` every `everyMs` while the page is looked at. */
export function useTick(work, everyMs) {
  const current = useRef(work);
  current.current = work;
  const seen = visible.value;
  useEffect(() => {
    if (!seen) return undefined;
    const timer = setInterval(() => current.current(), everyMs);
    return () => clearInterval(timer);
  }, [seen, everyMs]);
}
