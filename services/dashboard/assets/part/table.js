// Tables: rows on a wide page, small cards on a phone, where each value stands under its column's name.

import { html } from "../core/html.js";
import { Theirs } from "./basics.js";

/** `columns` are names; one that begins with # is of numbers. */
export function Table({ label, columns, children }) {
  const head = (name) => (name.startsWith("#") ? html`<th class="number">${name.slice(1)}</th>` : html`<th>${name}</th>`);
  return html`<div class="scroll" tabindex="0" role="group" aria-label=${label}>
    <table class="rows folds">
      <thead><tr>${columns.map(head)}</tr></thead>
      <tbody>${children}</tbody>
    </table>
  </div>`;
}

function isNothing(value) {
  return value === null || value === undefined || value === false || value === "";
}

/** A value under its column's name, or a `text` that others wrote; nothing at all where there is none. */
export function Cell({ name, kind = "", text, mono, children }) {
  const value = isNothing(text) ? children : html`<${Theirs} text=${text} max=${120} mono=${mono} />`;
  const isEmpty = [value].flat().every(isNothing);
  return html`<td data-name=${name} class=${kind}>${!isEmpty && html`<span>${value}</span>`}</td>`;
}
