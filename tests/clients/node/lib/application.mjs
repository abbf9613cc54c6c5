// Starts the example applications, alone or behind a Tidegate, and stops them.

import { spawn } from "node:child_process";
import { createHmac, randomBytes, randomInt, randomUUID } from "node:crypto";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import net from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { TidegateServer } from "../../../../examples/express/tidegate-adapter.mjs";
import { within } from "./wait.mjs";

const START_MS = 30_000;
const STOP_MS = 20_000;
const ROOT = fileURLToPath(new URL("../../../..", import.meta.url));

export function variable(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: run these tests with \`cargo xtask clients applications\``);
  return value;
}

export const inRepository = (path) => join(ROOT, path);
export const tidegate = () => variable("TIDEGATE_BIN");

/** The example applications and the command that starts each. */
export const APPLICATIONS = {
  fastapi: {
    command: () => [variable("TIDEGATE_FASTAPI"), "run.py"],
    importer: () => [variable("TIDEGATE_FASTAPI"), "importer.py"],
    folder: "examples/fastapi",
    port: 8000,
    scheme: "postgresql+psycopg",
  },
  express: {
    command: () => [process.execPath, "run.mjs"],
    importer: () => [process.execPath, "importer.mjs"],
    folder: "examples/express",
    port: 3000,
    scheme: "postgres",
  },
};

/** A process in a group of its own, with what it printed. */
export class Program {
  constructor(command, { cwd = ROOT, env = {} } = {}) {
    const [program, ...args] = command;
    this.output = "";
    this.printed = [];
    this.child = spawn(program, args, { cwd, env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "pipe"] });
    const kill = () => this.child.kill("SIGKILL");
    process.once("exit", kill);
    this.exited = new Promise((resolve) => {
      this.child.once("error", (error) => resolve({ error }));
      this.child.once("exit", (code, signal) => resolve({ code, signal }));
    });
    this.exited.then(() => process.removeListener("exit", kill));
    for (const stream of [this.child.stdout, this.child.stderr]) {
      stream.on("data", (chunk) => {
        this.output = (this.output + chunk).slice(-200_000);
        this.printed.forEach((look) => look());
      });
    }
  }

  /** What `pattern` finds in the output, as soon as it does. */
  says(pattern, ms = START_MS) {
    const found = new Promise((resolve, reject) => {
      const look = () => {
        const match = pattern.exec(this.output);
        if (match) resolve(match);
      };
      this.printed.push(look);
      look();
      this.exited.then((end) => reject(new Error(`ended with ${JSON.stringify(end)}; it printed:\n${this.output}`)));
    });
    return within(found, `${pattern} in the output of ${this.child.spawnfile}`, ms);
  }

  async stop(signal = "SIGTERM") {
    this.child.kill(signal);
    const timer = setTimeout(() => this.child.kill("SIGKILL"), STOP_MS);
    const end = await this.exited;
    clearTimeout(timer);
    return end;
  }
}

/** Starts an example by its one command. Resolves with the program, `clients` and `pages`. */
export async function startExample(name, args, env = {}) {
  const { command, folder } = APPLICATIONS[name];
  const program = new Program([...command(), ...args], { cwd: inRepository(folder), env });
  const [, clients, pages] = await program.says(/clients: (\S+)\npages: (\S+)\n/);
  return Object.assign(program, { clients, pages });
}

/** A port that nobody listens on, below those that the system gives to outgoing connections: none of them takes it meanwhile. */
export async function freePort() {
  for (;;) {
    const port = randomInt(20_000, 32_000);
    const probe = net.createServer();
    const free = await new Promise((resolve) => {
      probe.once("error", () => resolve(false)).listen(port, "127.0.0.1", () => resolve(true));
    });
    if (!free) continue;
    await new Promise((resolve) => probe.close(resolve));
    return port;
  }
}

export async function temporaryFolder() {
  const path = await mkdtemp(join(tmpdir(), "tidegate-applications-"));
  return { path, remove: () => rm(path, { recursive: true, force: true }) };
}

