// The keyboard alone: every page, the search, the rows, the help.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { assertAccessible, closePage, openPage, startBrowser } from "./browser.js";
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

test("g and a letter go to each page", async () => {
  const page = await openPage(browser, dev, "/");
  for (const [key, title, path] of [
    ["p", "Pipelines", "/pipelines"],
    ["t", "Tasks", "/tasks"],
    ["d", "Dead letters", "/dead-letters"],
    ["m", "Members", "/members"],
    ["o", "Overview", "/"],
  ]) {
    await page.keyboard.press("g");
    await page.keyboard.press(key);
    await page.getByRole("heading", { name: title, level: 1 }).waitFor();
    assert.equal(new URL(page.url()).pathname, path);
    assert.equal(await page.title(), `${title} · Workload`);
  }
  await closePage(page);
});

test("/ searches for pipelines and ids of tasks, and letters typed there go nowhere else", async () => {
  const page = await openPage(browser, dev, "/members", { expected: ["404"] });
  await page.getByRole("heading", { name: "Members" }).waitFor();
  await page.keyboard.press("/");
  await page.keyboard.type("gp");
  assert.equal(new URL(page.url()).pathname, "/members");
  assert.equal(await page.getByRole("searchbox").inputValue(), "gp");
  await page.getByRole("searchbox").fill("slow");
  await page.keyboard.press("Enter");
  await page.waitForURL("**/applications/shop/pipelines/slow");
  await page.getByRole("heading", { name: "shop/slow" }).waitFor();
  await page.keyboard.press("/");
  await page.keyboard.type(ids.done);
  await page.keyboard.press("Enter");
  await page.waitForURL(`**/applications/shop/tasks/${ids.done}`);
  await page.keyboard.press("/");
  await page.keyboard.type("<img src=x onerror=window.hacked=1>");
  await page.keyboard.press("Enter");
  await page.getByText("No pipeline has this in its name").waitFor();
  await closePage(page);
});

test("j and k move over the rows, and Enter opens one", async () => {
  const page = await openPage(browser, dev, "/tasks?pipeline=shop%2Fhello");
  const links = page.locator("tbody a");
  await links.first().waitFor();
  const [first, second] = await links.allInnerTexts();
  await page.keyboard.press("j");
  await page.keyboard.press("j");
  await page.keyboard.press("k");
  assert.equal(await page.evaluate(() => document.activeElement.innerText), first);
  await page.keyboard.press("j");
  await page.keyboard.press("Enter");
  await page.waitForURL(`**/tasks/${second}`);
  await closePage(page);
});

test("? explains the keys, and Escape closes it", async () => {
  const page = await openPage(browser, dev, "/pipelines");
  await page.getByRole("heading", { name: "Pipelines", level: 1 }).waitFor();
  await page.keyboard.press("?");
  await page.getByRole("dialog", { name: "Keys" }).waitFor();
  await assertAccessible(page);
  await page.keyboard.press("g");
  await page.keyboard.press("t");
  assert.equal(new URL(page.url()).pathname, "/pipelines", "keys do nothing below a dialog");
  await page.keyboard.press("Escape");
  await page.getByRole("dialog").waitFor({ state: "detached" });
  await closePage(page);
});

test("Tab shows where the focus is, and the first stop skips to the page", async () => {
  const page = await openPage(browser, dev, "/pipelines");
  await page.getByRole("link", { name: "shop/slow" }).waitFor();
  await page.keyboard.press("Tab");
  const skip = page.getByRole("link", { name: "Skip to the page" });
  assert.ok(await skip.evaluate((one) => one === document.activeElement));
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.id), "main");
  for (let i = 0; i < 12; i += 1) {
    await page.keyboard.press("Tab");
    const seen = await page.evaluate(() => {
      const at = document.activeElement;
      const style = getComputedStyle(at);
      return at === document.body || (style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1);
    });
    assert.ok(seen, "the focus is not seen");
  }
  await closePage(page);
});
