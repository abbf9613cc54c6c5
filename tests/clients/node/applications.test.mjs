// The applications of `examples/`: what their clients see is the same with and without Tidegate, through nginx too, and it stays
// clear what happens when they are away.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { chmod, cp, mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import { after, afterEach, before, describe, it } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { io } from "socket.io-client";
import { play } from "./applications/scenario.mjs";
import {
  APPLICATIONS, Pair, Program, Within, freePort, hookBody, inRepository, signed, startExample, temporaryFolder, tidegate, variable,
} from "./lib/application.mjs";
import { Postgres } from "./lib/postgres.mjs";
import { Collected, once, within } from "./lib/wait.mjs";

const PLAY_MS = 60_000;
const N_STEPS = 42;

/** Each kind of client, and how it plays the scenario. */
const CLIENTS = {
  "socket.io-client over WebSocket": (to) => play(to.clients, to.pages, to),
  "socket.io-client by polling": (to) => play(to.clients, to.pages, { ...to, transports: ["polling"] }),
  "socket.io-client, upgraded": (to) => play(to.clients, to.pages, { ...to, transports: ["polling", "websocket"] }),
  "python-socketio": async ({ clients, pages }) => {
    const script = inRepository("tests/clients/python/application_scenario.py");
    const { stdout } = await promisify(execFile)(variable("TIDEGATE_PYTHON"), [script, clients, pages]);
    return JSON.parse(stdout);
  },
};

let postgres;
let files;
before(async () => {
  [postgres, files] = await Promise.all([Postgres.start(), temporaryFolder()]);
});
after(async () => {
  await postgres?.stop();
  await files?.remove();
});

/** The URL of a database that nobody has written to, of the kind that each example begins with. */
let nFresh = 0;
async function fresh(name) {
  if (name === "express") return postgres.database();
  nFresh += 1;
  return `sqlite+aiosqlite:///${files.path}/${nFresh}.db`;
}

