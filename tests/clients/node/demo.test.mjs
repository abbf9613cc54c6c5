// The demo as a newcomer meets it: the binary, its page in a headless browser, and a program beside it.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { after, before, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";
import { io } from "socket.io-client";
import { start } from "./lib/server.mjs";
import { Collected, once } from "./lib/wait.mjs";

const BROWSER = process.env.TIDEGATE_CHROMIUM ?? "/usr/bin/chromium";
const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
/** How long the simulated market may take until what a test waits for has happened. */
const MARKET_MS = 30_000;
const N_PRICES_CHANGED = 5;

let server;
before(async () => {
  const declared = fileURLToPath(new URL("../store.toml", import.meta.url));
  server = await start("TIDEGATE_BIN", ["demo", "--listen", "127.0.0.1:0", "-c", declared]);
});

/** The text of every element that shows nothing but a price. */
function prices() {
  const price = /^[¥$]?\d[\d,]*\.\d{1,4}$/;
  const leaves = [...document.querySelectorAll("body *")].filter((element) => element.childElementCount === 0);
  return leaves.map((element) => element.textContent.trim()).filter((text) => price.test(text));
}

describe("the demo page", () => {
  let browser;
  before(async () => {
    browser = await chromium.launch({ executablePath: BROWSER, headless: true, args: FLAGS });
  });
  after(() => browser?.close());

  it("shows prices that move, and no error", { timeout: 120_000 }, async () => {
    const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
    const problems = [];
    const sockets = [];
    page.on("console", (message) => message.type() === "error" && problems.push(message.text()));
    page.on("pageerror", (error) => problems.push(String(error)));
    page.on("requestfailed", (request) => problems.push(`${request.url()}: ${request.failure()?.errorText}`));
    page.on("response", (response) => response.status() >= 400 && problems.push(`${response.url()}: ${response.status()}`));
    page.on("websocket", (socket) => sockets.push(socket.url()));

    await page.goto(`${server.url}/demo`, { waitUntil: "load" });
    await page.waitForFunction(`(${prices})().length >= ${N_PRICES_CHANGED}`, null, { timeout: MARKET_MS });
    const first = await page.evaluate(prices);
    const changed = `(${prices})().filter((price, i) => price !== ${JSON.stringify(first)}[i]).length`;
    await page.waitForFunction(`${changed} >= ${N_PRICES_CHANGED}`, null, { timeout: MARKET_MS });

    const out = process.env.TIDEGATE_OUT ?? tmpdir();
    mkdirSync(out, { recursive: true });
    await page.screenshot({ path: path.join(out, "demo.png") });
    assert.deepEqual(problems, []);
    assert.ok(sockets.some((url) => url.includes("transport=websocket")), `WebSockets: ${sockets}`);
    await page.close();
  });
});

describe("the orders table", () => {
  let browser;
  before(async () => {
    browser = await chromium.launch({ executablePath: BROWSER, headless: true, args: FLAGS });
  });
  after(() => browser?.close());

  it("turns its pages and shows the totals of all orders", { timeout: 120_000 }, async () => {
    const page = await browser.newPage({ viewport: { width: 1280, height: 1600 } });
    await page.goto(`${server.url}/demo`, { waitUntil: "load" });
    // Loaded through the feed while the page is looked at.
    const total = `document.querySelector("#totals .all")?.textContent.includes("93,728")`;
    await page.waitForFunction(total, null, { timeout: 60_000 });
    const ids = () => page.$$eval("#sales tr", (rows) => rows.map((row) => Number(row.cells[0].textContent)));
    const shows = (first) => page.waitForFunction(`Number(document.querySelector("#sales td")?.textContent) === ${first}`);
    await shows(93_728);
    const first = await ids();
    await page.click("#next");
    await shows(93_716);
    const second = await ids();
    assert.deepEqual([...first, ...second], Array.from({ length: 24 }, (_, i) => 93_728 - i));
    await page.click("#previous");
    await shows(93_728);
    assert.deepEqual(await ids(), first);

    await page.selectOption("#store", "Station");
    await page.waitForFunction(`[...document.querySelectorAll("#sales tr")].every((row) => row.cells[2].textContent === "Station")`);
    await page.close();
  });
});

