// Starts one server process on a free port and stops it.

import { spawn } from "node:child_process";

const START_MS = 20_000;
const STOP_MS = 5_000;

/**
 * Runs the program that the environment variable names (a binary, or a `.mjs` file for a reference server) and
 * resolves once it has printed the address it listens on.
 */
export async function start(variable, args = ["127.0.0.1:0"]) {
  const program = process.env[variable];
  if (!program) {
    throw new Error(`${variable} is not set: run these tests with \`cargo xtask clients\``);
  }
  const isScript = program.endsWith(".mjs");
  const [command, commandArgs] = isScript ? [process.execPath, [program, ...args]] : [program, args];
  const child = spawn(command, commandArgs, { stdio: ["ignore", "pipe", "pipe"] });
  // A test process that dies takes its server along.
  const kill = () => child.kill("SIGKILL");
  process.once("exit", kill);
  child.once("exit", () => process.removeListener("exit", kill));
  const server = new Server(child, isScript);
  await server.listening();
  return server;
}

class Server {
  constructor(child, isReference) {
    this.child = child;
    /** Whether this is one of our reference servers, which lack what only Tidegate has. */
    this.isReference = isReference;
    this.output = "";
    this.exited = new Promise((resolve) => child.once("exit", (code, signal) => resolve({ code, signal })));
  }

  listening() {
    return new Promise((resolve, reject) => {
      const fail = (why) => reject(new Error(`the server ${why}; it printed:\n${this.output}`));
      const timer = setTimeout(() => fail(`printed no address within ${START_MS} ms`), START_MS);
      this.child.once("error", (error) => fail(`did not start: ${error.message}`));
      this.exited.then(({ code, signal }) => {
        clearTimeout(timer);
        fail(`ended with ${signal ?? code}`);
      });
      const read = (chunk) => {
        this.output = (this.output + chunk).slice(-100_000);
        const found = /127\.0\.0\.1:([1-9]\d*)/.exec(this.output);
        if (found && !this.port) {
          clearTimeout(timer);
          this.host = "127.0.0.1";
          this.port = Number(found[1]);
          this.url = `http://${this.host}:${this.port}`;
          this.wsUrl = `ws://${this.host}:${this.port}`;
          resolve();
        }
      };
      this.child.stdout.on("data", read);
      this.child.stderr.on("data", read);
    });
  }

  /** Asks the process to end and makes sure that it does. Resolves with how it ended. */
  async stop(signal = "SIGTERM") {
    this.child.kill(signal);
    const timer = setTimeout(() => this.child.kill("SIGKILL"), STOP_MS);
    const end = await this.exited;
    clearTimeout(timer);
    return end;
  }

  /** Fails if the process is gone: a server must survive whatever a client sends. */
  assertAlive() {
    if (this.child.exitCode !== null || this.child.signalCode !== null) {
      throw new Error(`the server is gone; it printed:\n${this.output}`);
    }
  }
}
