// Every page at both widths and in both themes: what it shows, that it fits, can be used by all, and stays at home.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { after, before, test } from "node:test";
import { assertAccessible, assertFits, closePage, openPage, startBrowser, WIDTHS } from "./browser.js";
import { startDev } from "./dev.js";
import { seed } from "./seed.js";

let browser;
let dev;
let ids;

before(async () => {
  dev = await startDev();
  ids = await seed(dev);
  browser = await startBrowser();
});

after(async () => {
  await browser?.close();
  await dev?.stop();
});

const task = (name) => () => `/applications/shop/tasks/${ids[name]}`;

/** Where a page is, and texts that it must show. */
const PAGES = {
  overview: {
    path: () => "/",
    shows: ["Overview", "Per second", "shop/hello", "shop/fails", "1 pipeline not at work as usual", "exit_code", "exited with 2"],
  },
  pipelines: { path: () => "/pipelines", shows: ["6 pipelines", "shop/slow", "active", "paused", "echo → wc"] },
  "a pipeline": {
    path: () => "/applications/shop/pipelines/slow",
    shows: [
      "shop/slow", "active", "live", "The newest minutes", "Why tasks wait", "Shards", "4 partitions", "working", "Workers",
      "worker-", "sleep 600", "Submit a task",
    ],
  },
  "a paused pipeline": {
    path: () => "/applications/shop/pipelines/held",
    shows: ["It is paused", "by <b>mallory</b>", "<script>", "Resume"],
  },
  "tasks of all pipelines": {
    path: () => "/tasks",
    shows: ["All states", "shop/held", "shop/hello", "completed", "running", "discarded", "scheduled"],
  },
  "tasks of a pipeline": {
    path: () => "/tasks?pipeline=shop%2Ffails&state=discarded",
    shows: ["shop/fails", "Cancel many…", "4 tasks, newest first", "exit_code: "],
  },
  "dead letters": { path: () => "/dead-letters", shows: ["4 tasks", "By cause", "exit_code", "Redrive…"] },
  members: { path: () => "/members", shows: ["Who schedules", "127.0.0.1:", "ready", "0.1.0"] },
  "a completed task": {
    path: task("done"),
    shows: [
      "completed", "Attempt 1", "echo hello {{name}}", "hello world", "exit 0", "the last step", "priority", "factor 2.0", "a-17",
      "<i>x</i>",
    ],
  },
  "a dead letter": {
    path: task("dead"),
    shows: ["discarded", "Attempt 2", "Attempt 1", "exit_code", "No such file or directory", "2 of 2"],
  },
  "a running task": { path: task("running"), shows: ["running", "live", "Attempt 1", "sleep 600", "runs for", "worker-"] },
  "a waiting task": { path: task("waits"), shows: ["available", "It waits: ", "No attempt has begun."] },
  "a scheduled task": { path: task("later"), shows: ["scheduled", "It waits: scheduled", "in 1 h"] },
  "a hostile task": {
    path: task("hostile"),
    shows: ["<img src=x onerror=", "<script>window.hacked=1</script>", "<u>name</u>", "\\u202eesrever"],
  },
  "a task with deep data": { path: task("deep"), shows: ["completed", "the bottom", "deep"] },
  "a task with a loud result": { path: task("loud"), shows: ["the last 20", "139999", "140000", "Show all"] },
};

async function assertShows(page, texts) {
  for (const text of texts) {
    await page.waitForFunction((wanted) => document.body.innerText.includes(wanted), text).catch(async () => {
      assert.fail(`${JSON.stringify(text)} is not shown on:\n${await page.evaluate(() => document.body.innerText)}`);
    });
  }
}

for (const [name, { path, shows }] of Object.entries(PAGES)) {
  for (const theme of ["light", "dark"]) {
    test(`${name}, ${theme}`, async () => {
      const page = await openPage(browser, dev, path(), { theme });
      for (const size of Object.values(WIDTHS)) {
        await page.setViewportSize(size);
        await assertShows(page, shows);
        await assertFits(page);
        await assertAccessible(page);
      }
      await closePage(page);
    });
  }
}

test("what is not there is said, with what to do", async () => {
  const expected = ["404"];
  const unknown = await openPage(browser, dev, "/applications/shop/tasks/nonsense", { expected });
  await assertShows(unknown, ["There is no such thing"]);
  await closePage(unknown);
  const pipeline = await openPage(browser, dev, "/applications/shop/pipelines/none", { expected });
  await assertShows(pipeline, ["There is no such thing", "Check the name"]);
  await closePage(pipeline);
  const filter = await openPage(browser, dev, "/tasks?pipeline=shop%2Fhello&state=nonsense", { expected: ["422"] });
  await assertShows(filter, ["A value breaks a rule", "must be one or more of"]);
  await closePage(filter);
});

test("the theme follows the system until someone chooses, and the choice lasts", async () => {
  const page = await openPage(browser, dev, "/members", { theme: "dark" });
  const ground = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const turnsTo = (theme) => page.waitForFunction((wanted) => document.documentElement.dataset.theme === wanted, theme);
  await assertShows(page, ["Who schedules"]);
  const dark = await ground();
  await page.emulateMedia({ colorScheme: "light" });
  await turnsTo("light");
  const light = await ground();
  assert.notEqual(dark, light);
  await page.getByRole("button", { name: "Dark", exact: true }).click();
  await turnsTo("dark");
  assert.equal(await ground(), dark);
  await page.reload();
  await assertShows(page, ["Who schedules"]);
  assert.equal(await ground(), dark, "the choice is kept over a reload, against the system");
  await closePage(page);
});

test("an empty server tells a newcomer two lines that work", async () => {
  const empty = await startDev();
  try {
    const page = await openPage(browser, empty, "/");
    await assertShows(page, ["There is no pipeline yet", "curl -X POST"]);
    await assertAccessible(page);
    const lines = await page.getByLabel("Command").innerText();
    const said = execFileSync("sh", ["-ec", lines.replaceAll("curl ", "curl -sf ")], { encoding: "utf8" });
    assert.match(said, /hello world/);
    await assertShows(page, ["demo/hello", "Per second"]);
    await closePage(page);
  } finally {
    await empty.stop();
  }
});
