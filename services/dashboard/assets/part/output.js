// Long texts and JSON of tasks: escaped, scrollable, of a bounded size until someone asks for all.

import { html, useEffect, useMemo, useRef, useState } from "../core/html.js";
import { count, many } from "../core/format.js";
import { print, tokens } from "../core/json.js";
import { Copy } from "./basics.js";

/** So many characters are drawn at first; the rest on request. */
const FIRST_MAX = 20_000;
/** So many characters are coloured: each token is an element. */
const COLOURED_MAX = 10_000;
/** So many characters are drawn at all: a browser lays out no more in a moment. The rest can be saved. */
const DRAWN_MAX = 2_000_000;
/** Only with a longer line there is something to wrap. */
const LONG_LINE = /[^\n]{60}/;

function save(text, name, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** A text of any size. `atEnd` shows its end first and stays there, as for an output that grows. */
export function Text({ text, label, name = "output.txt", type = "text/plain", atEnd = false, coloured = false }) {
  const [whole, setWhole] = useState(false);
  const [wraps, setWraps] = useState(true);
  const box = useRef(null);
  const follows = useRef(true);
  const max = whole ? DRAWN_MAX : FIRST_MAX;
  const isCut = text.length > max;
  const drawn = (isCut ? (atEnd ? text.slice(-max) : text.slice(0, max)) : text).toWellFormed();
  const parts = useMemo(() => (coloured && drawn.length <= COLOURED_MAX ? tokens(drawn) : undefined), [drawn, coloured]);
  const isWide = useMemo(() => LONG_LINE.test(drawn), [drawn]);
  useEffect(() => {
    if (atEnd && follows.current) box.current.scrollTop = box.current.scrollHeight;
  }, [drawn]);
  const scrolled = () => {
    const { scrollTop, scrollHeight, clientHeight } = box.current;
    follows.current = scrollHeight - scrollTop - clientHeight < 24;
  };
  const part = `${atEnd ? "the last" : "the first"} ${count(max)} of ${count(text.length)} characters`;
  const look = `text theirs ${coloured ? "json" : ""} ${wraps ? "" : "straight"}`;
  const turn = () => setWraps(!wraps);
  return html`<div>
    <div class="over">
      <span>${label} · ${isCut ? part : many(text.length, "character")}</span>
      <span class="actions">
        ${isCut && !whole && html`<button type="button" class="quiet small" onClick=${() => setWhole(true)}>Show all</button>`}
        ${isWide && html`<button type="button" class="quiet small" aria-pressed=${wraps} onClick=${turn}>Wrap</button>`}
        ${isCut && html`<button type="button" class="quiet small" onClick=${() => save(text, name, type)}>Save</button>`}
        <${Copy} text=${text} quiet />
      </span>
    </div>
    <pre ref=${box} onScroll=${scrolled} class=${look} tabindex="0" role="group" aria-label=${label}>${
      parts?.map((token) => (token.kind ? html`<span class=${token.kind}>${token.text}</span>` : token.text)) ?? drawn
    }</pre>
  </div>`;
}

/** JSON, indented. */
export function Json({ value, label, name = "data.json" }) {
  const text = useMemo(() => print(value), [value]);
  return html`<${Text} text=${text} label=${label} name=${name} type="application/json" coloured />`;
}