/** An example and the Tidegate in front of it as two programs, so that the application can fail alone. */
export class Pair {
  static async start(name, more, database) {
    const pair = new Pair();
    pair.name = name;
    pair.folder = await temporaryFolder();
    pair.secret = randomBytes(32).toString("hex");
    const [pagesPort, clientsPort] = [await freePort(), await freePort()];
    pair.pages = `http://127.0.0.1:${pagesPort}`;
    pair.clients = `http://127.0.0.1:${clientsPort}`;
    pair.env = {
      TIDEGATE_APP_SECRET: pair.secret,
      TIDEGATE_API_KEY: randomBytes(32).toString("hex"),
      TIDEGATE_URL: pair.clients,
      DATABASE_URL: database,
    };
    const { folder, port } = APPLICATIONS[name];
    const settings = await readFile(inRepository(`${folder}/tidegate.toml`), "utf8");
    const file = join(pair.folder.path, "tidegate.toml");
    const moved = settings.replace(`http://127.0.0.1:${port}`, pair.pages).replace("127.0.0.1:8080", `127.0.0.1:${clientsPort}`);
    await writeFile(file, moved.replace("[app]\n", `[app]\n${more}\n`));
    pair.tidegate = new Program([tidegate(), "serve", "-c", file], { env: pair.env });
    await pair.tidegate.says(/listening on/);
    await pair.startApplication();
    return pair;
  }

  async startApplication() {
    this.application = await startExample(this.name, ["--hook", "--port", new URL(this.pages).port], this.env);
  }

  async stop() {
    await this.tidegate?.stop();
    await this.application?.stop();
    await this.folder?.remove();
  }
}

/** A socket.io application within the test, by the adapter of the express example, and a Tidegate in front of it. */
export class Within {
  static async start(register, { more = "", ...options } = {}) {
    const own = new Within();
    own.folder = await temporaryFolder();
    own.server = createServer();
    await new Promise((resolve) => own.server.listen(0, "127.0.0.1", resolve));
    const port = await freePort();
    own.clients = `http://127.0.0.1:${port}`;
    const [secret, apiKey] = [randomBytes(32).toString("hex"), randomBytes(32).toString("hex")];
    own.io = new TidegateServer(own.server, { secret, apiKey, url: own.clients, ...options });
    own.told = [];
    own.io.onerror = (what, error) => own.told.push([what, error]);
    register(own.io, own);
    const settings = await readFile(inRepository("examples/express/tidegate.toml"), "utf8");
    const moved = settings.replace("http://127.0.0.1:3000", `http://127.0.0.1:${own.server.address().port}`);
    const file = join(own.folder.path, "tidegate.toml");
    await writeFile(file, moved.replace("127.0.0.1:8080", `127.0.0.1:${port}`).replace("[app]\n", `[app]\n${more}\n`));
    own.tidegate = new Program([tidegate(), "serve", "-c", file], { env: { TIDEGATE_APP_SECRET: secret, TIDEGATE_API_KEY: apiKey } });
    await own.tidegate.says(/listening on/);
    return own;
  }

  async stop() {
    await this.tidegate?.stop();
    this.server.closeAllConnections();
    await this.io.close();
    await this.folder.remove();
  }
}

/** A request of the hook as Tidegate signs it; `change` spoils it. */
export function signed(secret, body, { stamp = Math.floor(Date.now() / 1000), signature } = {}) {
  const text = JSON.stringify(body);
  const mac = signature ?? "v1=" + createHmac("sha256", secret).update(`${stamp}.${text}`).digest("hex");
  const headers = { "content-type": "application/json", "x-tidegate-timestamp": `${stamp}`, "x-tidegate-signature": mac };
  return { method: "POST", body: text, headers };
}

/** The body of a request of the hook. */
export function hookBody(kind, more = {}) {
  const id = randomUUID().replaceAll("-", "");
  return { id, kind, boot: "0123456789abcdef", session: "AAAAAAAAAAAAAAAAAAAA", namespace: "/", user: null, data: null, ...more };
}