describe("a program beside the page", () => {
  it("joins a symbol and receives its ticks", { timeout: 60_000 }, async () => {
    const client = io(server.url, { forceNew: true });
    try {
      await once(client, "connect");
      const ticks = new Collected(client, "price_update");
      const answer = await client.timeout(5_000).emitWithAck("join", "ticks:600519");
      assert.equal(answer.ok, true, JSON.stringify(answer));
      for (const tick of await ticks.count(3, MARKET_MS)) {
        assert.equal(tick.symbol, "600519");
        assert.ok(Number.isFinite(tick.price) && tick.price > 0, `price ${tick.price}`);
        assert.ok(Number.isFinite(tick.volume) && tick.volume >= 0, `volume ${tick.volume}`);
        assert.ok(Date.parse(tick.ts) > 1e12, `ts ${tick.ts} is no time`);
      }
    } finally {
      client.disconnect();
    }
  });

  it("sends rows that are stored once, told to their room and read back", { timeout: 30_000 }, async () => {
    const client = io(server.url, { forceNew: true });
    try {
      await once(client, "connect");
      await client.timeout(5_000).emitWithAck("join", "notes:node");
      const notes = new Collected(client, "note");
      const rows = [
        { id: 1, topic: "node", body: "你好", price: "12.50", at: "2024-01-02T03:04:05.678Z" },
        { id: 2, topic: "node", body: null, price: 3 },
        { id: "x", topic: "node" },
      ];
      const send = () => client.timeout(5_000).emitWithAck("ingest", { feed: "notes", rows, id: "node-1" });
      const first = await send();
      assert.deepEqual([first.ok, first.stored, first.rejected[0].column], [true, 2, "id"], JSON.stringify(first));
      assert.deepEqual(await send(), first);
      const [one, two] = await notes.count(2, 5_000);
      assert.deepEqual(one, { ...rows[0], at: "2024-01-02T03:04:05.678000Z" });
      assert.deepEqual(two, { ...rows[1], price: "3", at: null });
      const page = await client.timeout(5_000).emitWithAck("query", { name: "notes", params: { topic: "node" } });
      assert.deepEqual(page.rows, [one, two]);
      assert.deepEqual(await (await fetch(`${server.url}/api/query/notes?topic=node`)).json(), page);
    } finally {
      client.disconnect();
    }
  });

  it("uploads lines while it makes them, and reads them back as lines", { timeout: 60_000 }, async () => {
    const n = 20_000;
    async function* lines() {
      for (let id = 1; id <= n; id += 1) yield new TextEncoder().encode(`{"id":${1_000 + id},"topic":"lines","body":"${id}"}\n`);
    }
    const headers = { "content-type": "application/x-ndjson", "idempotency-key": "node-lines" };
    const upload = await fetch(`${server.url}/api/ingest/notes`, { method: "POST", headers, body: ReadableStream.from(lines()), duplex: "half" });
    const answers = (await upload.text()).trim().split("\n").map((line) => JSON.parse(line));
    assert.equal(answers.at(-1).stored, n, JSON.stringify(answers.at(-1)));
    const stream = await fetch(`${server.url}/api/query/notes?topic=lines`, { headers: { accept: "application/x-ndjson" } });
    const rows = (await stream.text()).trim().split("\n").map((line) => JSON.parse(line));
    assert.deepEqual([rows.length, rows[0].id, rows.at(-1)], [n + 1, 1_001, { ok: true, rows: n, bytes: rows.at(-1).bytes }]);
  });

  it("asks a query and gets pages that continue", { timeout: 30_000 }, async () => {
    const client = io(server.url, { forceNew: true });
    try {
      await once(client, "connect");
      const ask = (after) => client.timeout(5_000).emitWithAck("query", { name: "orders", limit: 3, ...(after && { after }) });
      const first = await ask();
      assert.equal(first.ok, true, JSON.stringify(first));
      const second = await ask(first.next);
      assert.ok(second.rows[0].id < first.rows[2].id, `${second.rows[0].id} after ${first.rows[2].id}`);
      const refused = await client.timeout(5_000).emitWithAck("ingest", { feed: "orders", rows: [{ id: 1 }] });
      assert.equal(refused.error?.code, "forbidden", JSON.stringify(refused));
    } finally {
      client.disconnect();
    }
  });

  it("is told that the server is well", async () => {
    for (const [where, expected] of [["/healthz", /./], ["/readyz", /./], ["/metrics", /^tidegate_/m]]) {
      const response = await fetch(server.url + where);
      assert.equal(response.status, 200, where);
      assert.match(await response.text(), expected, where);
    }
  });
});

describe("the end of the demo", () => {
  it("is orderly upon SIGTERM", { timeout: 20_000 }, async () => {
    server.assertAlive();
    assert.deepEqual(await server.stop(), { code: 0, signal: null });
  });
});