for (const name of Object.keys(APPLICATIONS)) {
  describe(`${name}: the same transcript`, () => {
    const start = async (...args) => startExample(name, ["--port", "0", ...args], { DATABASE_URL: await fresh(name) });
    const direct = () => start();
    const behind = () => start("--tidegate", tidegate(), "--listen", "127.0.0.1:0");

    for (const [client, plays] of Object.entries(CLIENTS)) {
      it(client, { timeout: 2 * PLAY_MS }, async () => {
        const [alone, through] = await Promise.all([transcript(direct, plays), transcript(behind, plays)]);
        assert.deepEqual(through, alone);
        assert.equal(alone.steps.length, N_STEPS);
        assert.deepEqual(alone.steps.at(-1), ["ada is still there", [2]]);
      });
    }

    it("through nginx, with TLS, and Tidegate", { timeout: 2 * PLAY_MS }, async () => {
      const plays = CLIENTS["socket.io-client, upgraded"];
      const alone = await transcript(direct, plays);
      const application = await behind();
      const nginx = await Nginx.start(application);
      try {
        assert.deepEqual(await plays({ clients: nginx.url, pages: application.pages, ca: nginx.ca }), alone);
        assert.match(await nginx.log(), /GET \/socket\.io\/ 101/);
      } finally {
        await nginx.stop();
        await application.stop();
      }
    });
  });

  describe(`${name}: faults`, () => {
    let pair;
    before(async () => {
      pair = await Pair.start(name, 'timeout = "2s"\nbreaker_pause = "100ms"', await fresh(name));
    });
    after(() => pair?.stop());
    const sockets = [];
    afterEach(() => sockets.splice(0).forEach((socket) => socket.disconnect()));

    const connect = async (user, options = {}) => {
      const init = { method: "POST", body: JSON.stringify({ user }), headers: { "content-type": "application/json" } };
      const cookie = (await fetch(`${pair.pages}/login`, init)).headers.get("set-cookie").split(";")[0];
      const socket = io(pair.clients, { forceNew: true, transports: ["websocket"], extraHeaders: { cookie }, ...options });
      sockets.push(socket);
      return socket;
    };
    const ask = (socket, ...args) => socket.timeout(10_000).emitWithAck(...args);

    it("events of an application that is down fail, and a restart keeps rooms and session", async () => {
      const backoff = { reconnectionDelay: 50, reconnectionDelayMax: 100 };
      const ada = await connect("ada", { ...backoff, auth: { nick: "Ada" } });
      await once(ada, "connect");
      const ended = new Collected(ada, "disconnect");
      assert.equal((await ask(ada, "enter", "tea")).ok, true);
      assert.deepEqual(await ask(ada, "rename", "Countess"), { before: "Ada", now: "Countess" });
      const bob = await connect("bob", { ...backoff, autoConnect: false });
      await pair.application.stop("SIGKILL");

      const refused = await ask(ada, "where");
      assert.deepEqual([refused.ok, refused.error.code, refused.error.retryable], [false, "app_unavailable", true]);
      // A connect that cannot be asked is no refusal: the client comes back by itself.
      bob.connect();
      const [reason, details] = await new Promise((resolve, reject) => {
        bob.io.once("close", (...why) => resolve(why));
        bob.once("connect_error", (error) => error.data && reject(error));
      });
      assert.equal(details?.context?.code ?? details?.code ?? reason, 4013, `${reason}`);

      await pair.startApplication();
      await within(bob.connected ? Promise.resolve() : new Promise((resolve) => bob.once("connect", resolve)), "bob", 10_000);
      const entered = new Collected(ada, "entered");
      let where = await ask(ada, "where");
      // The breaker may need its probe first.
      for (let n = 0; n < 50 && where.ok === false; n += 1) where = await ask(ada, "where");
      assert.deepEqual(where, ["lobby", "tea", "user:ada"]);
      assert.deepEqual(await ask(ada, "rename", "Ada"), { before: "Countess", now: "Ada" });
      assert.equal((await ask(bob, "enter", "tea")).ok, true);
      assert.deepEqual(await entered.count(1), [{ user: "bob", room: "tea" }]);
      assert.deepEqual(ended.items, []);

      const offline = new Collected(bob, "offline");
      const { id } = ada;
      ada.disconnect();
      // Told to the new process, which has not seen this client connect.
      assert.equal((await offline.count(1))[0].sid, id);
    });

    it("an application that is too slow is given up, and one client does not hold up another", async () => {
      const ada = await connect("ada");
      await once(ada, "connect");
      const bob = await connect("bob");
      await once(bob, "connect");
      const asked = once(ada, "confirm?");
      const slow = ask(ada, "confirm", "sure?");
      // Its handler waits for an answer that never comes, and bob is served meanwhile.
      await asked;
      assert.equal(await ask(bob, "count", 1), 2);
      // Halted, the application is slower than any time-out; what it answers after that is too late.
      pair.application.child.kill("SIGSTOP");
      const answer = await slow.finally(() => pair.application.child.kill("SIGCONT"));
      assert.deepEqual([answer.ok, answer.error?.code], [false, "app_unavailable"]);
      assert.equal(await ask(ada, "count", 2), 3);
    });

    describe("requests that are not Tidegate's", () => {
      const post = async (init) => (await fetch(`${pair.pages}/socket.io/`, init)).status;
      const event = () => hookBody("event", { event: "count", args: [1], wants_ack: true });

      it("a signed one is answered once, and refused when it is replayed", async () => {
        const init = signed(pair.secret, event());
        const answer = await fetch(`${pair.pages}/socket.io/`, init);
        assert.deepEqual((await answer.json()).ack, [2]);
        assert.equal(await post(init), 409);
        assert.equal(await post(signed(pair.secret, JSON.parse(init.body))), 409);
      });

      it("a forged, an old, a future and an unsigned one are refused", async () => {
        const now = Math.floor(Date.now() / 1000);
        assert.equal(await post(signed("another secret, also of more than 32 bytes", event())), 401);
        assert.equal(await post(signed(pair.secret, event(), { signature: `v1=${"0".repeat(64)}` })), 401);
        assert.equal(await post(signed(pair.secret, event(), { stamp: now - 3_600 })), 401);
        assert.equal(await post(signed(pair.secret, event(), { stamp: now + 3_600 })), 401);
        assert.equal(await post({ method: "POST", body: JSON.stringify(event()) }), 401);
        const honest = signed(pair.secret, event());
        assert.equal(await post({ ...honest, body: honest.body.replace("[1]", "[2]") }), 401);
        assert.equal(await post({ method: "GET" }), 405);
        assert.equal(await post(signed(pair.secret, { kind: "event" })), 400);
      });

      it("a disconnect that is told again is done once", async () => {
        const ada = await connect("ada");
        await once(ada, "connect");
        const offline = new Collected(ada, "offline", ({ sid }) => sid);
        // Of a start of Tidegate that nothing else was heard of.
        const more = { reason: "client_left", session: "BBBBBBBBBBBBBBBBBBBB", boot: "fedcba9876543210" };
        const gone = hookBody("disconnect", more);
        assert.equal(await post(signed(pair.secret, gone)), 200);
        assert.equal(await post(signed(pair.secret, gone)), 200);
        while (!offline.items.includes(gone.session)) await offline.count(offline.items.length + 1);
        assert.equal(await ask(ada, "count", 1), 2);
        // Those of the tests before may still come.
        assert.equal(offline.items.filter((sid) => sid === gone.session).length, 1);
      });
    });
  });
}

