// The server's page in a headless Chromium: page_test.mjs SERVER CLIENT
//
// Environment: QUIRE_MODULES, the folder of node_modules; QUIRE_SCREENSHOTS, a folder for
// pictures, may be empty. Exit code: 0 all checks passed.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import { Server, sample, sleep, until } from "./server.mjs";

const require = createRequire(process.env.QUIRE_MODULES);
const puppeteer = require("puppeteer-core");
const axe = require("axe-core").source;
const shots = process.env.QUIRE_SCREENSHOTS ?? "";

const DESKTOP = { width: 1280, height: 1000 };
const PHONE = { width: 390, height: 844, isMobile: true, hasTouch: true, deviceScaleFactor: 1 };
// Of a browser's main thread, a second.
const MAX_UPDATE_MS = 20;

let failures = 0;
async function check(name, f) {
  const begin = Date.now();
  try {
    await f();
    console.log(`ok      ${name} (${((Date.now() - begin) / 1000).toFixed(1)} s)`);
  } catch (error) {
    ++failures;
    console.log(`FAILED  ${name}\n${error.stack ?? error}`);
  }
}

// ------------------------------------------------------------------------------ the browser

const complaints = []; // what no page may say or do

async function open(browser, server, path, { theme = "light", viewport = DESKTOP, strict = true } = {}) {
  const page = await browser.newPage();
  await page.setViewport(viewport);
  await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: theme }]);
  page.on("request", (request) => {
    if (!request.url().startsWith(server.http)) complaints.push(`asked ${request.url()}`);
  });
  page.on("pageerror", (error) => complaints.push(error.stack));
  page.on("console", (message) => {
    // The browser itself reports answers that are errors.
    const expected = !strict && message.text().startsWith("Failed to load resource");
    if (message.type() === "error" && !expected) complaints.push(message.text());
  });
  await page.goto(server.http + path);
  return page;
}

const textOf = (page, selector) => page.$eval(selector, (node) => node.innerText);
const isShown = (page, selector) => page.$eval(selector, (node) => node.checkVisibility());

async function accessible(page) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  const grave = violations.filter((v) => ["serious", "critical"].includes(v.impact));
  assert.deepEqual(
    grave.map((v) => `${v.id}: ${v.nodes.slice(0, 5).map((n) => n.target).join("; ")}`),
    [],
  );
}

// Charts are drawn when they are seen, so the whole page is made the window.
async function shoot(page, name, viewport, height = null) {
  if (shots === "") return;
  mkdirSync(shots, { recursive: true });
  const whole = await page.evaluate(() => document.documentElement.scrollHeight);
  await page.setViewport({ ...viewport, height: height ?? whole });
  await sleep(2500);
  await page.screenshot({ path: join(shots, `${name}.png`) });
  await page.setViewport(viewport);
}

// --------------------------------------------------------------------------- numbers checked

// Each number with data-metric, beside what the expression is by /metrics.
async function numbersOf(page, server) {
  const metrics = await server.metrics();
  const shown = await page.$$eval("[data-metric]", (nodes) =>
    nodes.map((node) => ({
      expression: node.dataset.metric,
      value: node.dataset.value,
      text: node.innerText,
    })),
  );
  return shown.map(({ expression, value, text }) => {
    let known = true;
    const formula = expression.replace(/[a-z][a-z0-9_]*(\{[^}]*\})?/g, (name) => {
      const number = metrics(name);
      if (number === null) known = false;
      return `(${number})`;
    });
    const expected = Function(`return ${formula}`)();
    return { expression, text, value, expected: known && Number.isFinite(expected) ? expected : null };
  });
}

function wrongOnes(numbers) {
  return numbers.filter(({ expression, value, expected }) => {
    if (value === "") return expected !== null;
    const tolerance = expression.startsWith("process_") ? 0.2 : 1e-9;
    return Math.abs(Number(value) - expected) > tolerance * Math.max(Math.abs(expected), 1e-12);
  });
}

