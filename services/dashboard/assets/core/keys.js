// The keyboard: one key, or g and a letter, anywhere but in fields and dialogs; and rows of the list on the page.

import { go } from "./router.js";

/** Where g and a letter go, and what help says about it. */
export const PLACES = [
  { key: "o", path: "/", name: "Overview" },
  { key: "p", path: "/pipelines", name: "Pipelines" },
  { key: "t", path: "/tasks", name: "Tasks" },
  { key: "d", path: "/dead-letters", name: "Dead letters" },
  { key: "m", path: "/members", name: "Members" },
];

/** How long g waits for its letter. */
const WAIT_MS = 1_500;

function isTyping(target) {
  return target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|SELECT|TEXTAREA)$/.test(target.tagName));
}

function moveRow(by) {
  const rows = [...document.querySelectorAll("main tr[data-href]")];
  if (rows.length === 0) return;
  const at = rows.findIndex((row) => row.classList.contains("at"));
  const to = Math.min(Math.max(at + by, 0), rows.length - 1);
  rows[at]?.classList.remove("at");
  rows[to].classList.add("at");
  rows[to].querySelector("a")?.focus({ preventScroll: true });
  rows[to].scrollIntoView({ block: "nearest" });
}

/** Listens; `actions` maps further keys to what they do. */
export function listen(actions) {
  let leader = 0;
  document.addEventListener("keydown", (event) => {
    const plain = !event.ctrlKey && !event.metaKey && !event.altKey;
    if (!plain || event.defaultPrevented || isTyping(event.target) || document.querySelector("dialog[open]")) return;
    const afterG = Date.now() - leader < WAIT_MS;
    leader = 0;
    const found = afterG && PLACES.find(({ key }) => key === event.key);
    if (found) go(found.path);
    else if (event.key === "g") leader = Date.now();
    else if (event.key === "j") moveRow(1);
    else if (event.key === "k") moveRow(-1);
    else if (actions[event.key]) actions[event.key]();
    else return;
    event.preventDefault();
  });
}
