// Lines over the newest minutes, drawn by uPlot; what they say now stands beside as text.

import { html, useEffect, useRef } from "../core/html.js";
import { theme } from "../core/theme.js";

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
  const axis = {
    stroke: colour("text-soft"),
    grid: { stroke: colour("line"), width: 1 },
    ticks: { show: false },
    font: "11px system-ui, sans-serif",
  };
  return {
    ...size,
    legend: { show: false },
    cursor: { drag: { setScale: false }, points: { size: 6 } },
    scales: { y: { range: (_, min, max) => [0, Math.max(max, 1)] } },
    axes: [{ ...axis, space: 70 }, { ...axis, size: 52, space: 30, values: (_, values) => values.map(format) }],
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
    let ended = false;
    let resized;
    library().then((UPlot) => {
      if (ended) return;
      const size = () => ({ width: Math.max(box.current.clientWidth, 120), height: box.current.clientHeight });
      plot.current = new UPlot(optionsOf(lines, format, size()), data.current, box.current);
      resized = new ResizeObserver(() => plot.current.setSize(size()));
      resized.observe(box.current);
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
