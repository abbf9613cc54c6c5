// Engine.IO 4 and Socket.IO 5 as their protocol texts have them, packet by packet, against the conformance server.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { Polling, Socket } from "./lib/engine.mjs";
import { start } from "./lib/server.mjs";
import { elapsed, within } from "./lib/wait.mjs";

// What the conformance server is set to, milliseconds and bytes.
const PING_INTERVAL = 300;
const PING_TIMEOUT = 200;
const CONNECT_TIMEOUT = 1_000;
const MAX_PAYLOAD = 1_000_000;
const ROUNDS = Number(process.env.TIDEGATE_ROUNDS ?? 1);

let server;
before(async () => {
  server = await start("TIDEGATE_CONFORMANCE");
});
after(async () => {
  server?.assertAlive();
  await server?.stop();
});

const ENGINE = "/engine.io/";
const SOCKET = "/socket.io/";

/** Runs `body` with an open polling session. */
async function polling(body, path = ENGINE) {
  const client = new Polling(server, path);
  await client.open();
  await body(client);
}

/** Runs `body` with an open WebSocket session, and closes it. */
async function websocket(body, path = ENGINE, options = {}) {
  const client = new Socket(server, path, {}, options);
  try {
    await client.open();
    await body(client);
  } finally {
    client.close();
  }
}

async function statusOf(query, options = {}, path = ENGINE) {
  const response = await within(fetch(`${server.url}${path}?${new URLSearchParams(query)}`, options), "answer");
  await response.text();
  return response.status;
}

/** A WebSocket that must be turned away before it has a session. */
async function refused(query, path = ENGINE) {
  const client = new Socket(server, path, query);
  await client.end();
  assert.deepEqual(client.queue, []);
}

