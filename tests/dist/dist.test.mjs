// The files of dist/: each is read by the program it is meant for where that is possible without containers (nginx, systemd,
// the shell, Tidegate itself), and by a parser of its format otherwise (Dockerfile, compose).

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { cp, mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { DockerfileParser } from "dockerfile-ast";
import YAML from "yaml";

const run = promisify(execFile);
const ROOT = fileURLToPath(new URL("../..", import.meta.url));
const at = (path) => join(ROOT, path);
const read = (path) => readFile(at(path), "utf8");
const NGINX = "/usr/sbin/nginx";
const CERTIFICATES = "crates/gateway/tests/it/fixtures/one";

let folder;
before(async () => {
  folder = await mkdtemp(join(tmpdir(), "tidegate-dist-"));
});
after(() => rm(folder, { recursive: true }));

/** Both outputs of a command that must succeed. */
async function succeeds(program, args, options = {}) {
  const { stdout, stderr } = await run(program, args, options).catch((error) => {
    assert.fail(`${program} ${args.join(" ")}: ${error.stdout}${error.stderr}`);
  });
  return stdout + stderr;
}

const tidegate = () => process.env.TIDEGATE_BIN ?? assert.fail("TIDEGATE_BIN is not set: run `cargo xtask clients dist`");

describe("nginx", () => {
  async function accepted(path, changes) {
    const [inFolder, logs] = [join(folder, path.replaceAll("/", "-")), folder];
    let text = (await read(path)).replaceAll("/var/log/nginx", logs).replace("/run/nginx.pid", join(folder, "nginx.pid"));
    for (const [from, to] of changes) {
      assert.ok(text.includes(from), `${path} has no ${from}`);
      text = text.replaceAll(from, to);
    }
    await writeFile(inFolder, text);
    await cp(at("dist/nginx-locations.conf"), join(folder, "nginx-locations.conf"));
    return succeeds(NGINX, ["-t", "-p", folder, "-c", inFolder, "-e", join(folder, "error.log")]);
  }

  it("takes nginx.conf", async () => {
    const said = await accepted("dist/nginx.conf", [
      ["/etc/nginx/tls/cert.pem", at(`${CERTIFICATES}.cert.pem`)],
      ["/etc/nginx/tls/key.pem", at(`${CERTIFICATES}.key.pem`)],
      ["listen 80;", "listen 127.0.0.1:18080;"],
      ["listen 443 ssl;", "listen 127.0.0.1:18443 ssl;"],
    ]);
    assert.match(said, /test is successful/);
  });

  it("takes the one of compose", async () => {
    const said = await accepted("dist/compose/nginx.conf", [
      ["server tidegate:8080;", "server 127.0.0.1:8080;"],
      ["server application:8000;", "server 127.0.0.1:8000;"],
      ["listen 80;", "listen 127.0.0.1:18080;"],
      ["/dev/stdout", join(folder, "access.log")],
      ["/dev/stderr", join(folder, "error.log")],
    ]);
    assert.match(said, /test is successful/);
  });
});

describe("systemd", () => {
  async function unit() {
    const text = (await read("dist/tidegate.service")).replaceAll("/usr/local/bin/tidegate", tidegate());
    const path = join(folder, "tidegate.service");
    await writeFile(path, text);
    return path;
  }

  it("takes the unit without a complaint", async () => {
    const said = await succeeds("systemd-analyze", ["verify", "--man=no", await unit()]);
    assert.doesNotMatch(said, /tidegate\.service/);
  });

  it("finds it well enclosed", async () => {
    const said = await succeeds("systemd-analyze", ["security", "--offline=yes", "--threshold=20", await unit()]);
    assert.match(said, /Overall exposure level for tidegate\.service: [01]\.\d/);
  });

  it("waits for the end of a drain", async () => {
    const [text, settings] = [await read("dist/tidegate.service"), await read("tidegate.toml")];
    const drain = Number(/\[drain\][\s\S]*?#timeout = "(\d+)s"/.exec(settings)[1]);
    assert.ok(Number(/^TimeoutStopSec=(\d+)$/m.exec(text)[1]) > drain);
  });
});

describe("settings", () => {
  for (const path of ["dist/compose/tidegate.toml", "examples/fastapi/tidegate.toml", "examples/express/tidegate.toml"]) {
    it(`${path} is taken by tidegate check`, async () => {
      const secrets = { TIDEGATE_APP_SECRET: "s".repeat(32), TIDEGATE_API_KEY: "k".repeat(32) };
      // Nobody listens there: that the database is away is said, and no fault of the settings.
      const env = { ...process.env, ...secrets, DATABASE_URL: "postgres://chat@127.0.0.1:1/chat", LC_ALL: "C" };
      const copy = join(folder, "checked.toml");
      await writeFile(copy, (await read(path)).replace("/var/lib/tidegate", folder));
      // 1 says that there is advice, 78 that the settings are wrong.
      const said = await run(tidegate(), ["check", "-c", copy, "--json"], { env }).catch((error) => error);
      assert.ok([undefined, 0, 1].includes(said.code), said.stdout + said.stderr);
    });
  }
});

describe("Dockerfiles", () => {
  const PINNED = /^[a-z/]+:\d+\.\d+(\.\d+)?[a-z0-9.-]*$/;

  async function parsed(path) {
    const file = DockerfileParser.parse(await read(path));
    const instructions = file.getInstructions();
    const known = new Set(
      "FROM WORKDIR COPY RUN USER VOLUME EXPOSE STOPSIGNAL HEALTHCHECK ENTRYPOINT CMD ENV LABEL ARG".split(" "),
    );
    for (const instruction of instructions) {
      assert.ok(known.has(instruction.getKeyword()), `${path}: ${instruction.getKeyword()}`);
    }
    for (const from of file.getFROMs()) {
      assert.match(from.getImage(), PINNED, `${path}: not pinned to a version`);
    }
    return { file, instructions, last: (keyword) => instructions.filter((one) => one.getKeyword() === keyword).at(-1) };
  }

  for (const path of ["dist/Dockerfile", "examples/fastapi/Dockerfile", "examples/express/Dockerfile"]) {
    it(`${path} is pinned, ends as a user without rights, and copies what is there`, async () => {
      const { file, last, instructions } = await parsed(path);
      const user = last("USER").getArgumentsContent();
      assert.doesNotMatch(user, /^(root|0)(:|$)/);
      for (const keyword of ["CMD", "HEALTHCHECK"]) assert.ok(last(keyword), `${path} has no ${keyword}`);
      const context = path.startsWith("dist/") ? "." : dirname(path);
      for (const copy of file.getCOPYs().filter((one) => !/--from=/.test(one.toString()))) {
        const sources = copy.getArguments().slice(0, -1).map(String).filter((one) => !one.startsWith("--") && !one.includes("*"));
        sources.forEach((source) => assert.ok(existsSync(at(join(context, source))), `${path} copies ${source}`));
      }
      const stages = new Set(file.getFROMs().map((from) => from.getBuildStage()).filter(Boolean));
      for (const [, stage] of instructions.map(String).join("\n").matchAll(/--from=(\w+)/g)) {
        assert.ok(stages.has(stage), `${path}: no stage ${stage}`);
      }
    });
  }

  it("builds with the compiler of the tree", async () => {
    const [channel] = /(?<=channel = ")[^"]+/.exec(await read("rust-toolchain.toml"));
    assert.match(await read("dist/Dockerfile"), new RegExp(`^FROM rust:${channel.replaceAll(".", "\\.")}-`, "m"));
  });

  it("leaves nothing out of the build that cargo needs", async () => {
    const context = join(folder, "context");
    const lines = (await read("dist/Dockerfile.dockerignore")).split("\n").map((line) => line.trim());
    for (const name of lines.filter((line) => line.startsWith("!")).map((line) => line.slice(1))) {
      await cp(at(name), join(context, name), {
        recursive: true,
        filter: (source) => !/\/(target|node_modules)$/.test(source),
      });
    }
    const args = ["metadata", "--locked", "--format-version=1", "--no-deps"];
    const { stdout } = await run("cargo", args, { cwd: context, maxBuffer: 64 << 20 });
    const members = new Map(JSON.parse(stdout).packages.map((one) => [one.name, one]));
    assert.ok(members.has("tidegate-cli"));
    for (const { name, targets } of members.values()) {
      targets.forEach(({ src_path: path }) => assert.ok(existsSync(path), `${name}: ${path} is not in the context`));
    }
  });

  it("is healthy when the server is ready, and not when nobody listens", async () => {
    const { last } = await parsed("dist/Dockerfile");
    const [command, ...args] = JSON.parse(/CMD (\[.*\])$/.exec(last("HEALTHCHECK").toString())[1]);
    const server = spawn(tidegate(), ["serve", "--listen", "127.0.0.1:0", "--json"], { cwd: folder });
    const ended = new Promise((resolve) => server.once("exit", resolve));
    try {
      const line = await new Promise((resolve) => server.stdout.once("data", resolve));
      const { port } = new URL(JSON.parse(line).listening);
      const asked = (port) => run(command, args.map((arg) => arg.replaceAll("8080", `${port}`))).then(() => 0, (error) => error.code);
      assert.equal(await asked(port), 0);
      server.kill();
      await ended;
      assert.notEqual(await asked(port), 0);
    } finally {
      server.kill("SIGKILL");
      await ended;
    }
  });
});

describe("compose", () => {
  // Keys of the compose specification (docs.docker.com/reference/compose-file) that these files use, with their types.
  const text = (value) => typeof value === "string";
  const texts = (value) => Array.isArray(value) && value.every(text);
  const bool = (value) => typeof value === "boolean";
  const number = (value) => Number.isInteger(value);
  const duration = (value) => /^\d+(ms|s|m|h)$/.test(value);
  const map = (check) => (value) => Object.values(value).every(check);
  const oneOf = (...values) => (value) => values.includes(value);
  const SERVICE = {
    image: (value) => /^[a-z/]+:\d+\.\d+(\.\d+)?[a-z0-9.-]*$/.test(value),
    build: { context: text, dockerfile: text },
    restart: oneOf("unless-stopped"),
    ports: texts,
    volumes: texts,
    environment: map(text),
    depends_on: map((value) => oneOf("service_healthy", "service_started")(value.condition) && Object.keys(value).length === 1),
    ulimits: map(number),
    read_only: bool,
    cap_drop: texts,
    security_opt: texts,
    stop_grace_period: duration,
    mem_limit: (value) => /^\d+[kmg]$/.test(value),
    healthcheck: { test: texts, interval: duration, timeout: duration, retries: number },
  };
  const FILE = { name: text, services: map((service) => strict(service, SERVICE, "service")), volumes: map((value) => value === null) };

  function strict(value, shape, where) {
    for (const [key, item] of Object.entries(value)) {
      assert.ok(Object.hasOwn(shape, key), `${where}: unknown key ${key}`);
      const check = shape[key];
      if (typeof check === "function") assert.ok(check(item), `${where}.${key}: ${JSON.stringify(item)}`);
      else strict(item, check, `${where}.${key}`);
    }
    return true;
  }

  async function parsed(path) {
    const file = YAML.parse(await read(path), { strict: true, uniqueKeys: true });
    strict(file, FILE, path);
    return file;
  }

  it("has known keys of the right types", async () => {
    await parsed("dist/compose/compose.yaml");
    await parsed("dist/compose/express.yaml");
  });

  it("names what is there", async () => {
    const file = await parsed("dist/compose/compose.yaml");
    const health = new Set(["nginx"]);
    for (const [name, service] of Object.entries(file.services)) {
      const dockerfile = service.build && join("dist/compose", service.build.context, service.build.dockerfile ?? "Dockerfile");
      if (dockerfile) assert.ok(existsSync(at(dockerfile)), `${name}: ${dockerfile}`);
      if (service.healthcheck || (dockerfile && (await read(dockerfile)).includes("HEALTHCHECK"))) health.add(name);
      for (const volume of service.volumes ?? []) {
        const [source] = volume.split(":");
        const isThere = source.startsWith(".") ? existsSync(at(join("dist/compose", source))) : source in file.volumes;
        assert.ok(isThere, `${name}: ${source}`);
      }
    }
    for (const { depends_on: needs = {} } of Object.values(file.services)) {
      Object.keys(needs).forEach((name) => assert.ok(name in file.services && health.has(name), name));
    }
    const over = await parsed("dist/compose/express.yaml");
    Object.keys(over.services).forEach((name) => assert.ok(name in file.services, name));
  });

  it("gives all of them one database, each in the words of its driver", async () => {
    const { services } = await parsed("dist/compose/compose.yaml");
    const over = await parsed("dist/compose/express.yaml");
    const { POSTGRES_USER: user, POSTGRES_DB: database, POSTGRES_PASSWORD: password } = services.postgres.environment;
    const url = (scheme) => `${scheme}://${user}:${password}@postgres/${database}`;
    assert.equal(services.tidegate.environment.DATABASE_URL, url("postgres"));
    assert.equal(services.application.environment.DATABASE_URL, url("postgresql+psycopg"));
    assert.equal(over.services.application.environment.DATABASE_URL, url("postgres"));
  });

  it("asks for every secret that the example names, and nginx and Tidegate meet the services by name", async () => {
    const compose = await read("dist/compose/compose.yaml");
    const asked = new Set([...compose.matchAll(/\$\{(\w+):\?/g)].map(([, name]) => name));
    assert.doesNotMatch(compose.replace(/\$\{\w+:\?[^}]*\}/g, ""), /\$\{/);
    const named = (await read("dist/compose/example.env")).split("\n").filter((line) => /^\w+=/.test(line));
    assert.deepEqual(new Set(named.map((line) => line.split("=")[0])), asked);
    const { services } = await parsed("dist/compose/compose.yaml");
    const nginx = await read("dist/compose/nginx.conf");
    const settings = await read("dist/compose/tidegate.toml");
    for (const [, host] of [...nginx.matchAll(/server (\w+):\d+;/g), ...settings.matchAll(/http:\/\/(\w+):/g)]) {
      assert.ok(host in services, host);
    }
  });
});

it("every file of dist is looked at", async () => {
  const known = [
    "Dockerfile", "Dockerfile.dockerignore", "compose", "nginx-locations.conf", "nginx.conf", "tidegate.service",
    "compose.yaml", "example.env", "express.yaml", "tidegate.toml",
  ];
  const found = [...(await readdir(at("dist"))), ...(await readdir(at("dist/compose")))];
  assert.deepEqual(found.filter((name) => !known.includes(name)), []);
});