async function busyMs(page, seconds) {
  const client = await page.createCDPSession();
  // The thread's own time: what others of a busy machine take of it does not count.
  await client.send("Performance.enable", { timeDomain: "threadTicks" });
  const read = async () => {
    const { metrics } = await client.send("Performance.getMetrics");
    return metrics.find((m) => m.name === "TaskDuration").value;
  };
  const before = await read();
  await sleep(seconds * 1000);
  return ((await read()) - before) * (1000 / seconds);
}

// --------------------------------------------------------------------------------- the checks

async function checkEmpty(browser, server) {
  const page = await open(browser, server, "/");
  await check("without requests the page says what to try", async () => {
    await page.waitForSelector("#empty:not([hidden])");
    assert.match(await textOf(page, "#commands"), new RegExp(`quire summarize .* --server ${server.grpc}`));
    assert.equal(await textOf(page, "#state-text"), "Serving");
    assert.equal(await textOf(page, "#tile-work .big"), "–");
    await accessible(page);
  });
  await shoot(page, "page-empty", DESKTOP, 1000);
  await page.close();
}

// Requests of all kinds, long enough to be read sparsely; the last one runs out of time. For
// pictures they are longer: what they are for shows better then.
async function load(server) {
  const long = server.text(shots === "" ? 22000 : 46000);
  const codes = await Promise.all([
    server.run("generate", "--file", long, "--max-tokens", "60", "--attention", "refined"),
    server.run("generate", "Once upon a time", "--max-tokens", "150", "--ignore-eos"),
    server.run("score", server.text(9000), "--attention", "refined"),
    server.run("summarize", sample, "--words", "60", "--attention", "refined"),
  ]);
  assert.deepEqual(codes, [0, 0, 0, 0]);
  assert.notEqual(await server.run("--timeout", "0.2s", "score", sample, "--attention", "dense"), 0);
}

async function checkLoad(browser, server) {
  const page = await open(browser, server, "/");
  const loaded = load(server);
  await check("a request shows up while it runs", async () => {
    await page.waitForFunction(
      () => Number(document.querySelector('[data-metric="quire_requests_running"]')?.dataset.value) > 0,
      { timeout: 20000 },
    );
    assert.equal(await isShown(page, "#main"), true);
  });
  await check("requests are answered", () => loaded);
  await page.waitForSelector("#requests tr");
  await check("the page's update takes little of the main thread", async () => {
    const busy = await busyMs(page, 10);
    console.log(`        ${busy.toFixed(1)} ms of the main thread a second`);
    assert.ok(busy <= MAX_UPDATE_MS, `${busy} ms`);
  });
  await until("shadow runs", async () => (await server.metrics())("quire_shadow_samples_total") >= 3, 180);
  await page.close();
}

async function checkNumbers(browser, server) {
  const page = await open(browser, server, "/");
  await page.waitForSelector("#requests tr");
  await check("numbers on the page are those of /metrics", async () => {
    // What runs still when it is measured counts a moment later.
    let wrong = [];
    await until("equal numbers", async () => {
      wrong = wrongOnes(await numbersOf(page, server));
      return wrong.length === 0;
    }, 20).catch(() => assert.deepEqual(wrong, []));
    const numbers = await numbersOf(page, server);
    const known = numbers.filter((n) => n.value !== "");
    assert.ok(known.length >= 20, `only ${known.length} numbers are known`);
    for (const tile of ["tile-work", "tile-measured", "tile-modelled", "tile-money", "tile-quality"]) {
      assert.notEqual(await page.$eval(`#${tile} .big`, (n) => n.dataset.value), "", tile);
    }
  });
  await check("requests in the table are those of the API", async () => {
    const { requests } = JSON.parse(await server.get("/api/v1/requests"));
    const rows = await page.$$eval("#requests tr", (all) =>
      all.map((row) => [...row.cells].map((cell) => cell.innerText)),
    );
    assert.equal(rows.length, requests.length);
    requests.forEach((request, i) => {
      assert.ok(rows[i][1].startsWith(request.id));
      assert.equal(rows[i][3], request.prompt_tokens.toLocaleString("en-US"));
      assert.equal(rows[i][4], request.generated_tokens.toLocaleString("en-US"));
    });
    assert.ok(requests.some((r) => r.code !== "OK") && requests.some((r) => r.shadow !== null));
  });
  await check("the overview is accessible", () => accessible(page));
  await shoot(page, "page-light", DESKTOP, 1240);
  await page.close();
}