async function transcript(start, plays) {
  const application = await start();
  try {
    return await within(plays(application), "the scenario", PLAY_MS);
  } catch (error) {
    error.message += `\nthe application printed:\n${application.output}`;
    throw error;
  } finally {
    await application.stop();
  }
}

for (const name of Object.keys(APPLICATIONS)) {
  describe(`${name}: rows that another process writes`, () => {
    let database, application, ada;
    before(async () => {
      database = await postgres.database(APPLICATIONS[name].scheme);
      const args = ["--port", "0", "--tidegate", tidegate(), "--listen", "127.0.0.1:0"];
      application = await startExample(name, args, { DATABASE_URL: database });
      const init = { method: "POST", body: '{"user": "ada"}', headers: { "content-type": "application/json" } };
      const cookie = (await fetch(`${application.pages}/login`, init)).headers.get("set-cookie").split(";")[0];
      ada = io(application.clients, { forceNew: true, transports: ["websocket"], extraHeaders: { cookie } });
      await once(ada, "connect");
      assert.equal((await ada.emitWithAck("enter", "tea")).ok, true);
    });
    after(async () => {
      ada?.disconnect();
      await application?.stop();
    });

    const bringIn = async (...lines) => {
      const [program, script] = APPLICATIONS[name].importer();
      const options = { cwd: inRepository(APPLICATIONS[name].folder), env: { ...process.env, DATABASE_URL: database } };
      const importing = promisify(execFile)(program, [script, "tea", "bot"], options);
      importing.child.stdin.end(lines.join("\n"));
      return importing;
    };

    it("reach the clients in order when they are committed, and never when they are not", { timeout: PLAY_MS }, async () => {
      const messages = new Collected(ada, "message");
      await bringIn("one", "two", "three");
      const heard = (await messages.count(3)).map(({ room, user, text }) => [room, user, text]);
      assert.deepEqual(heard, ["one", "two", "three"].map((text) => ["tea", "bot", text]));
      // The second line is longer than its column: none of the transaction is told.
      await assert.rejects(bringIn("lost", "x".repeat(2001)), /too long/);
      await bringIn("four");
      assert.deepEqual((await messages.count(4)).at(3).text, "four");
      assert.equal(await postgres.sql(database, "SELECT count(*) FROM chat_messages"), "4");
      const kept = await (await fetch(`${application.pages}/rooms/tea/messages`)).json();
      assert.deepEqual([kept.count, kept.messages], [4, messages.items]);
    });

    it("of a watched table reach those they are for, whoever writes them", { timeout: PLAY_MS }, async () => {
      const watch = "SELECT tidegate.watch('chat_messages', 'user:{user}', 'stored', columns => ARRAY['id', 'room'])";
      await postgres.sql(database, watch);
      const stored = new Collected(ada, "stored");
      const [, id] = await new Promise((resolve) => ada.emit("say", "tea", "by the application", (...answer) => resolve(answer)));
      assert.deepEqual(await stored.count(1), [{ id, room: "tea" }]);
      const rows = "('tea', 'bob', 'not hers'), ('den', 'ada', 'by hand')";
      await postgres.sql(database, `INSERT INTO chat_messages (room, "user", text) VALUES ${rows}`);
      assert.equal((await stored.count(2))[1].room, "den");
    });
  });
}

