// Dark or light: as the system has it, unless someone chose; the choice is kept in this browser.

import { effect, signal } from "../vendor/preact-signals.js";

const KEY = "workload-theme";
const system = matchMedia("(prefers-color-scheme: dark)");

function chosen() {
  try {
    const kept = localStorage.getItem(KEY);
    return kept === "dark" || kept === "light" ? kept : null;
  } catch {
    // A browser may keep nothing; then the system decides.
    return null;
  }
}

/** "dark" or "light". */
export const theme = signal(chosen() ?? (system.matches ? "dark" : "light"));

system.addEventListener("change", () => {
  if (!chosen()) theme.value = system.matches ? "dark" : "light";
});

effect(() => {
  document.documentElement.dataset.theme = theme.value;
});

/** Takes the other theme and remembers it. */
export function turnTheme() {
  theme.value = theme.value === "dark" ? "light" : "dark";
  try {
    localStorage.setItem(KEY, theme.value);
  } catch {
    // It lasts as long as the page.
  }
}
