// What pages are written with: markup, hooks and signals of the vendored libraries, under one roof.

import { Fragment, h, render } from "../vendor/preact.js";
import htm from "../vendor/htm.js";

export { useCallback, useEffect, useMemo, useRef, useState } from "../vendor/preact-hooks.js";
export { batch, computed, effect, signal } from "../vendor/preact-signals.js";
export { Fragment, render };

/** Markup of a template; every value in it becomes text or an attribute, never markup. */
export const html = htm.bind(h);
