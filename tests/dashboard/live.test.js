// What changes by itself: output as it is said, lists and charts as things happen, rest while nobody looks, a server that comes back.

import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { closePage, openPage, startBrowser } from "./browser.js";
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

const pipelines = "/applications/shop/pipelines";

/** Hides or shows the page as another tab in front of it does. */
function turn(page, hidden) {
  return page.evaluate((value) => {
    Object.defineProperty(document, "hidden", { configurable: true, get: () => value });
    document.dispatchEvent(new Event("visibilitychange"));
  }, hidden);
}

test("a task shows what it says while it says it, and its end without a reload", async () => {
  const page = await openPage(browser, dev, `/applications/shop/tasks/${ids.live}`);
  await page.getByText("first line of go").waitFor();
  await page.locator(".title .state", { hasText: "running" }).waitFor();
  assert.equal(await page.getByText("last line").count(), 0);
  writeFileSync(join(dev.directory, "go"), "");
  await page.locator(".title .state", { hasText: "completed" }).waitFor();
  await page.getByText("last line").waitFor();
  await closePage(page);
});

test("a list of tasks follows what happens", async () => {
  const page = await openPage(browser, dev, "/tasks?pipeline=shop%2Fhello");
  await page.locator("tbody tr").first().waitFor();
  await page.locator(".live.on").waitFor();
  const { id } = await dev.call("POST", `${pipelines}/hello`, { name: "new" });
  await page.getByRole("link", { name: id }).waitFor();
  await closePage(page);
});

test("numbers and charts of a pipeline follow what happens", async () => {
  const page = await openPage(browser, dev, `${pipelines}/hello`);
  await page.locator(".plot canvas").first().waitFor();
  const completed = page.locator(".tile", { hasText: "Completed" });
  const before = Number(/([\d\u202f]+) in all/.exec(await completed.innerText())[1]);
  for (let i = 0; i < 20; i += 1) await dev.call("POST", `${pipelines}/hello`, { name: `n ${i}` });
  await completed.filter({ hasText: `${before + 20} in all` }).waitFor();
  await page.locator(".legend li", { hasText: /^accepted [^0–]/ }).waitFor();
  const drawn = await page.locator(".plot canvas").first().evaluate((canvas) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return data.some((value) => value !== 0);
  });
  assert.ok(drawn, "the chart is empty");
  await closePage(page);
});

test("nothing is asked for while the page is hidden, and all is current when it is shown again", async () => {
  const page = await openPage(browser, dev, `${pipelines}/hello`, { ownClock: true });
  await page.locator(".live.on").waitFor();
  await turn(page, true);
  await page.locator(".live.paused").waitFor();
  const asked = [];
  page.on("request", (request) => asked.push(request.url()));
  const name = "while-hidden";
  await dev.call("POST", `${pipelines}/hello/pause`, { by: "the test", reason: name });
  await page.clock.runFor(60_000);
  assert.deepEqual(asked, []);
  await turn(page, false);
  await page.getByText(name).waitFor();
  await page.locator(".live.on").waitFor();
  await dev.call("POST", `${pipelines}/hello/resume`);
  await closePage(page);
});

test("a server that goes is told, and the page goes on once it is back", async () => {
  const expected = ["Failed to load resource", "ERR_"];
  const page = await openPage(browser, dev, "/members", { expected });
  await page.getByText("Who schedules").waitFor();
  await page.context().setOffline(true);
  await page.getByText("The server cannot be reached").waitFor();
  await page.context().setOffline(false);
  await page.getByText("The server cannot be reached").waitFor({ state: "detached" });
  await page.getByText("Who schedules").waitFor();
  await closePage(page);
});

test("a page that is left asks for nothing more", async () => {
  const page = await openPage(browser, dev, "/");
  await page.getByText("Per second").first().waitFor();
  await page.keyboard.press("g");
  await page.keyboard.press("m");
  await page.getByText("Who schedules").waitFor();
  const asked = new Set();
  page.on("request", (request) => asked.add(new URL(request.url()).pathname));
  await until("members are read again", () => asked.has("/api/members"));
  assert.deepEqual([...asked], ["/api/members"]);
  await closePage(page);
});
