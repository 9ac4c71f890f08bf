// JSON as it was written: numbers keep their digits, and texts of any depth are printed for people.

/** The deepest nesting that is indented; what is deeper stays on one line. */
const DEPTH_MAX = 40;

/**
 * Reads JSON. A number that JavaScript would write in another way, such as 2.0 or one of many digits, is kept as it is
 * written: an object that `print` writes, and that is no number to count with.
 */
export function parse(text) {
  return JSON.parse(text, (_, value, context) => {
    const source = context?.source;
    const rounded = typeof value === "number" && source !== undefined && String(value) !== source;
    return rounded && JSON.rawJSON ? JSON.rawJSON(source) : value;
  });
}

// Letters that turn the order of those around them: in JSON they can be written out, and it says the same.
const TURNING = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/** JSON on one line, in which nothing looks other than it is. */
export function write(value) {
  return seen(JSON.stringify(value) ?? "");
}

/** JSON with an indent of two. */
export function print(value) {
  return depth(value) > DEPTH_MAX ? write(value) : seen(JSON.stringify(value, null, 2) ?? "");
}

function seen(text) {
  return text.replace(TURNING, (one) => `\\u${one.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

function depth(value, soFar = 0) {
  if (value === null || typeof value !== "object" || soFar > DEPTH_MAX) return soFar;
  let most = soFar + 1;
  for (const inner of Object.values(value)) most = Math.max(most, depth(inner, soFar + 1));
  return most;
}

const TOKEN = /("(?:\\.|[^"\\])*")(\s*:)?|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|\b(?:true|false|null)\b/g;

/** Cuts printed JSON into `{kind, text}`, to be coloured: kinds are key, string, number, word and none. */
export function tokens(text) {
  const found = [];
  let at = 0;
  for (const match of text.matchAll(TOKEN)) {
    if (match.index > at) found.push({ kind: "", text: text.slice(at, match.index) });
    const [whole, string, colon] = match;
    if (string && colon) {
      found.push({ kind: "key", text: string }, { kind: "", text: colon });
    } else {
      const kind = string ? "string" : /^[-\d]/.test(whole) ? "number" : "word";
      found.push({ kind, text: whole });
    }
    at = match.index + whole.length;
  }
  if (at < text.length) found.push({ kind: "", text: text.slice(at) });
  return found;
}