describe("a socket.io application by the adapter", () => {
  let own;
  const sockets = [];
  afterEach(async () => {
    sockets.splice(0).forEach((socket) => socket.disconnect());
    await own.stop();
  });
  const client = (more = {}) => {
    const socket = io(own.clients, { forceNew: true, transports: ["websocket"], reconnection: false, ...more });
    sockets.push(socket);
    return socket;
  };
  const ask = (socket, ...args) => socket.timeout(10_000).emitWithAck(...args);

  it("a handler of ten seconds is given up at app.timeout, and the other clients do not wait for it", async () => {
    const over = new AbortController();
    own = await Within.start((server) => {
      server.on("connection", (socket) => {
        socket.on("brew", async (ack) => {
          await sleep(10_000, undefined, { signal: over.signal });
          ack("tea");
        });
        socket.on("count", (n, ack) => ack(n + 1));
      });
    }, { more: 'timeout = "1s"' });
    const [ada, bob] = [client(), client()];
    await Promise.all([once(ada, "connect"), once(bob, "connect")]);
    const began = performance.now();
    const brewing = ask(ada, "brew");
    assert.equal(await ask(bob, "count", 1), 2);
    const answer = await brewing;
    assert.deepEqual([answer.ok, answer.error?.code, answer.error?.retryable], [false, "app_unavailable", true]);
    assert.ok(performance.now() - began < 9_000);
    assert.equal(await ask(ada, "count", 2), 3);
    over.abort();
  });

  it("a renewed expiry keeps a session beyond the first", async () => {
    const untils = [];
    own = await Within.start((server) => {
      server.on("connection", (socket) => {
        Object.assign(socket.data, { name: socket.handshake.auth.name, until: Date.now() + 1_000 });
        untils.push(socket.data.until);
        socket.on("renew", (ack) => ack((socket.data.until += 3_600_000)));
        socket.on("who", (ack) => ack(socket.data.name));
      });
    }, { user: ({ data }) => ({ id: data.name, roles: [], expires_at_ms: data.until }) });
    const ada = client({ auth: { name: "ada" } });
    await once(ada, "connect");
    await ask(ada, "renew");
    const ended = new Collected(ada, "disconnect");
    // She would have ended before him, who does not renew.
    const bob = client({ auth: { name: "bob" } });
    await once(bob, "connect");
    await once(bob, "disconnect");
    assert.ok(Date.now() >= Math.max(...untils) && untils[0] <= untils[1]);
    assert.equal(await ask(ada, "who"), "ada");
    assert.deepEqual(ended.items, []);
  });

  it("a client hears all of what a handler sends, in order, also more than an answer holds", async () => {
    own = await Within.start((server) => {
      server.on("connection", (socket) => {
        for (let i = 0; i < 1_500; i += 1) socket.emit("history", i);
        socket.join(5);
        socket.on("say", (n, bytes, ack) => {
          for (let i = 0; i < n; i += 1) server.to(5).emit("said", i, Buffer.alloc(bytes));
          server.to([]).emit("said", "all");
          ack("done");
        });
      });
    });
    const ada = client();
    const [history, said] = [new Collected(ada, "history"), new Collected(ada, "said")];
    const numbers = (n) => Array.from({ length: n }, (_, i) => i);
    assert.deepEqual(await history.count(1_500), numbers(1_500));
    assert.equal(await ask(ada, "say", 2_500, 0), "done");
    assert.deepEqual(await said.count(2_501), [...numbers(2_500), "all"]);
    assert.equal(await ask(ada, "say", 6, 250_000), "done");
    assert.deepEqual((await said.count(2_508)).slice(2_501), [...numbers(6), "all"]);
    assert.deepEqual([own.told, own.io.lost], [[], { messages: 0, acknowledgements: 0 }]);
  });

  it("a disconnect whose handlers take longer than app.timeout is done once", async () => {
    const reasons = [];
    let isToldAgain;
    const toldAgain = new Promise((resolve) => (isToldAgain = resolve));
    own = await Within.start((server) => {
      server.onerror = (_, why) => why === "its handlers run" && isToldAgain();
      server.on("connection", (socket) => {
        socket.on("disconnect", async (reason) => {
          reasons.push(reason);
          await toldAgain;
          reasons.push("ended");
        });
        socket.on("count", (n, ack) => ack(n + 1));
      });
    }, { more: 'timeout = "300ms"' });
    const ada = client();
    await once(ada, "connect");
    ada.disconnect();
    await within(toldAgain, "told again");
    const bob = client();
    await once(bob, "connect");
    assert.equal(await ask(bob, "count", 1), 2);
    assert.deepEqual(reasons, ["client namespace disconnect", "ended"]);
  });
});

