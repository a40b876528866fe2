// Opens report pages in headless Chromium and checks what only a browser can show: that nothing is fetched and nothing fails, that
// charts and the window of images work by mouse and by keyboard, that nothing overflows and text can be read, in light, dark
// and on a phone. Leaves screenshots to look at.
//
//   node check.mjs SCREENSHOTS PAGE.html...
//   node check.mjs --picture OUT.png PAGE.html     accuracy against cost, for README.md
//
// Needs playwright-core, and Chromium in CHROMIUM or in /usr/bin/chromium.

import { createRequire } from "node:module";
import { mkdirSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { pathToFileURL } from "node:url";

// Installed in the working folder, not next to this file.
const { chromium } = createRequire(join(process.cwd(), "/"))("playwright-core");
const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";

const failures = [];
const check = (good, what) => { if (!good) failures.push(what); };

/** A page with everything it asks for and complains of on record. */
async function open(browser, file, options) {
  const page = await browser.newPage(options);
  const url = pathToFileURL(resolve(file)).href;
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) failures.push(`${file}: console: ${message.text()}`);
  });
  page.on("pageerror", (error) => failures.push(`${file}: ${error}`));
  page.on("request", (request) => {
    const asked = request.url();
    if (asked !== url && !asked.startsWith("data:")) failures.push(`${file}: asks for ${asked}`);
  });
  await page.goto(url);
  return page;
}

/** Texts whose contrast with what is behind them is under 4.5, and elements wider than the window. */
const faults = () => {
  const channels = (color) => {
    const probe = Object.assign(document.createElement("canvas"), { width: 1, height: 1 }).getContext("2d");
    probe.fillStyle = color;
    probe.fillRect(0, 0, 1, 1);
    return [...probe.getImageData(0, 0, 1, 1).data];
  };
  const cache = new Map();
  const read = (color) => cache.get(color) ?? cache.set(color, channels(color)).get(color);
  const luminance = ([r, g, b]) => [r, g, b]
    .map((v) => v / 255).map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = read(getComputedStyle(at).backgroundColor);
      if (color[3] === 255) return color;
    }
    return [255, 255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || element.closest("script, style, title, .hidden, .skip") || !element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    const ink = read(element.closest("svg") ? style.fill : style.color);
    const [a, b] = [luminance(ink), luminance(behind(element))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) found.push(`contrast ${contrast.toFixed(2)} of "${walker.currentNode.data.trim().slice(0, 30)}"`);
  }
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) {
    const wide = [...document.body.querySelectorAll("*")]
      .filter((it) => it.getBoundingClientRect().right > width + 1 && !it.closest(".scroll, pre, .hidden, .skip"))
      .map((it) => `${it.tagName}.${it.getAttribute("class")}`);
    found.push(`wider than the window: ${[...new Set(wide)].slice(0, 5)}`);
  }
  return [...new Set(found)];
};

async function look(browser, file, folder) {
  const name = basename(file, ".html");
  for (const [kind, options] of Object.entries({
    light: { viewport: { width: 1200, height: 900 }, colorScheme: "light" },
    dark: { viewport: { width: 1200, height: 900 }, colorScheme: "dark" },
    narrow: { viewport: { width: 390, height: 844 }, colorScheme: "light" },
    narrowest: { viewport: { width: 360, height: 740 }, colorScheme: "dark" },
  })) {
    const page = await open(browser, file, options);
    for (const fault of await page.evaluate(faults)) failures.push(`${file}, ${kind}: ${fault}`);
    await page.screenshot({ path: join(folder, `${name}-${kind}.png`), fullPage: true });
    await page.close();
  }
  const plain = await open(browser, file, { javaScriptEnabled: false });
  check(await plain.locator("h1").isVisible(), `${file}: without a script there is no heading`);
  check((await plain.locator("svg title").count()) > 0, `${file}: without a script points say nothing`);
  await plain.emulateMedia({ media: "print" });
  await plain.screenshot({ path: join(folder, `${name}-print.png`), fullPage: true });
  await plain.close();
}

