// A private PostgreSQL on a free port, for applications that keep their rows in one.

import { execFile } from "node:child_process";
import { join } from "node:path";
import { promisify } from "node:util";
import { startPostgres } from "../../../../examples/express/postgres.mjs";
import { temporaryFolder } from "./application.mjs";

export class Postgres {
  #n = 0;

  static async start() {
    const postgres = new Postgres();
    postgres.folder = await temporaryFolder();
    postgres.server = await startPostgres(postgres.folder.path);
    return postgres;
  }

  /** The URL of a new database, after `scheme`. */
  async database(scheme = "postgres") {
    this.#n += 1;
    const name = `chat${this.#n}`;
    const { url } = this.server;
    await sql(this.server.bin, url, `CREATE DATABASE ${name}`);
    return url.replace(/^postgres/, scheme).replace(/chat$/, name);
  }

  /** Runs one statement, and resolves with what psql prints. */
  sql(url, statement) {
    return sql(this.server.bin, url, statement);
  }

  /** Fast: open connections are ended. */
  async stop() {
    await this.server.stop();
    await this.folder.remove();
  }
}

async function sql(bin, url, statement) {
  const { host, pathname } = new URL(url);
  const args = ["-d", `postgres://chat@${host}${pathname}`, "-v", "ON_ERROR_STOP=1", "-tAc", statement];
  return (await promisify(execFile)(join(bin, "psql"), args)).stdout.trim();
}
