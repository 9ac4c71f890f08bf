// What can be done on the pages: filters and paging in the address, cancelling, redriving, pausing, copying.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { assertAccessible, assertFits, closePage, openPage, startBrowser, WIDTHS } from "./browser.js";
import { startDev, until } from "./dev.js";
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

const taskOf = (id) => dev.call("GET", `/applications/shop/tasks/${id}`);
const taskPath = (id) => `/applications/shop/tasks/${id}`;
const button = (page, name) => page.getByRole("button", { name, exact: true });

test("filters are in the address, and back takes the last one away", async () => {
  const page = await openPage(browser, dev, "/tasks");
  await page.getByLabel("Pipeline", { exact: true }).selectOption("shop/hello");
  await button(page, "completed").click();
  await page.waitForURL(/state=completed/);
  await button(page, "scheduled").click();
  await page.waitForURL((url) => url.searchParams.get("state") === "scheduled,completed");
  await page.getByRole("link", { name: ids.later }).waitFor();
  await page.goBack();
  await page.waitForURL((url) => url.searchParams.get("state") === "completed");
  await page.getByRole("link", { name: ids.later }).waitFor({ state: "detached" });
  assert.equal(await button(page, "scheduled").getAttribute("aria-pressed"), "false");
  await page.getByLabel("Accepted within").selectOption("1h");
  await page.waitForURL(/since=1h/);
  await page.reload();
  await page.getByRole("link", { name: ids.done }).waitFor();
  assert.equal(await page.getByLabel("Accepted within").inputValue(), "1h");
  await closePage(page);
});

test("older pages are reached and left by the address", async () => {
  const name = "paged";
  const pipelines = "/applications/shop/pipelines";
  await dev.call("POST", pipelines, { name, pipeline: [{ executor: "echo", commands: ["echo {{i}}"] }] });
  for (let i = 0; i < 60; i += 1) await dev.call("POST", `${pipelines}/${name}`, { i });
  const ended = () => dev.call("GET", `${pipelines}/${name}/tasks?state=completed&limit=1000`);
  await until("all have ended", async () => (await ended()).tasks.length === 60);
  const page = await openPage(browser, dev, "/tasks?pipeline=shop%2Fpaged");
  const rows = page.locator("tbody tr");
  await rows.first().waitFor();
  const newest = await rows.first().getByRole("link").innerText();
  const seen = new Set();
  for (;;) {
    for (const link of await rows.getByRole("link").allInnerTexts()) seen.add(link);
    if (await button(page, "Older").isDisabled()) break;
    const before = await rows.first().getByRole("link").innerText();
    await button(page, "Older").click();
    await page.waitForFunction((id) => ![id, undefined].includes(document.querySelector("tbody a")?.innerText), before);
  }
  assert.equal(seen.size, 60);
  assert.match(page.url(), /page=/);
  await button(page, "Newest").click();
  await page.getByRole("link", { name: newest }).waitFor();
  assert.doesNotMatch(page.url(), /page=/);
  await closePage(page);
});

test("a task's curl line submits the same task again, whatever is in it", async () => {
  const page = await openPage(browser, dev, taskPath(ids.hostile));
  await button(page, "Copy as curl").click();
  await page.getByText("Copied").waitFor();
  const line = await page.evaluate(() => navigator.clipboard.readText());
  const said = execFileSync("sh", ["-ec", line.replace("curl ", "curl -sf ")], { encoding: "utf8" });
  const again = await taskOf(JSON.parse(said).id);
  const first = await taskOf(ids.hostile);
  assert.notEqual(again.id, first.id);
  assert.deepEqual(again.data, first.data);
  assert.deepEqual(again.options, first.options);
  await closePage(page);
});