async function use(browser, file) {
  const page = await open(browser, file, { viewport: { width: 1200, height: 900 } });
  check((await page.locator("main section").count()) >= 5, `${file}: sections are missing`);
  // As many mean points in each chart of curves as its table has epochs of seeds, divided by the seeds.
  const counts = await page.evaluate(() => {
    const rows = [...document.querySelectorAll("#curves details tbody tr")].map((row) => [...row.children].map((cell) => cell.textContent));
    const own = rows.filter((row) => row[1] !== "published");
    const epochs = new Set(own.map((row) => `${row[0]} ${row[2]}`)).size;
    // The columns of the charts: test accuracy, training accuracy, test loss, training loss. Not all of them need be published.
    const published = [6, 4, 5, 3].map((column) => rows.filter((row) => row[1] === "published" && row[column] !== "").length);
    return [...document.querySelectorAll("#curves .chart svg")].map((chart, index) =>
      [chart.querySelectorAll(".pt.solid").length, epochs, chart.querySelectorAll(".pt.faint").length, published[index]]);
  });
  check(counts.length === 4, `${file}: ${counts.length} charts of curves`);
  for (const [points, epochs, faint, published] of counts) {
    check(points > 0 && points === epochs, `${file}: ${points} points of ${epochs} epochs`);
    check(faint === published, `${file}: ${faint} published points of ${published}`);
  }
  // Values: by keyboard, and at the pointer.
  const tip = page.locator("#tip");
  const chart = page.locator("#curves .chart svg").first();
  await chart.focus();
  await page.keyboard.press("ArrowRight");
  const first = await tip.textContent();
  check(/epoch \d+: \d/.test(first), `${file}: an arrow key shows "${first}"`);
  await page.keyboard.press("Escape");
  check(await tip.isHidden(), `${file}: Escape does not hide the value`);
  const point = page.locator("#curves .chart svg .pt.solid").last();
  await point.scrollIntoViewIfNeeded();
  const box = await point.boundingBox();
  await page.mouse.move(box.x + box.width / 2, box.y + box.height / 2);
  check(await tip.isVisible(), `${file}: the pointer shows no value`);
  // Images behind a cell: by mouse, and by keyboard.
  const cells = page.locator(".matrix a");
  if ((await cells.count()) > 0) {
    const dialog = page.locator("dialog");
    const cell = cells.first();
    await cell.click();
    check(await dialog.isVisible(), `${file}: a click opens no images`);
    check((await dialog.locator(".pic").count()) > 0, `${file}: the window has no images`);
    const picture = await dialog.locator(".pic").first().evaluate((it) => getComputedStyle(it).backgroundImage);
    check(picture.startsWith("url(\"data:image/jpeg"), `${file}: an image is ${picture.slice(0, 30)}`);
    await page.keyboard.press("Escape");
    check(await dialog.isHidden(), `${file}: Escape does not close the window`);
    await cells.nth(1).focus();
    await page.keyboard.press("Enter");
    check(await dialog.isVisible(), `${file}: Enter opens no images`);
    await page.keyboard.press("Enter");
    check(await dialog.isHidden(), `${file}: the button does not close the window`);
    const focused = await page.evaluate(() => document.activeElement.closest(".matrix") !== null);
    check(focused, `${file}: the focus does not come back to the cell`);
    const decoded = await page.evaluate(async () => {
      const url = getComputedStyle(document.querySelector(".pic")).backgroundImage.slice(5, -2);
      const image = new Image();
      image.src = url;
      await image.decode();
      return image.naturalWidth;
    });
    check(decoded > 0, `${file}: the pictures cannot be decoded`);
  }
  await page.close();
}

const [first, ...rest] = process.argv.slice(2);
if (!first || rest.length === 0) {
  console.error("usage: node check.mjs SCREENSHOTS PAGE.html... | --picture OUT.png PAGE.html");
  process.exit(2);
}
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
if (first === "--picture") {
  const [out, file] = rest;
  const page = await open(browser, file, { viewport: { width: 1180, height: 900 }, colorScheme: "light" });
  const charts = await page.locator("#cost .charts").boundingBox();
  const clip = { x: charts.x - 20, y: charts.y - 10, width: charts.width + 40, height: charts.height + 20 };
  await page.screenshot({ path: out, clip, fullPage: true });
} else {
  mkdirSync(first, { recursive: true });
  for (const file of rest) {
    await use(browser, file);
    await look(browser, file, first);
  }
}
await browser.close();
for (const failure of failures) console.error(failure);
if (failures.length > 0) process.exit(1);
console.log(first === "--picture" ? rest[0] : `${rest.length} pages as they should be; screenshots are in ${first}`);