async function checkKeyboard(browser, server) {
  const page = await open(browser, server, "/");
  await page.waitForSelector("#requests tr");
  await check("the keyboard reaches everything", async () => {
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.className), "skip");
    await page.keyboard.press("Enter");
    assert.equal(await page.evaluate(() => document.activeElement.id), "main");
    await page.focus("#chart-ttft .chart-toggle");
    await page.keyboard.press("Space");
    assert.match(await textOf(page, "#chart-ttft .chart-table"), /p95/);
    assert.equal(await isShown(page, "#chart-ttft .chart-plot"), false);
    await page.keyboard.press("Space");
    assert.equal(await isShown(page, "#chart-ttft .chart-plot"), true);
  });
  await check("longer ranges are drawn too", async () => {
    for (const step of ["10", "60", "1"]) {
      await page.$eval(`#ranges input[value="${step}"]`, (input) => input.click());
      // The first sample is taken while the model is loading and knows nothing of its memory.
      await until(
        `samples every ${step} s`,
        async () => (await textOf(page, "#chart-memory .legend-value")) !== "–",
        90,
      );
    }
  });
  await check("the page tells what happens to those who do not see it", async () => {
    assert.match(await page.$eval("#summary", (n) => n.textContent), /In the last minute \d+ calls? ended\./);
    assert.match(await page.$eval("#chart-tokens .chart-plot", (n) => n.ariaLabel), /^Tokens a second: read /);
  });
  await page.close();
}

async function checkThemes(browser, server) {
  const page = await open(browser, server, "/", { theme: "dark" });
  await page.waitForSelector("#requests tr");
  const theme = () => page.$eval("html", (n) => n.dataset.theme);
  await check("dark is the system's choice, and accessible", async () => {
    assert.equal(await theme(), "dark");
    await accessible(page);
  });
  await shoot(page, "page-dark", DESKTOP);
  await check("the other theme is remembered", async () => {
    await page.click("#theme");
    assert.equal(await theme(), "light");
    await page.reload();
    assert.equal(await theme(), "light");
    await page.evaluate(() => localStorage.clear());
  });
  await check("who wants no motion sees none", async () => {
    await page.emulateMediaFeatures([{ name: "prefers-reduced-motion", value: "reduce" }]);
    const moves = await page.$$eval("*", (all) =>
      all.filter((n) => parseFloat(getComputedStyle(n).transitionDuration) > 0).map((n) => n.className),
    );
    assert.deepEqual(moves, []);
  });
  await page.close();
}