test("copying works where the browser has no clipboard for scripts", async () => {
  const page = await openPage(browser, dev, "/applications/shop/pipelines/hello");
  const command = page.locator(".command");
  await command.waitFor();
  await page.evaluate(() => Object.defineProperty(navigator, "clipboard", { value: undefined }));
  await command.getByRole("button").click();
  await page.getByText("Copied").waitFor();
  await page.getByRole("searchbox").focus();
  await page.keyboard.press("Control+V");
  assert.match(await page.getByRole("searchbox").inputValue(), /^curl -X POST 'http/);
  await closePage(page);
});

test("numbers of any length keep their digits", async () => {
  const body = '{"name":"digits","exact":12345678901234567890.10}';
  const answer = await fetch(`${dev.origin}/api/applications/shop/pipelines/hello?wait=20s`, { method: "POST", body });
  const { id } = await answer.json();
  const page = await openPage(browser, dev, taskPath(id));
  await page.getByText("12345678901234567890.10").waitFor();
  await button(page, "Copy as curl").click();
  await page.getByText("Copied").waitFor();
  assert.match(await page.evaluate(() => navigator.clipboard.readText()), /12345678901234567890\.10/);
  await closePage(page);
});

test("cancelling a task asks first, and Escape leaves it", async () => {
  const page = await openPage(browser, dev, taskPath(ids.running));
  const cancel = button(page, "Cancel");
  await cancel.click();
  await page.getByRole("dialog").waitFor();
  await assertAccessible(page);
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  assert.equal((await taskOf(ids.running)).state, "running");
  assert.ok(await cancel.evaluate((one) => one === document.activeElement), "the focus is back where it was");
  await cancel.click();
  await button(page, "Cancel the task").click();
  await page.locator(".title .state", { hasText: "cancelled" }).waitFor();
  assert.equal((await taskOf(ids.running)).state, "cancelled");
  assert.ok(await cancel.isDisabled());
  await closePage(page);
});

test("the focus stays in a dialog", async () => {
  const page = await openPage(browser, dev, "/tasks?pipeline=shop%2Fslow");
  await button(page, "Cancel many…").click();
  for (let i = 0; i < 20; i += 1) {
    await page.keyboard.press("Tab");
    const place = await page.evaluate(() => {
      const at = document.activeElement;
      return at === document.body || at.closest("dialog") ? "" : at.outerHTML.slice(0, 200);
    });
    assert.equal(place, "", "the focus left the dialog");
  }
  await closePage(page);
});

for (const [width, size] of Object.entries(WIDTHS)) {
  test(`a bulk cancel counts before it cancels, ${width}`, async () => {
    const pipelines = "/applications/shop/pipelines";
    const name = `many-${width}`;
    await dev.call("POST", pipelines, { name, pipeline: [{ executor: "echo", commands: ["echo {{i}}"] }] });
    await dev.call("POST", `${pipelines}/${name}/pause`, { by: "the test", reason: "" });
    const submit = (i, options) => dev.call("POST", `${pipelines}/${name}/tasks`, { data: { i }, options });
    for (let i = 0; i < 5; i += 1) await submit(i, { group: "red" });
    for (let i = 0; i < 3; i += 1) await submit(i, { group: "<script>window.hacked=1</script>" });
    await until("all are read", async () => (await dev.call("GET", `${pipelines}/${name}/tasks`)).tasks.length === 8);
    const live = async () => (await dev.call("GET", `${pipelines}/${name}/tasks?state=available,scheduled`)).tasks.length;
    const page = await openPage(browser, dev, `/tasks?pipeline=shop%2F${name}`, { size });
    await button(page, "Cancel many…").click();
    const confirm = button(page, "Cancel them");
    assert.ok(await confirm.isDisabled(), "nothing is cancelled that was not counted");
    await page.getByLabel("Group").fill("red");
    await button(page, "Count").click();
    await page.getByText("5 tasks would be cancelled").waitFor();
    await assertFits(page);
    await assertAccessible(page);
    assert.equal(await live(), 8);
    await page.getByLabel("Group").fill("red ");
    assert.ok(await confirm.isDisabled(), "a changed filter is counted again");
    await button(page, "Count").click();
    await confirm.click();
    await page.getByText("It is over: 5 tasks cancelled").waitFor();
    assert.equal(await live(), 3);
    await closePage(page);
  });
}

test("a pipeline is paused, resumed and drained, and says so", async () => {
  const page = await openPage(browser, dev, "/applications/shop/pipelines/hello");
  await button(page, "Pause").click();
  await page.getByLabel("Who pauses it").fill("ops");
  await page.getByLabel("Why").fill("a <b>new</b> release");
  await assertAccessible(page);
  await page.keyboard.press("Enter");
  await page.getByText("It is paused").waitFor();
  await page.getByText("a <b>new</b> release").waitFor();
  const { paused } = await dev.call("GET", "/applications/shop/pipelines/hello");
  assert.deepEqual([paused.by, paused.reason], ["ops", "a <b>new</b> release"]);
  await button(page, "Drain").click();
  await page.getByRole("dialog").getByRole("button", { name: "Drain" }).click();
  await page.getByText("It drains").waitFor();
  await button(page, "Resume").click();
  await page.getByRole("dialog").getByRole("button", { name: "Resume" }).click();
  await page.locator(".title .state", { hasText: "active" }).waitFor();
  assert.equal((await dev.call("GET", "/applications/shop/pipelines/hello")).state, "active");
  await closePage(page);
});

test("a dead letter whose cause is mended is redriven, and completes", async () => {
  const path = join(dev.directory, "mended");
  const pipeline = [{ executor: "ls", commands: ["ls {{path}}"] }];
  const options = { partitions: 1, retry: { max_attempts: 1 } };
  await dev.call("POST", "/applications/shop/pipelines", { name: "mended", pipeline, options });
  const { id } = await dev.call("POST", "/applications/shop/pipelines/mended", { path });
  await until("it is a dead letter", async () => (await taskOf(id)).state === "discarded");
  writeFileSync(path, "");
  const page = await openPage(browser, dev, taskPath(id));
  await button(page, "Redrive").click();
  await button(page, "Redrive the task").click();
  await page.locator(".title .state", { hasText: "completed" }).waitFor();
  await page.getByText("exit 0").waitFor();
  assert.equal((await taskOf(id)).state, "completed");
  assert.ok(await button(page, "Redrive").isDisabled());
  await closePage(page);
});

test("a redrive of a cause halts at the first that fails as before", async () => {
  const page = await openPage(browser, dev, "/dead-letters?pipeline=shop%2Ffails");
  await page.getByText("4 tasks").first().waitFor();
  await page.getByText("4 tasks").last().click();
  await page.getByRole("link", { name: ids.deadHostile }).waitFor();
  await button(page, "Redrive…").click();
  await assertAccessible(page);
  await button(page, "Redrive").click();
  await page.getByRole("heading", { name: "It halted" }).waitFor();
  await page.getByText("failed as before").waitFor();
  await button(page, "Close").last().click();
  // The one that was redriven fails again in its own time; the page shows how it is now.
  await until("the page says what the API says", async () => {
    const { tasks } = await dev.call("GET", "/applications/shop/pipelines/fails/tasks?state=discarded");
    await button(page, "Read again").click();
    return (await page.locator(".head").innerText()).includes(`${tasks.length} tasks`);
  });
  await closePage(page);
});