for (let round = 1; round <= ROUNDS; round += 1) {
  const name = (text) => (ROUNDS === 1 ? text : `${text}, round ${round}`);

  describe(name("engine.io handshake"), () => {
    it("opens a session over polling", async () => {
      const response = await new Polling(server, ENGINE).get();
      assert.equal(response.status, 200);
      assert.match(response.headers.get("content-type"), /^text\/plain/i);
      const body = await response.text();
      assert.equal(body[0], "0");
      const { sid, upgrades, pingInterval, pingTimeout, maxPayload } = JSON.parse(body.slice(1));
      assert.match(sid, /^[\w-]{20,}$/);
      assert.deepEqual(upgrades, ["websocket"]);
      assert.deepEqual([pingInterval, pingTimeout, maxPayload], [PING_INTERVAL, PING_TIMEOUT, MAX_PAYLOAD]);
    });

    it("opens a session over WebSocket, which cannot be upgraded", async () => {
      const client = new Socket(server, ENGINE);
      const { sid, upgrades, pingInterval, pingTimeout, maxPayload } = await client.open();
      assert.match(sid, /^[\w-]{20,}$/);
      assert.deepEqual(upgrades, []);
      assert.deepEqual([pingInterval, pingTimeout, maxPayload], [PING_INTERVAL, PING_TIMEOUT, MAX_PAYLOAD]);
      client.close();
    });

    it("never gives the same id twice", async () => {
      const ids = await Promise.all(Array.from({ length: 20 }, () => new Polling(server, ENGINE).open()));
      assert.equal(new Set(ids.map(({ sid }) => sid)).size, 20);
    });

    const refusals = {
      "no protocol version": { transport: "polling" },
      "a protocol version that is no number": { EIO: "abc", transport: "polling" },
      "a protocol version of long ago": { EIO: "2", transport: "polling" },
      "no transport": { EIO: "4" },
      "an unknown transport": { EIO: "4", transport: "pigeon" },
      "an unknown session": { EIO: "4", transport: "polling", sid: "AAAAAAAAAAAAAAAAAAAA" },
      "a session id that is none": { EIO: "4", transport: "polling", sid: "../etc" },
    };
    for (const [what, query] of Object.entries(refusals)) {
      it(`refuses ${what} over polling`, async () => {
        assert.equal(await statusOf(query), 400);
      });
    }

    for (const method of ["POST", "PUT", "DELETE"]) {
      it(`refuses to open a session by ${method}`, async () => {
        assert.equal(await statusOf({ EIO: "4", transport: "polling" }, { method }), 400);
      });
    }

    const turnedAway = {
      "no protocol version": { EIO: undefined },
      "a protocol version that is no number": { EIO: "abc" },
      "no transport": { transport: undefined },
      "an unknown transport": { transport: "pigeon" },
      "an unknown session": { sid: "AAAAAAAAAAAAAAAAAAAA" },
    };
    for (const [what, query] of Object.entries(turnedAway)) {
      it(`refuses ${what} over WebSocket`, () => refused(query));
    }

    it("lets pages of other origins poll", async () => {
      const response = await new Polling(server, ENGINE).get({ headers: { origin: "https://shop.example" } });
      assert.ok(["*", "https://shop.example"].includes(response.headers.get("access-control-allow-origin")));
      const preflight = await within(
        fetch(new Polling(server, ENGINE).url(), {
          method: "OPTIONS",
          headers: { origin: "https://shop.example", "access-control-request-method": "POST" },
        }),
        "preflight",
      );
      assert.ok(preflight.ok, `preflight answered ${preflight.status}`);
      assert.match(preflight.headers.get("access-control-allow-methods"), /POST/);
    });
  });

  describe(name("engine.io messages over polling"), () => {
    it("carries one text packet", () =>
      polling(async (client) => {
        const response = await client.post("4hello");
        assert.deepEqual([response.status, await response.text()], [200, "ok"]);
        assert.deepEqual(await client.packets(1), ["4hello"]);
      }));

    it("carries several text packets in one payload", () =>
      polling(async (client) => {
        await client.send("4one", "4two", "4three");
        assert.deepEqual(await client.packets(3), ["4one", "4two", "4three"]);
      }));

    it("carries text and binary side by side", () =>
      polling(async (client) => {
        await client.send("4one", "bAQIDBA==", "4two");
        assert.deepEqual(await client.packets(3), ["4one", "bAQIDBA==", "4two"]);
      }));

    it("carries any text", () =>
      polling(async (client) => {
        const texts = ["4", "4€ 价格 🚀", `4${"x".repeat(100_000)}`, '4"quoted\\"', "4\n\r\t"];
        await client.send(...texts);
        assert.deepEqual(await client.packets(texts.length), texts);
      }));

    it("keeps a poll waiting until there is something", () =>
      polling(async (client) => {
        const waiting = client.packets(1);
        await client.send("4late");
        assert.deepEqual(await waiting, ["4late"]);
      }));

    const malformed = { "no packet type": "abc", "an unknown packet type": "9", "an empty body": "" };
    for (const [what, body] of Object.entries(malformed)) {
      it(`ends the session upon ${what}`, () =>
        polling(async (client) => {
          const response = await client.post(body);
          await response.text();
          assert.equal((await client.get()).status, 400);
        }));
    }

    it("ends the session upon a second poll at the same time", () =>
      polling(async (client) => {
        const answers = await Promise.all([client.get(), client.get()]);
        const statuses = answers.map(({ status }) => status).sort();
        assert.equal(statuses.at(-1), 400, `${statuses}`);
        assert.equal((await client.get()).status, 400);
      }));

    it("refuses a payload above the limit", () =>
      polling(async (client) => {
        // The server may hang up on the body instead of reading it to its end.
        const status = await client.post(`4${"x".repeat(MAX_PAYLOAD)}`).then(
          (response) => response.status,
          () => 413,
        );
        assert.equal(status, 413);
        server.assertAlive();
      }));
  });

  describe(name("engine.io messages over WebSocket"), () => {
    it("carries a text packet", () =>
      websocket(async (client) => {
        client.send("4hello");
        assert.equal(await client.next(), "4hello");
      }));

    it("carries a binary packet", () =>
      websocket(async (client) => {
        client.send(Buffer.from([1, 2, 3, 4]));
        assert.deepEqual(await client.next(), Buffer.from([1, 2, 3, 4]));
      }));

    it("carries any text", () =>
      websocket(async (client) => {
        for (const text of ["4", "4€ 价格 🚀", `4${"x".repeat(500_000)}`]) {
          client.send(text);
          assert.equal(await client.next(), text);
        }
      }));

    it("keeps the order of text and binary", () =>
      websocket(async (client) => {
        const packets = Array.from({ length: 200 }, (_, i) => (i % 3 === 0 ? Buffer.from([i]) : `4${i}`));
        client.send(...packets);
        for (const packet of packets) {
          assert.deepEqual(await client.next(), packet);
        }
      }));

    for (const packet of ["abc", "9", ""]) {
      it(`ends the session upon the packet ${JSON.stringify(packet)}`, () =>
        websocket(async (client) => {
          client.send(packet);
          await client.end();
        }));
    }

    it("ends the session upon a packet above the limit", () =>
      websocket(async (client) => {
        client.send(`4${"x".repeat(MAX_PAYLOAD + 1)}`);
        await client.end();
      }));
  });

  describe(name("engine.io heartbeat"), () => {
    it("keeps a polling session that answers its pings", () =>
      polling(async (client) => {
        for (let i = 0; i < 3; i += 1) {
          assert.deepEqual(await client.poll(), ["2"]);
          await client.send("3");
        }
        await client.send("4alive");
        assert.deepEqual(await client.packets(1), ["4alive"]);
      }));

    it("ends a polling session that is silent, in time", () =>
      polling(async (client) => {
        await elapsed(PING_INTERVAL + PING_TIMEOUT);
        assert.equal((await client.get()).status, 400);
      }));

    it("keeps a WebSocket session that answers its pings", () =>
      websocket(
        async (client) => {
          for (let i = 0; i < 3; i += 1) {
            assert.equal(await client.next(), "2");
            client.send("3");
          }
          client.send("4alive");
          assert.equal(await client.next(), "4alive");
        },
        ENGINE,
        { answersPings: false },
      ));

    it("ends a WebSocket session that is silent, in time", () =>
      websocket(
        async (client) => {
          const opened = performance.now();
          await client.end();
          const took = performance.now() - opened;
          // A little for the way of the close frame to this process.
          assert.ok(took > PING_INTERVAL && took < PING_INTERVAL + PING_TIMEOUT + 60, `${took} ms`);
        },
        ENGINE,
        { answersPings: false },
      ));

    it("sends the first ping after one interval, not at once", () =>
      websocket(
        async (client) => {
          const opened = performance.now();
          assert.equal(await client.next(), "2");
          const took = performance.now() - opened;
          assert.ok(took > PING_INTERVAL * 0.8, `${took} ms`);
        },
        ENGINE,
        { answersPings: false },
      ));
  });

  describe(name("engine.io close"), () => {
    it("ends a polling session on request and releases its poll", () =>
      polling(async (client) => {
        const waiting = client.poll();
        await client.send("1");
        assert.deepEqual(await waiting, ["6"]);
        assert.equal((await client.get()).status, 400);
      }));

    it("ends a WebSocket session on request", (t) =>
      websocket(async (client) => {
        if (server.isReference) {
          return t.skip("the reference waits for the missing pong instead");
        }
        client.send("1");
        await client.end();
      }));

    it("forgets a session whose connection is cut", async () => {
      const client = new Socket(server, ENGINE);
      const { sid } = await client.open();
      client.close();
      await client.end();
      await refused({ sid });
    });
  });

  describe(name("engine.io upgrade"), () => {
    /** A polling session and the WebSocket that probes it. */
    async function probing() {
      const client = new Polling(server, ENGINE);
      const { sid } = await client.open();
      const socket = new Socket(server, ENGINE, { sid });
      await within(socket.opened, "open of the second transport");
      socket.send("2probe");
      assert.equal(await socket.next(), "3probe");
      return { client, socket };
    }

    it("moves a session from polling to WebSocket", async () => {
      const { socket } = await probing();
      socket.send("5", "4hello");
      assert.equal(await socket.next(), "4hello");
      socket.close();
    });

    it("releases the poll that waits with a noop", async () => {
      const client = new Polling(server, ENGINE);
      const { sid } = await client.open();
      const waiting = client.poll();
      const socket = new Socket(server, ENGINE, { sid });
      await within(socket.opened, "open of the second transport");
      socket.send("2probe");
      assert.equal(await socket.next(), "3probe");
      assert.deepEqual(await waiting, ["6"]);
      socket.send("5", "4hello");
      assert.equal(await socket.next(), "4hello");
      socket.close();
    });

    it("ignores polling once upgraded", async () => {
      const { client, socket } = await probing();
      socket.send("5", "4first");
      assert.equal(await socket.next(), "4first");
      assert.equal((await client.get()).status, 400);
      socket.close();
    });

    it("ignores a second WebSocket once upgraded", async () => {
      const { client, socket } = await probing();
      socket.send("5", "4first");
      assert.equal(await socket.next(), "4first");
      await refused({ sid: client.query.sid });
      socket.send("4still here");
      assert.equal(await socket.next(), "4still here");
      socket.close();
    });

    it("loses no message on the way", async () => {
      const { client, socket } = await probing();
      await client.send("4before");
      socket.send("5", "4after");
      const seen = [await socket.next(), await socket.next()];
      assert.deepEqual(seen.sort(), ["4after", "4before"]);
      socket.close();
    });

    it("stays with polling when the probe goes away", async () => {
      const { client, socket } = await probing();
      socket.close();
      await socket.end();
      await client.send("4still here");
      const packets = await client.packets(1);
      assert.ok(["4still here", "6"].includes(packets[0]));
    });
  });

  describe(name("socket.io connect"), () => {
    /** Sends a CONNECT and checks what comes back. */
    async function connects(packet, namespace, auth) {
      await websocket(async (client) => {
        client.send(packet);
        const prefix = namespace === "/" ? "" : `${namespace},`;
        const answer = await client.next();
        assert.ok(answer.startsWith(`40${prefix}{`), answer);
        const { sid } = JSON.parse(answer.slice(2 + prefix.length));
        assert.equal(typeof sid, "string");
        assert.equal(await client.next(), `42${prefix}["auth",${JSON.stringify(auth)}]`);
      }, SOCKET);
    }

    it("to the main namespace", () => connects("40", "/", {}));
    it("to the main namespace with a payload", () => connects('40{"token":"123"}', "/", { token: "123" }));
    it("to a custom namespace", () => connects("40/custom,", "/custom", {}));
    it("to a custom namespace without the comma", () => connects("40/custom", "/custom", {}));
    it("to a custom namespace with a payload", () => connects('40/custom,{"token":"a,b"}', "/custom", { token: "a,b" }));

    it("shows an id that is not the transport's", async () => {
      const client = new Socket(server, SOCKET);
      const engine = await client.open();
      client.send("40");
      const { sid } = JSON.parse((await client.next()).slice(2));
      assert.notEqual(sid, engine.sid);
      client.close();
    });

    it("to two namespaces over one connection", () =>
      websocket(async (client) => {
        client.send("40", "40/custom,");
        const answers = [];
        for (let i = 0; i < 4; i += 1) {
          answers.push((await client.next()).replace(/\{"sid".*\}$/, "{}"));
        }
        assert.deepEqual(answers.sort(), ["40/custom,{}", "40{}", '42/custom,["auth",{}]', '42["auth",{}]'].sort());
      }, SOCKET));

    it("over polling", () =>
      polling(async (client) => {
        await client.send('40{"token":"123"}');
        const [connect, auth] = await client.packets(2);
        assert.match(connect, /^40\{"sid":/);
        assert.equal(auth, '42["auth",{"token":"123"}]');
      }, SOCKET));

    it("is refused for an unknown namespace", () =>
      websocket(async (client) => {
        client.send("40/random");
        assert.equal(await client.next(), '44/random,{"message":"Invalid namespace"}');
        client.send("40");
        assert.match(await client.next(), /^40\{/);
      }, SOCKET));

    it("must come in time", () =>
      websocket(async (client) => {
        const opened = performance.now();
        await client.end();
        const took = performance.now() - opened;
        assert.ok(took > CONNECT_TIMEOUT * 0.8 && took < CONNECT_TIMEOUT + 200, `${took} ms`);
      }, SOCKET));

    it("comes before any event", () =>
      websocket(async (client) => {
        client.send('42["message","too early"]');
        await client.end();
      }, SOCKET));

    for (const packet of ["4abc", "40[]", '40"text"', "49", "4"]) {
      it(`ends the connection when it is ${packet}`, () =>
        websocket(async (client) => {
          client.send(packet);
          await client.end();
        }, SOCKET));
    }
  });

  /** Runs `body` with a client connected to a namespace, its greeting read. */
  const connected = (body, namespace = "") =>
    websocket(async (client) => {
      client.send(`40${namespace}`);
      assert.match(await client.next(), /^40/);
      assert.match(await client.next(), /^42.*"auth"/);
      await body(client);
    }, SOCKET);

  describe(name("socket.io disconnect"), () => {
    it("from the main namespace leaves the other", () =>
      connected(async (client) => {
        client.send("40/custom,");
        await client.next();
        await client.next();
        client.send("41", '42/custom,["message","still here"]');
        assert.equal(await client.next(), '42/custom,["message-back","still here"]');
      }));

    it("from a custom namespace leaves the main one", () =>
      connected(async (client) => {
        client.send("40/custom,");
        await client.next();
        await client.next();
        client.send("41/custom,", '42["message","still here"]');
        assert.equal(await client.next(), '42["message-back","still here"]');
      }));

    it("may be followed by a new connect", () =>
      connected(async (client) => {
        client.send("40/custom,");
        await client.next();
        await client.next();
        client.send("41", '42/custom,["message","in between"]');
        await client.next();
        client.send("40");
        assert.match(await client.next(), /^40\{"sid":/);
        assert.equal(await client.next(), '42["auth",{}]');
      }));
  });

  describe(name("socket.io messages"), () => {
    const placeholder = (num) => `{"_placeholder":true,"num":${num}}`;
    const one = Buffer.from([1, 2, 3]);
    const two = Buffer.from([4, 5, 6]);

    for (const [where, namespace] of [["the main namespace", ""], ["a custom namespace", "/custom,"]]) {
      it(`come back from ${where}`, () =>
        connected(async (client) => {
          client.send(`42${namespace}["message",1,"2",{"3":[true]}]`);
          assert.equal(await client.next(), `42${namespace}["message-back",1,"2",{"3":[true]}]`);
        }, namespace));

      it(`with binary come back from ${where}`, () =>
        connected(async (client) => {
          client.send(`452-${namespace}["message",${placeholder(0)},{"deep":${placeholder(1)}}]`, one, two);
          const expected = `452-${namespace}["message-back",${placeholder(0)},{"deep":${placeholder(1)}}]`;
          assert.equal(await client.next(), expected);
          assert.deepEqual(await client.next(), one);
          assert.deepEqual(await client.next(), two);
        }, namespace));

      it(`are acknowledged by ${where}`, () =>
        connected(async (client) => {
          client.send(`42${namespace}456["message-with-ack",1,"2",{"3":[false]}]`);
          assert.equal(await client.next(), `43${namespace}456[1,"2",{"3":[false]}]`);
        }, namespace));

      it(`with binary are acknowledged by ${where}`, () =>
        connected(async (client) => {
          client.send(`452-${namespace}789["message-with-ack",${placeholder(0)},${placeholder(1)}]`, one, two);
          assert.equal(await client.next(), `462-${namespace}789[${placeholder(0)},${placeholder(1)}]`);
          assert.deepEqual(await client.next(), one);
          assert.deepEqual(await client.next(), two);
        }, namespace));
    }

    it("without arguments come back", () =>
      connected(async (client) => {
        client.send('42["message"]', '420["message-with-ack"]');
        assert.equal(await client.next(), '42["message-back"]');
        assert.equal(await client.next(), "430[]");
      }));

    it("come back in order", () =>
      connected(async (client) => {
        const numbers = Array.from({ length: 200 }, (_, i) => i);
        client.send(...numbers.map((i) => `42["message",${i}]`));
        for (const i of numbers) {
          assert.equal(await client.next(), `42["message-back",${i}]`);
        }
      }));

    it("keep every character", () =>
      connected(async (client) => {
        const text = JSON.stringify("€ 价格 🚀 \" \\ \u0001 </script>");
        client.send(`42["message",${text}]`);
        assert.deepEqual(JSON.parse((await client.next()).slice(2)), ["message-back", JSON.parse(text)]);
      }));

    it("with binary work over polling", () =>
      polling(async (client) => {
        await client.send("40");
        await client.packets(2);
        await client.send(`451-["message",${placeholder(0)}]`, `b${one.toString("base64")}`);
        const expected = [`451-["message-back",${placeholder(0)}]`, `b${one.toString("base64")}`];
        assert.deepEqual(await client.packets(2), expected);
      }, SOCKET));

    const broken = {
      "that are no JSON": ["42abc"],
      "that are no array": ["42{}"],
      "without a name": ["42[]"],
      "named by an object": ["42[{}]"],
      "with a reserved name": ['42["connect"]'],
      "that end early": ['42["message"'],
      "of an unknown type": ["47"],
      "with an attachment nobody announced": [Buffer.from([1])],
      "with text instead of an announced attachment": [`451-["message",${placeholder(0)}]`, '42["message"]'],
      "with a placeholder for nothing": [`451-["message",${placeholder(7)}]`, Buffer.from([1])],
    };
    for (const [what, packets] of Object.entries(broken)) {
      it(`${what} end the connection`, () =>
        connected(async (client) => {
          client.send(...packets);
          await client.end();
        }));
    }
  });
}
