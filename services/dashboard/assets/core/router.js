// Which page is shown: the address is the only state of a page that lasts, so that back, reload and a copied link work.

import { signal } from "../vendor/preact-signals.js";

function read() {
  return { path: location.pathname, query: new URLSearchParams(location.search) };
}

/** `{path, query}` of the address. */
export const place = signal(read());

/** Goes to an address of ours. */
export function go(href, { replace = false } = {}) {
  const target = new URL(href, location.href);
  const same = target.href === location.href;
  if (!same) history[replace ? "replaceState" : "pushState"](null, "", target);
  const moved = target.pathname !== place.value.path;
  place.value = read();
  if (moved && !replace) scrollTo(0, 0);
}

/** Changes the query alone; `undefined` and empty values are left out. */
export function goQuery(changes, options) {
  const query = new URLSearchParams(place.value.query);
  for (const [name, value] of Object.entries(changes)) {
    if (value === undefined || value === null || value === "") query.delete(name);
    else query.set(name, value);
  }
  const text = query.toString();
  go(place.value.path + (text ? `?${text}` : ""), options);
}

/** The values of `{names}` in a pattern if the path fits it, else null. */
export function match(pattern, path) {
  const wanted = pattern.split("/");
  const found = path.replace(/(.)\/$/, "$1").split("/");
  if (wanted.length !== found.length) return null;
  const values = {};
  for (let i = 0; i < wanted.length; i += 1) {
    if (wanted[i].startsWith("{")) {
      try {
        values[wanted[i].slice(1, -1)] = decodeURIComponent(found[i]);
      } catch {
        return null;
      }
    } else if (wanted[i] !== found[i]) {
      return null;
    }
  }
  return values;
}

/** Addresses of pages; each is the path of the API without `/api`. */
export const href = {
  pipeline: (app, name) => `/applications/${encodeURIComponent(app)}/pipelines/${encodeURIComponent(name)}`,
  task: (app, id) => `/applications/${encodeURIComponent(app)}/tasks/${encodeURIComponent(id)}`,
  tasks: (app, name, query = {}) => `/tasks?${new URLSearchParams({ pipeline: `${app}/${name}`, ...query })}`,
  deadLetters: (app, name) => `/dead-letters?${new URLSearchParams({ pipeline: `${app}/${name}` })}`,
};

/** Follows links of ours without loading the page again. */
export function listen() {
  addEventListener("popstate", () => {
    place.value = read();
  });
  document.addEventListener("click", (event) => {
    const plain = event.button === 0 && !event.metaKey && !event.ctrlKey && !event.shiftKey && !event.altKey;
    const link = event.target instanceof Element ? event.target.closest("a[href]") : null;
    if (!plain || event.defaultPrevented || !link) return;
    const ours = link.origin === location.origin && !link.pathname.startsWith("/api/");
    if (!ours || link.target || link.hasAttribute("download") || link.getAttribute("href").startsWith("#")) return;
    event.preventDefault();
    go(link.href);
  });
}