describe("express: by one command", () => {
  it("it brings a database along, and leaves nothing behind", { timeout: PLAY_MS }, async () => {
    const folder = await temporaryFolder();
    await chmod(folder.path, 0o711);
    const application = await startExample("express", ["--port", "0"], { DATABASE_URL: "", TMPDIR: folder.path });
    const [, url] = await application.says(/database: (\S+)/);
    assert.equal(await postgres.sql(url, "SELECT count(*) FROM chat_messages"), "0");
    await application.stop();
    await assert.rejects(postgres.sql(url, "SELECT 1"));
    assert.deepEqual(await readdir(folder.path), []);
    await folder.remove();
  });
});

/** dist/nginx.conf on free ports, in front of an application and its Tidegate. */
class Nginx {
  static async start({ clients, pages }) {
    const nginx = new Nginx();
    nginx.folder = await temporaryFolder();
    const { path } = nginx.folder;
    const [http, https] = [await freePort(), await freePort()];
    const fixture = inRepository("crates/gateway/tests/it/fixtures/one");
    let text = await readFile(inRepository("dist/nginx.conf"), "utf8");
    for (const [from, to] of [
      ["server 127.0.0.1:8080;", `server ${new URL(clients).host};`],
      ["server 127.0.0.1:8000;", `server ${new URL(pages).host};`],
      ["listen 80;", `listen 127.0.0.1:${http};`],
      ["listen 443 ssl;", `listen 127.0.0.1:${https} ssl;`],
      ["/etc/nginx/tls/cert.pem", `${fixture}.cert.pem`],
      ["/etc/nginx/tls/key.pem", `${fixture}.key.pem`],
      ["/var/log/nginx", path],
      ["/run/nginx.pid", `${path}/nginx.pid`],
    ]) {
      assert.ok(text.includes(from), `nginx.conf has no ${from}`);
      text = text.replaceAll(from, to);
    }
    const kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    const temporary = kinds.map((kind) => `${kind}_temp_path ${path}/${kind};`).join("\n");
    await writeFile(`${path}/nginx.conf`, text.replace("http {", `http {\n${temporary}`));
    await cp(inRepository("dist/nginx-locations.conf"), `${path}/nginx-locations.conf`);
    await mkdir(`${path}/logs`);
    // As whoever runs the test: workers of another user could not read this folder.
    const asRoot = process.getuid() === 0 ? " user root;" : "";
    const args = ["-p", path, "-c", `${path}/nginx.conf`, "-e", `${path}/error.log`, "-g", `daemon off;${asRoot}`];
    nginx.program = new Program(["/usr/sbin/nginx", ...args]);
    nginx.url = `https://localhost:${https}`;
    nginx.ca = await readFile(`${fixture}.cert.pem`, "utf8");
    nginx.path = path;
    await nginx.#listening(https);
    return nginx;
  }

  async #listening(port) {
    const { connect } = await import("node:net");
    const open = () =>
      new Promise((resolve) => {
        const socket = connect(port, "127.0.0.1", () => resolve(socket.destroy()));
        socket.once("error", () => resolve(undefined));
      });
    const listening = (async () => {
      while (!(await open())) await new Promise(setImmediate);
    })();
    const ended = this.program.exited.then((end) => assert.fail(`nginx ended: ${JSON.stringify(end)} ${this.program.output}`));
    await within(Promise.race([listening, ended]), "nginx");
  }

  log() {
    return readFile(`${this.path}/access.log`, "utf8");
  }

  async stop() {
    await this.program.stop("SIGQUIT");
    await this.folder.remove();
  }
}
