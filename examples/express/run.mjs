// Starts the chat by one command, with Socket.IO of its own or behind Tidegate, without containers.
//
//     node run.mjs [--port 3000]
//     node run.mjs --tidegate ../../target/release/tidegate [--port 3000] [--listen 127.0.0.1:8080]
//     node run.mjs --hook [--port 3000]       # the application alone, for a Tidegate that runs already
//
// Messages are kept in the database that DATABASE_URL names, or else in a PostgreSQL that is started for it and gone with it
// (`database: URL`). Says `clients: URL` and `pages: URL` when all are ready. SIGTERM and SIGINT end it: Tidegate first, which drains.

import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { chmod, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { startPostgres } from "./postgres.mjs";

const { values } = parseArgs({
  options: {
    port: { type: "string", default: "3000" },
    tidegate: { type: "string" },
    listen: { type: "string", default: "127.0.0.1:8080" },
    hook: { type: "boolean", default: false },
  },
});

/** Starts Tidegate with the settings beside this file; resolves with the process and its URL. */
async function startTidegate(pages, folder) {
  const settings = await readFile(new URL("tidegate.toml", import.meta.url), "utf8");
  // What is published by SQL reaches the clients too; see importer.mjs.
  const store = `\n[store]\nurl_env = "DATABASE_URL"\ndata_dir = "${folder}"\n[store.relay]\nenabled = true\n`;
  const file = join(folder, "tidegate.toml");
  await writeFile(file, settings.replaceAll("http://127.0.0.1:3000", pages) + store);
  // A group of its own: an interrupt at the terminal comes here, and from here to Tidegate, once.
  const args = ["serve", "-c", file, "--listen", values.listen, "--json"];
  const child = spawn(values.tidegate, args, { stdio: ["ignore", "pipe", "inherit"], detached: true });
  child.ended = new Promise((resolve) => child.once("exit", resolve).once("error", resolve));
  const line = await Promise.race([new Promise((resolve) => child.stdout.once("data", resolve)), child.ended]);
  if (!Buffer.isBuffer(line)) throw new Error(`${values.tidegate} ended: ${line}`);
  return [child, JSON.parse(line).listening];
}

const told = new Promise((resolve) => ["SIGTERM", "SIGINT"].forEach((name) => process.once(name, resolve)));
const folder = await mkdtemp(join(tmpdir(), "chat-"));
if (!values.tidegate && !values.hook) delete process.env.TIDEGATE_APP_SECRET;
let postgres;
if (!process.env.DATABASE_URL) {
  const own = join(folder, "postgres");
  await mkdir(own);
  // Its user passes through to what is its own.
  await chmod(folder, 0o711);
  postgres = await startPostgres(own);
  process.env.DATABASE_URL = postgres.url;
  console.log(`database: ${postgres.url}`);
}
// It listens before Tidegate is told where; nobody asks anything before `clients:` is said.
const server = createServer();
await new Promise((resolve, reject) => {
  server.once("error", reject).listen(Number(values.port), process.env.HOST ?? "127.0.0.1", resolve);
});
const pages = `http://127.0.0.1:${server.address().port}`;
let tidegate;
let clients = pages;
if (values.tidegate) {
  process.env.TIDEGATE_APP_SECRET ??= randomBytes(32).toString("hex");
  process.env.TIDEGATE_API_KEY ??= randomBytes(32).toString("hex");
  [tidegate, clients] = await startTidegate(pages, folder);
  process.env.TIDEGATE_URL = clients;
}
const { attach } = await import("./app.mjs");
const stop = await attach(server);
console.log(`clients: ${clients}\npages: ${pages}`);
await Promise.race([told, ...(tidegate ? [tidegate.ended] : [])]);
tidegate?.kill("SIGTERM");
await tidegate?.ended;
await stop();
await postgres?.stop();
await rm(folder, { recursive: true });
process.exit(0);
