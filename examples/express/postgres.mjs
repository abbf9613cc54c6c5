// A PostgreSQL of one's own in a folder of one's own, by the programs that are installed: for trying things out, and gone after it.

import { execFile, spawn } from "node:child_process";
import { chown, mkdir, readdir } from "node:fs/promises";
import { createServer } from "node:net";
import { delimiter, join } from "node:path";
import { promisify } from "node:util";

/** Where the packages of Debian put each version. */
const INSTALLED = "/usr/lib/postgresql";
const run = promisify(execFile);

/** The folder of `initdb` and `postgres`: of the newest version installed, or on the path. */
async function programs() {
  const versions = await readdir(INSTALLED).catch(() => []);
  const newest = versions.map(Number).filter(Boolean).sort((a, b) => b - a);
  const folders = [...newest.map((version) => join(INSTALLED, `${version}`, "bin")), ...(process.env.PATH ?? "").split(delimiter)];
  for (const folder of folders.filter(Boolean)) {
    const names = await readdir(folder).catch(() => []);
    if (names.includes("initdb") && names.includes("postgres")) return folder;
  }
  throw new Error(`no PostgreSQL is installed (initdb and postgres in ${INSTALLED} or on PATH): give a DATABASE_URL`);
}

async function freePort() {
  const probe = createServer();
  await new Promise((resolve, reject) => probe.once("error", reject).listen(0, "127.0.0.1", resolve));
  const { port } = probe.address();
  await new Promise((resolve) => probe.close(resolve));
  return port;
}

/** What a command begins with that may not be run by root: another user's rights, who owns the folders then. */
async function unprivileged(...folders) {
  if (process.getuid() !== 0) return [];
  const ids = ["-u", "-g"].map(async (which) => Number((await run("id", [which, "postgres"])).stdout));
  const [uid, gid] = await Promise.all(ids);
  for (const folder of folders) await chown(folder, uid, gid);
  return ["setpriv", `--reuid=${uid}`, `--regid=${gid}`, "--clear-groups", "--"];
}

/** Starts one whose user and database are `chat`: its port, its URL, its programs, and what ends it. */
export async function startPostgres(folder) {
  const bin = await programs();
  const data = join(folder, "data");
  await mkdir(data);
  const as = await unprivileged(folder, data);
  const command = (name, ...args) => [...as, join(bin, name), ...args];
  const [initdb, ...itsArgs] = command("initdb", "-D", data, "-U", "chat", "--auth=trust", "--encoding=UTF8", "--no-sync");
  await run(initdb, itsArgs, { cwd: folder });
  const port = await freePort();
  const [server, ...args] = command("postgres", "-D", data, "-k", folder, "-h", "127.0.0.1", "-p", `${port}`, "-F");
  // A group of its own: an interrupt at the terminal is for whoever started it, which ends it last.
  const child = spawn(server, args, { cwd: folder, stdio: ["ignore", "ignore", "pipe"], detached: true });
  const kill = () => child.kill("SIGKILL");
  process.once("exit", kill);
  let log = "";
  const ended = new Promise((resolve) => child.once("exit", resolve).once("error", resolve));
  const ready = new Promise((resolve) => {
    child.stderr.on("data", (chunk) => {
      log = (log + chunk).slice(-10_000);
      if (log.includes("ready to accept connections")) resolve("ready");
    });
  });
  if ((await Promise.race([ready, ended])) !== "ready") throw new Error(`PostgreSQL ended: ${log}`);
  const where = ["-h", "127.0.0.1", "-p", `${port}`, "-U", "chat"];
  await run(join(bin, "createdb"), [...where, "chat"]);
  /** Fast: open connections are ended. */
  const stop = async () => {
    child.kill("SIGINT");
    await ended;
    process.removeListener("exit", kill);
  };
  return { bin, port, url: `postgres://chat@127.0.0.1:${port}/chat`, stop };
}
