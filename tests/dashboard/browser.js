// A real Chromium, and pages that notice what must not happen: violations of the policy, errors, requests elsewhere.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
/** How long a page may take to show something. */
const WAIT_MS = 15_000;

/** The widths that every page is tried at. */
export const WIDTHS = { wide: { width: 1280, height: 860 }, phone: { width: 360, height: 740 } };

export async function startBrowser() {
  // As root, as in a container, Chromium has no sandbox of its own.
  const args = process.getuid() === 0 ? ["--no-sandbox"] : [];
  return chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args });
}

/**
 * A page of its own context. `page.faults` are what must not happen; `expected` are pieces of console errors that the
 * test provokes, such as a status. With `ownClock` its time can be put forward by `page.clock`.
 */
export async function openPage(browser, dev, path, { size = WIDTHS.wide, theme = "light", expected = [], ownClock = false } = {}) {
  const context = await browser.newContext({ viewport: size, colorScheme: theme, reducedMotion: "reduce" });
  await context.grantPermissions(["clipboard-read", "clipboard-write"], { origin: dev.origin });
  context.setDefaultTimeout(WAIT_MS);
  await context.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) => {
      console.error(`policy: ${event.effectiveDirective} ${event.blockedURI} ${event.sourceFile}:${event.lineNumber}`);
    });
  });
  const page = await context.newPage();
  if (ownClock) await page.clock.install();
  page.faults = [];
  page.on("console", (message) => {
    const text = message.text();
    const isFault = message.type() === "error" || message.type() === "warning";
    if (isFault && !expected.some((part) => text.includes(part))) page.faults.push(`${message.type()}: ${text}`);
  });
  page.on("pageerror", (err) => page.faults.push(`exception: ${err.message}`));
  page.on("dialog", (dialog) => {
    page.faults.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  page.on("request", (request) => {
    const url = new URL(request.url());
    if (url.origin !== dev.origin && url.protocol !== "blob:") page.faults.push(`request to ${url.origin}`);
  });
  await page.goto(dev.origin + path);
  return page;
}

/** Closes the page, and fails if anything happened on it that must not. */
export async function closePage(page) {
  const hacked = await page.evaluate(() => window.hacked);
  await page.context().close();
  assert.equal(hacked, undefined, "a text of a task ran as a script");
  assert.deepEqual(page.faults, []);
}

/** Fails unless the whole page fits its width: only parts of it may scroll sideways. */
export async function assertFits(page) {
  const over = await page.evaluate(() => {
    const all = [...document.querySelectorAll("body *")];
    const isOver = (one) => one.getBoundingClientRect().right > innerWidth + 1;
    const beyond = all.filter((one) => isOver(one) && !one.closest(".scroll, pre, .unseen, svg, .plot"));
    const elements = beyond.map((one) => one.outerHTML.slice(0, 120));
    return { by: document.documentElement.scrollWidth - innerWidth, elements };
  });
  assert.ok(over.by <= 0, `the page is ${over.by} pixels too wide: ${over.elements.join("\n")}`);
  assert.deepEqual(over.elements, [], "these reach beyond the page");
}

/** Fails for what keeps people from using the page, as far as axe can tell. */
export async function assertAccessible(page) {
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  const grave = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
  const tell = ({ html, failureSummary }) => `${html} ${failureSummary}`;
  const told = grave.map(({ id, nodes }) => `${id}: ${nodes.slice(0, 3).map(tell).join(" | ")}`);
  assert.deepEqual(told, []);
}