async function checkRequest(browser, server) {
  const { requests } = JSON.parse(await server.get("/api/v1/requests"));
  const request = requests.find((r) => r.method === "Generate" && r.shadow !== null);
  const page = await open(browser, server, `/request/${request.id}`);
  await check("one request is explained", async () => {
    await page.waitForSelector("#found:not([hidden])");
    const words = await textOf(page, "#words");
    assert.ok(words.includes(`read ${request.prompt_tokens.toLocaleString("en-US")} tokens`), words);
    assert.match(words, /Run again densely it took [\d.]+× its device time/);
    const detail = JSON.parse(await server.get(`/api/v1/requests/${request.id}`));
    const cells = await page.$$eval("#heads rect", (all) => all.length);
    assert.equal(cells, detail.heads.layers * detail.heads.heads);
    assert.equal(detail.heads.columns.reduce((a, b) => a + b), detail.receipt.total.columns);
    assert.ok((await page.$$("#timeline path")).length >= 2);
    await page.click("#heads-toggle");
    assert.equal((await page.$$("#heads tbody tr")).length, detail.heads.layers);
    await accessible(page);
    await page.click("#heads-toggle");
  });
  await shoot(page, "page-request", DESKTOP);
  await page.close();

  const refused = requests.find((r) => r.code !== "OK");
  const other = await open(browser, server, `/request/number/${refused.number}`, { theme: "dark" });
  await check("one that failed is explained too", async () => {
    await other.waitForSelector("#found:not([hidden])");
    assert.ok((await textOf(other, "#words")).includes(refused.code));
    await accessible(other);
  });
  await other.close();

  const missing = await open(browser, server, "/request/nobody", { strict: false });
  await check("one that is not there says so", async () => {
    await missing.waitForSelector("#missing:not([hidden])");
    assert.equal(await isShown(missing, "#found"), false);
    await accessible(missing);
  });
  await missing.close();
}

async function checkPhone(browser, server) {
  const { requests } = JSON.parse(await server.get("/api/v1/requests"));
  for (const path of ["/", `/request/${requests[requests.length - 1].id}`]) {
    const page = await open(browser, server, path, { viewport: PHONE });
    await page.waitForSelector("#requests tr, #found:not([hidden])");
    await sleep(1500);
    await check(`${path.slice(0, 9)} fits a phone`, async () => {
      assert.equal(await page.evaluate(() => document.documentElement.scrollWidth), PHONE.width);
      await accessible(page);
    });
    if (path === "/") await shoot(page, "page-phone", PHONE, 1500);
    await page.close();
  }
}

async function checkUnderLoad(browser, server) {
  const page = await open(browser, server, "/");
  const loads = Array.from({ length: 10 }, (_, i) =>
    server.run("generate", `Chapter ${i}`, "--max-tokens", "400", "--ignore-eos"),
  );
  loads.push(server.run("score", sample, "--attention", "refined"));
  await sleep(4000);
  await shoot(page, "page-load", DESKTOP, 1900);
  await check("many requests at once are answered", async () => {
    for (const code of await Promise.all(loads)) assert.equal(code, 0);
  });
  await page.close();
}

async function checkEnd(browser, server) {
  const page = await open(browser, server, "/", { strict: false });
  await page.waitForSelector("#requests tr");
  const last = server.run("score", sample, "--attention", "dense");
  await until("a request in work", async () => (await server.metrics())("quire_requests_running") > 0);
  server.signal("SIGTERM");
  await check("a server that drains says so", async () => {
    await page.waitForFunction(() => document.querySelector("#state-text").innerText === "Draining", { timeout: 5000 });
    assert.equal(await isShown(page, "#banner"), true);
  });
  await last;
  await server.ended;
  await check("a server that is gone is noticed", async () => {
    await page.waitForFunction(() => document.querySelector("#state-text").innerText === "No connection", { timeout: 20000 });
    assert.match(await textOf(page, "#banner"), /does not answer since \d\d:\d\d:\d\d/);
    await accessible(page);
  });
  await page.close();
}

async function main() {
  const [program, client] = process.argv.slice(2);
  const server = new Server(program, client);
  const browser = await puppeteer.launch({
    executablePath: "/usr/bin/chromium",
    // As root, as in a container, Chromium's own sandbox does not start.
    args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
  });
  try {
    await server.ready();
    for (const part of [
      checkEmpty,
      checkLoad,
      checkNumbers,
      checkKeyboard,
      checkThemes,
      checkRequest,
      checkPhone,
      checkUnderLoad,
      checkEnd,
    ]) {
      await part(browser, server);
    }
    await check("no complaint, and no other host was asked", () => assert.deepEqual(complaints, []));
  } finally {
    await browser.close();
    await server.close();
  }
  if (failures > 0) process.exitCode = 1;
}

await main();
