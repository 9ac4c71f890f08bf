// Lines over the newest minutes, drawn by uPlot; what they say now stands beside as text.

import { html, useEffect, useRef } from "../core/html.js";
import { theme } from "../core/theme.js";

/** A chart that has just begun leaves room for what comes. */
const SECONDS_MIN = 60;
const SECONDS_STEPS = [1, 5, 10, 15, 30, 60, 120, 300];

let loading;

/** uPlot is large and not on every page. */
function library() {
  loading ??= import("../vendor/uplot.js").then((module) => module.default);
  return loading;
}

/** A colour of the design as it is in the current theme: a canvas knows no variables. */
function colour(name) {
  const probe = document.createElement("i");
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function optionsOf(lines, format, size) {
  const clock = (_, seconds) => seconds.map((each) => new Date(each * 1_000).toLocaleTimeString([], { hour12: false }));
  const axis = {
    stroke: colour("text-soft"),
    grid: { stroke: colour("line"), width: 1 },
    ticks: { show: false },
    font: "11px system-ui, sans-serif",
  };
  return {
    ...size,
    legend: { show: false },
    padding: [8, 12, 0, 0],
    cursor: { drag: { setScale: false }, points: { size: 6 } },
    scales: {
      x: { range: (_, min, max) => [Math.min(min, max - SECONDS_MIN), max] },
      y: { range: (_, min, max) => [0, Math.max(max * 1.1, 1)] },
    },
    axes: [
      { ...axis, size: 26, space: 80, incrs: SECONDS_STEPS, values: clock },
      { ...axis, size: 52, space: 30, values: (_, values) => values.map(format) },
    ],
    series: [{}, ...lines.map((line) => ({
      label: line.name,
      stroke: colour(line.colour),
      width: 1.75,
      points: { show: false },
    }))],
  };
}

/** `lines` are `{name, colour, now}`; `columns` are seconds and then a row for each line. */
export function Chart({ label, lines, columns, format = String }) {
  const box = useRef(null);
  const plot = useRef(null);
  const data = useRef(columns);
  data.current = columns;
  const dark = theme.value;
  useEffect(() => {
    const element = box.current;
    const size = () => ({ width: Math.max(element.clientWidth, 120), height: element.clientHeight });
    let ended = false;
    let resized;
    library().then((UPlot) => {
      if (ended) return;
      plot.current = new UPlot(optionsOf(lines, format, size()), data.current, element);
      resized = new ResizeObserver(() => plot.current?.setSize(size()));
      resized.observe(element);
    });
    return () => {
      ended = true;
      resized?.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [dark]);
  useEffect(() => plot.current?.setData(columns), [columns]);
  const said = lines.map((line) => `${line.name} ${line.now}`).join(", ");
  return html`<figure class="chart">
    <div class="plot" ref=${box} role="img" aria-label=${`${label}: ${said}`}></div>
    <figcaption><ul class="legend">
      ${lines.map((line) => html`<li class=${line.colour}><i></i>${line.name} <b>${line.now}</b></li>`)}
    </ul></figcaption>
  </figure>`;
}
