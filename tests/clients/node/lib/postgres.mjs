// A private PostgreSQL on a free port, for applications that keep their rows in one.

import { execFile } from "node:child_process";
import { chown, mkdir, readdir } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { Program, freePort, temporaryFolder } from "./application.mjs";

const INSTALLED = "/usr/lib/postgresql";
const run = promisify(execFile);

export class Postgres {
  /** Starts one; as root it runs as the user that the packages made, since it refuses to be root. */
  static async start() {
    const postgres = new Postgres();
    const versions = (await readdir(INSTALLED)).map(Number).filter(Boolean);
    postgres.bin = join(INSTALLED, `${Math.max(...versions)}`, "bin");
    postgres.folder = await temporaryFolder();
    const folder = postgres.folder.path;
    const data = join(folder, "data");
    await mkdir(data);
    const as = [];
    if (process.getuid() === 0) {
      const [uid, gid] = await Promise.all(["-u", "-g"].map(async (what) => Number((await run("id", [what, "postgres"])).stdout)));
      await chown(folder, uid, gid);
      await chown(data, uid, gid);
      as.push("setpriv", `--reuid=${uid}`, `--regid=${gid}`, "--clear-groups", "--");
    }
    const initdb = [...as, join(postgres.bin, "initdb"), "-D", data, "-U", "chat", "--auth=trust", "--no-sync"];
    await run(initdb[0], initdb.slice(1), { cwd: folder });
    postgres.port = await freePort();
    const options = ["-D", data, "-k", folder, "-h", "127.0.0.1", "-p", `${postgres.port}`, "-F"];
    postgres.program = new Program([...as, join(postgres.bin, "postgres"), ...options], { cwd: folder });
    await postgres.program.says(/ready to accept connections/);
    await postgres.sql("CREATE DATABASE chat", "postgres");
    return postgres;
  }

  /** As SQLAlchemy writes it. */
  get url() {
    return `postgresql+psycopg://chat@127.0.0.1:${this.port}/chat`;
  }

  /** Runs one statement, and resolves with what psql prints. */
  async sql(statement, database = "chat") {
    const where = ["-h", "127.0.0.1", "-p", `${this.port}`, "-U", "chat", "-d", database];
    return (await run(join(this.bin, "psql"), [...where, "-v", "ON_ERROR_STOP=1", "-tAc", statement])).stdout.trim();
  }

  /** Fast: open connections are ended. */
  async stop() {
    await this.program.stop("SIGINT");
    await this.folder.remove();
  }
}
