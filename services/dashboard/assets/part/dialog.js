// Dialogs: the browser's own, which keep the focus inside, give it back, and close on Escape.

import { html, useEffect, useRef } from "../core/html.js";

/** Is open for as long as it is drawn; `onClose` must take it away. */
export function Dialog({ title, onClose, footer, children }) {
  const dialog = useRef(null);
  useEffect(() => {
    const before = document.activeElement;
    dialog.current.showModal();
    return () => before?.focus?.();
  }, []);
  return html`<dialog ref=${dialog} class="dialog" aria-labelledby="dialog-title" onCancel=${(event) => {
    event.preventDefault();
    onClose();
  }}>
    <header>
      <h2 id="dialog-title">${title}</h2>
      <button type="button" class="quiet" onClick=${onClose} aria-label="Close">✕</button>
    </header>
    <div class="body">${children}</div>
    ${footer && html`<footer>${footer}</footer>`}
  </dialog>`;
}
