// RFC 6455 and RFC 7692 frame by frame against the echo endpoint: generated tables, strict about every byte.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import {
  BINARY,
  CLOSE,
  CONTINUATION,
  PING,
  PONG,
  RawWebSocket,
  TEXT,
  closing,
  deflated,
  fragments,
  frame,
} from "./lib/raw-websocket.mjs";
import { start } from "./lib/server.mjs";

let server;
before(async () => {
  server = await start("TIDEGATE_CONFORMANCE");
});
after(async () => {
  server?.assertAlive();
  await server?.stop();
});

const PROTOCOL = [1002];
const NOT_UTF8 = [1007];
const KIB = 1024;
const MIB = 1024 * KIB;
const PLAIN_DEFLATE = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
const long = { timeout: 60_000 };

/** A test over one connection. */
function test(name, body, options = {}) {
  it(name, { timeout: options.timeout ?? 15_000 }, async (t) => {
    const ws = await RawWebSocket.open(server, options);
    try {
      await body(ws, t);
    } finally {
      ws.destroy();
    }
  });
}

/** Sends `parts`, expects `echoes` (pairs of opcode and payload), then closes well. */
function echoes(name, parts, expected, options = {}) {
  test(
    name,
    async (ws) => {
      const bytes = Buffer.concat(parts);
      const sent = options.chop ? ws.chop(bytes, options.chop) : ws.send(bytes);
      for (const [opcode, payload] of expected) {
        await ws.expect(opcode, payload, options.timeout ?? 10_000);
      }
      await sent;
      await ws.finish();
    },
    options,
  );
}

/** Sends `parts` and expects the connection to fail with one of `codes`, after `expected` echoes. */
function fails(name, parts, codes = PROTOCOL, expected = [], options = {}) {
  test(
    name,
    async (ws) => {
      const bytes = Buffer.concat(parts);
      const sent = options.chop ? ws.chop(bytes, options.chop) : ws.send(bytes);
      for (const [opcode, payload] of expected) {
        await ws.expect(opcode, payload);
      }
      await ws.expectClose(codes);
      await sent;
    },
    options,
  );
}

const text = (length) => "abcdefghijklmnopqrstuvwxyz*".repeat(Math.ceil(length / 27)).slice(0, length);
const bytes = (length) => Buffer.alloc(length, "\x00\xfe\xff\x80tide", "latin1");
const kinds = [
  ["text", TEXT, text],
  ["binary", BINARY, bytes],
];

describe("1 framing", () => {
  for (const [kind, opcode, make] of kinds) {
    for (const length of [0, 1, 125, 126, 127, 128, 65_535, 65_536]) {
      echoes(`${kind} of ${length} bytes`, [frame(opcode, make(length))], [[opcode, make(length)]]);
    }
    for (const chop of [1, 7, 997]) {
      const length = chop === 1 ? 300 : 65_536;
      const options = { chop: chop === 7 ? 700 : chop };
      echoes(`${kind} of ${length} bytes in chops of ${options.chop}`, [frame(opcode, make(length))], [[opcode, make(length)]], options);
    }
    const many = Array.from({ length: 50 }, (_, i) => make(i));
    echoes(`50 of ${kind} in one write`, many.map((data) => frame(opcode, data)), many.map((data) => [opcode, data]));
    fails(`${kind} that is not masked`, [frame(opcode, make(5), { mask: null })]);
    echoes(`${kind} masked with zeros`, [frame(opcode, make(99), { mask: Buffer.alloc(4) })], [[opcode, make(99)]]);
  }
  const head = (...numbers) => Buffer.from(numbers);
  const mask = Buffer.alloc(4);
  minimal("16-bit length where 7 bits do", [head(0x81, 0xfe, 0, 5), mask, Buffer.from("hello")]);
  minimal("64-bit length where 7 bits do", [head(0x81, 0xff, 0, 0, 0, 0, 0, 0, 0, 5), mask, Buffer.from("hello")]);
  minimal("64-bit length where 16 bits do", [head(0x82, 0xff, 0, 0, 0, 0, 0, 0, 1, 0), mask, Buffer.alloc(256)]);
  fails("64-bit length with the top bit", [head(0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 1), mask], [1002, 1009]);
  fails("length above the limit, from the head alone", [head(0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0), mask], [1009]);
});

function minimal(name, parts) {
  test(name, async (ws, t) => {
    if (server.isReference) {
      return t.skip("the reference takes any length");
    }
    ws.send(...parts);
    await ws.expectClose(PROTOCOL);
  });
}

describe("2 pings and pongs", () => {
  for (const payload of ["", "hello", bytes(8), bytes(125)]) {
    echoes(`ping of ${payload.length} bytes`, [frame(PING, payload)], [[PONG, payload]]);
    echoes(`ping of ${payload.length} bytes in single octets`, [frame(PING, payload)], [[PONG, payload]], { chop: 1 });
  }
  fails("ping of 126 bytes", [frame(PING, bytes(126))]);
  fails("pong of 126 bytes", [frame(PONG, bytes(126))]);
  echoes("unsolicited pong", [frame(PONG), frame(TEXT, "after")], [[TEXT, "after"]]);
  echoes("unsolicited pong with payload", [frame(PONG, "x"), frame(PING, "y")], [[PONG, "y"]]);
  const ten = Array.from({ length: 10 }, (_, i) => `ping ${i}`);
  for (const chop of [undefined, 1, 5]) {
    const how = chop ? `in chops of ${chop}` : "in one write";
    echoes(`ten pings ${how}`, ten.map((p) => frame(PING, p)), ten.map((p) => [PONG, p]), { chop });
  }
});

describe("3 reserved bits", () => {
  const frames = [
    ["text", TEXT, "hello"],
    ["binary", BINARY, "hello"],
    ["empty text", TEXT, ""],
    ["ping", PING, "hello"],
    ["pong", PONG, "hello"],
    ["close", CLOSE, closing(1000)],
  ];
  for (let rsv = 1; rsv <= 7; rsv += 1) {
    for (const [kind, opcode, payload] of frames) {
      fails(`${rsv} on ${kind}`, [frame(opcode, payload, { rsv })]);
    }
    const before = frame(TEXT, "good");
    fails(`${rsv} after a good message`, [before, frame(TEXT, "bad", { rsv }), frame(PING)], PROTOCOL, [[TEXT, "good"]]);
    fails(`${rsv} on a continuation`, [frame(TEXT, "a", { fin: false }), frame(CONTINUATION, "b", { rsv })]);
  }
});

describe("4 reserved opcodes", () => {
  for (const opcode of [3, 4, 5, 6, 7, 11, 12, 13, 14, 15]) {
    fails(`${opcode} without payload`, [frame(opcode)]);
    fails(`${opcode} with payload`, [frame(opcode, "payload")]);
    fails(`${opcode} after a good message`, [frame(TEXT, "good"), frame(opcode), frame(PING)], PROTOCOL, [[TEXT, "good"]]);
    fails(`${opcode} in single octets`, [frame(TEXT, "good"), frame(opcode, "x"), frame(PING)], PROTOCOL, [[TEXT, "good"]], { chop: 1 });
    fails(`${opcode} inside a message`, [frame(TEXT, "a", { fin: false }), frame(opcode, "x"), frame(CONTINUATION, "b")]);
  }
});

describe("5 fragmentation", () => {
  const open = (payload, opcode = TEXT) => frame(opcode, payload, { fin: false });
  const more = (payload) => frame(CONTINUATION, payload, { fin: false });
  const last = (payload) => frame(CONTINUATION, payload);
  for (const [kind, opcode] of [["ping", PING], ["pong", PONG], ["close", CLOSE]]) {
    fails(`${kind} cut in two`, [frame(opcode, "", { fin: false }), last("")]);
  }
  for (const chop of [undefined, 1, 3]) {
    const how = chop ? `, chops of ${chop}` : "";
    echoes(`two fragments${how}`, [open("one "), last("two")], [[TEXT, "one two"]], { chop });
    echoes(`a ping between${how}`, [open("one "), frame(PING, "p"), last("two")], [[PONG, "p"], [TEXT, "one two"]], { chop });
    echoes(`a pong between${how}`, [open("one "), frame(PONG, "p"), last("two")], [[TEXT, "one two"]], { chop });
    const pings = [open("a"), frame(PING, "1"), more("b"), frame(PING, "2"), more("c"), frame(PING, "3"), last("d")];
    echoes(`pings between all${how}`, pings, [[PONG, "1"], [PONG, "2"], [PONG, "3"], [TEXT, "abcd"]], { chop });
    fails(`continuation without a start${how}`, [last("x"), frame(TEXT, "y")], PROTOCOL, [], { chop });
    fails(`unfinished continuation without a start${how}`, [more("x"), frame(TEXT, "y")], PROTOCOL, [], { chop });
    fails(`text inside a message${how}`, [open("a"), frame(TEXT, "b")], PROTOCOL, [], { chop });
    fails(`binary inside a message${how}`, [open("a"), frame(BINARY, "b")], PROTOCOL, [], { chop });
    fails(`a new start inside a message${how}`, [open("a"), open("b"), last("c")], PROTOCOL, [], { chop });
    fails(`continuation after the end${how}`, [open("a"), last("b"), last("c")], PROTOCOL, [[TEXT, "ab"]], { chop });
  }
  echoes("empty fragments", [open(""), more(""), last("")], [[TEXT, ""]]);
  echoes("empty fragments around one", [open(""), more("x"), last("")], [[TEXT, "x"]]);
  echoes("binary fragments", [open("a", BINARY), more("b"), last("c")], [[BINARY, "abc"]]);
  echoes("two messages", [open("a"), last("b"), open("c", BINARY), last("d")], [[TEXT, "ab"], [BINARY, "cd"]]);
  echoes("a thousand fragments", fragments(TEXT, text(1000), 1), [[TEXT, text(1000)]]);
  const filled = fragments(BINARY, bytes(100), 1).flatMap((part, i) => [frame(PING, `${i}`), part]);
  const pongs = Array.from({ length: 100 }, (_, i) => [PONG, `${i}`]);
  echoes("a ping before each of a hundred fragments", filled, [...pongs, [BINARY, bytes(100)]]);
  fails("close inside a message", [open("a"), frame(CLOSE, closing(1000)), last("b")], [1000]);
});

const point = (n) => Buffer.from(String.fromCodePoint(n));
const valid = {
  greek: Buffer.from("κόσμε"),
  chinese: Buffer.from("价格更新"),
  emoji: Buffer.from("🚀👩‍👩‍👧"),
  mixed: Buffer.from("a¢€𐍈z"),
  "byte order mark": Buffer.from("\ufeffx"),
  ...Object.fromEntries(
    [
      0x00, 0x7f, 0x80, 0x7ff, 0x800, 0xfff, 0x1000, 0xcfff, 0xd000, 0xd7ff, 0xe000, 0xfffd, 0xfffe, 0xffff, 0x10000,
      0x1fffe, 0x3ffff, 0x40000, 0xfffff, 0x100000, 0x10ffff,
    ].map((n) => [`U+${n.toString(16)}`, point(n)]),
  ),
};

const hex = (digits) => Buffer.from(digits, "hex");
const invalid = {
  "lone continuation 80": hex("80"),
  "lone continuation bf": hex("bf"),
  "two continuations": hex("80bf"),
  "all continuations": Buffer.from(Array.from({ length: 64 }, (_, i) => 0x80 + i)),
  "continuation after text": Buffer.concat([Buffer.from("κόσμε"), hex("80")]),
  "lead of two and a space": hex("c220"),
  "lead of three and a space": hex("e1a020"),
  "lead of four and a space": hex("f1a0a020"),
  "leads one after another": hex("c3c3c3a9"),
  "byte fe": hex("fe"),
  "byte ff": hex("ff"),
  "bytes fe fe ff ff": hex("fefeffff"),
  "overlong of two c0 af": hex("c0af"),
  "overlong of two c1 bf": hex("c1bf"),
  "overlong of three e0 80 af": hex("e080af"),
  "overlong of three e0 9f bf": hex("e09fbf"),
  "overlong of four f0 80 80 af": hex("f08080af"),
  "overlong of four f0 8f bf bf": hex("f08fbfbf"),
  "five bytes": hex("f888808080"),
  "six bytes": hex("fc8480808080"),
  "overlong zero": hex("c080"),
  "above the last f4 90 80 80": hex("f4908080"),
  "above the last f7 bf bf bf": hex("f7bfbfbf"),
  "surrogate d800": hex("eda080"),
  "surrogate dbff": hex("edafbf"),
  "surrogate dc00": hex("edb080"),
  "surrogate dfff": hex("edbfbf"),
  "pair of surrogates": hex("eda080edb080"),
  "text, surrogate, text": Buffer.concat([Buffer.from("κόσμε"), hex("eda080"), Buffer.from("edited")]),
};
const truncated = {
  "two without its second": hex("c2"),
  "three without its third": hex("e282"),
  "three without more": hex("e2"),
  "four without its fourth": hex("f09f9a"),
  "four without more": hex("f0"),
};

describe("6 utf-8", () => {
  for (const [name, data] of Object.entries(valid)) {
    echoes(`${name} whole`, [frame(TEXT, data)], [[TEXT, data]]);
    echoes(`${name} in frames of one byte`, fragments(TEXT, data, 1), [[TEXT, data]]);
    echoes(`${name} in single octets`, [frame(TEXT, data)], [[TEXT, data]], { chop: 1 });
  }
  for (const [name, data] of Object.entries({ ...invalid, ...truncated })) {
    fails(`${name} whole`, [frame(TEXT, data)], NOT_UTF8);
    fails(`${name} in frames of one byte`, fragments(TEXT, data, 1), NOT_UTF8);
    fails(`${name} in single octets`, [frame(TEXT, data)], NOT_UTF8, [], { chop: 1 });
    echoes(`${name} as binary`, [frame(BINARY, data)], [[BINARY, data]]);
  }
  for (const [name, data] of Object.entries(invalid)) {
    // What cannot become valid is refused at once, not when the message ends.
    early(`${name} in an unfinished message`, () => [frame(TEXT, data, { fin: false })]);
    early(`${name} in an unfinished frame`, () => [frame(TEXT, data, { length: data.length + 1000 })]);
  }
  early("a broken second fragment", () => [frame(TEXT, hex("e2"), { fin: false }), frame(CONTINUATION, "x", { fin: false })]);
  const long = Buffer.concat([Buffer.from("价".repeat(20_000)), hex("ff"), Buffer.from("价".repeat(20_000))]);
  fails("one bad byte in a long text", [frame(TEXT, long)], NOT_UTF8);
});

function early(name, parts) {
  test(`${name} fails at once`, async (ws, t) => {
    if (server.isReference) {
      return t.skip("the reference checks whole messages");
    }
    ws.send(...parts());
    await ws.expectClose(NOT_UTF8);
  });
}

describe("7 closing", () => {
  const good = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999];
  for (const code of good) {
    fails(`code ${code}`, [frame(CLOSE, closing(code))], [code]);
    fails(`code ${code} with a reason`, [frame(CLOSE, closing(code, "a reason: 原因"))], [code]);
  }
  for (const code of [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535]) {
    fails(`code ${code}, which is none`, [frame(CLOSE, closing(code))]);
    fails(`code ${code}, which is none, with a reason`, [frame(CLOSE, closing(code, "a reason"))]);
  }
  fails("no code", [frame(CLOSE)], [undefined, 1000]);
  fails("half a code", [frame(CLOSE, "x")]);
  fails("the longest reason", [frame(CLOSE, closing(1000, text(123)))], [1000]);
  fails("a reason too long", [frame(CLOSE, closing(1000, text(124)))]);
  for (const [name, data] of Object.entries({ ...invalid, ...truncated }).filter(([, data]) => data.length < 120)) {
    fails(`a reason that is not UTF-8: ${name}`, [frame(CLOSE, closing(1000, data))], NOT_UTF8);
  }
  fails("in single octets", [frame(CLOSE, closing(1000, "bye"))], [1000], [], { chop: 1 });
  fails("after a message", [frame(TEXT, "last"), frame(CLOSE, closing(1000))], [1000], [[TEXT, "last"]]);
  fails("twice", [frame(CLOSE, closing(1000)), frame(CLOSE, closing(1001))], [1000]);
  fails("a ping after it", [frame(CLOSE, closing(1000)), frame(PING)], [1000]);
  fails("a message after it", [frame(CLOSE, closing(1000)), frame(TEXT, "late")], [1000]);
  fails("much after it", [frame(CLOSE, closing(1000)), frame(BINARY, bytes(256 * KIB))], [1000]);
});

describe("9 size", () => {
  for (const [kind, opcode, make] of kinds) {
    for (const size of [64 * KIB, 256 * KIB, MIB, 4 * MIB, 8 * MIB, 16 * MIB]) {
      echoes(`${kind} of ${size / KIB} KiB`, [frame(opcode, make(size))], [[opcode, make(size)]], long);
    }
    for (const size of [64, 256, KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB]) {
      echoes(`${kind} of 4 MiB in frames of ${size}`, fragments(opcode, make(4 * MIB), size), [[opcode, make(4 * MIB)]], long);
    }
    for (const chop of [64, 128, 256, 512, KIB, 2 * KIB]) {
      echoes(`${kind} of 1 MiB in chops of ${chop}`, [frame(opcode, make(MIB))], [[opcode, make(MIB)]], { ...long, chop });
    }
    for (const size of [0, 16, 64, 256, KIB, 4 * KIB]) {
      const many = Array.from({ length: 1000 }, () => make(size));
      echoes(`1000 of ${kind} of ${size} bytes`, many.map((data) => frame(opcode, data)), many.map((data) => [opcode, data]), long);
    }
  }
  echoes("16 MiB in chops of 4 KiB", [frame(BINARY, bytes(16 * MIB))], [[BINARY, bytes(16 * MIB)]], { ...long, chop: 4 * KIB });
});

describe("10 the server's own fragments", () => {
  echoes("text of 64 KiB in frames of 1300", fragments(TEXT, text(65_536), 1300), [[TEXT, text(65_536)]]);
});

const json = (length) => {
  const row = (i) => JSON.stringify({ symbol: String(600_000 + (i % 300)), price: 10 + (i % 97) / 10, volume: i * 100, ts: 1_700_000_000_000 + i });
  let out = "";
  for (let i = 0; out.length < length; i += 1) {
    out += row(i);
  }
  return out.slice(0, length);
};
/** Bytes that do not compress, the same in every run. */
const noise = (length) => {
  const out = Buffer.alloc(length);
  let state = 0x9e3779b9;
  for (let i = 0; i < length; i += 1) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    out[i] = state & 0xff;
  }
  return out;
};
const material = [
  ["json", TEXT, json],
  ["chinese", TEXT, (length) => "价格更新成交量".repeat(length).slice(0, Math.ceil(length / 3))],
  ["noise", BINARY, noise],
  ["zeros", BINARY, (length) => Buffer.alloc(length)],
];

/** Sends `n` compressed messages and expects each back. */
function compresses(name, opcode, data, { extensions = PLAIN_DEFLATE, n = 10, size, windowBits = 15 } = {}) {
  const body = async (ws) => {
    assert.ok(ws.deflates, "permessage-deflate was declined");
    const bits = Number(/client_max_window_bits=(\d+)/.exec(ws.extensions)?.[1] ?? 15);
    const packed = deflated(data, Math.min(windowBits, Math.max(bits, 9)));
    for (let i = 0; i < n; i += 1) {
      ws.send(...(size ? fragments(opcode, packed, size, 4) : [frame(opcode, packed, { rsv: 4 })]));
      await ws.expect(opcode, data, 10_000);
    }
    await ws.finish();
  };
  test(name, body, { extensions, timeout: 60_000 });
}

describe("12 permessage-deflate", () => {
  for (const [kind, opcode, make] of material) {
    for (const size of [0, 1, 16, 64, 256, KIB, 4 * KIB, 8 * KIB, 16 * KIB, 32 * KIB, 64 * KIB, 128 * KIB]) {
      compresses(`${kind} of ${size} bytes`, opcode, make(size));
    }
    for (const size of [1, 17, 256, KIB]) {
      const length = size === 1 ? 2 * KIB : 64 * KIB;
      compresses(`${kind} of ${length} bytes in frames of ${size}`, opcode, make(length), { size, n: 3 });
    }
    compresses(`${kind} of 4 MiB`, opcode, make(4 * MIB), { n: 2 });
  }
  echoes("plain messages stay welcome", [frame(TEXT, "plain"), frame(TEXT, deflated("packed"), { rsv: 4 })], [[TEXT, "plain"], [TEXT, "packed"]], { extensions: PLAIN_DEFLATE });
  const between = [...fragments(TEXT, deflated(json(5000)), 100, 4)];
  between.splice(3, 0, frame(PING, "p"));
  echoes("a ping inside a compressed message", between, [[PONG, "p"], [TEXT, json(5000)]], { extensions: PLAIN_DEFLATE });

  const bad = (name, parts, codes) => fails(name, parts, codes, [], { extensions: PLAIN_DEFLATE });
  bad("data that is no deflate stream", [frame(TEXT, hex("ffffffffff"), { rsv: 4 })], [1002, 1007]);
  bad("text that is not UTF-8 once inflated", [frame(TEXT, deflated(hex("c328")), { rsv: 4 })], [1007]);
  bad("the bit on a continuation", [frame(TEXT, deflated("a"), { rsv: 4, fin: false }), frame(CONTINUATION, "b", { rsv: 4 })], PROTOCOL);
  bad("the bit on a continuation of a plain message", [frame(TEXT, "a", { fin: false }), frame(CONTINUATION, "b", { rsv: 4 })], PROTOCOL);
  for (const [kind, opcode] of [["ping", PING], ["pong", PONG], ["close", CLOSE]]) {
    bad(`the bit on a ${kind}`, [frame(opcode, "", { rsv: 4 })], PROTOCOL);
  }
  for (const rsv of [1, 2, 3, 5, 6, 7]) {
    bad(`other bits: ${rsv}`, [frame(TEXT, deflated("a"), { rsv })], PROTOCOL);
  }
  test(
    "a deflate bomb is refused before it is inflated",
    async (ws) => {
      ws.send(frame(BINARY, deflated(Buffer.alloc(65 * MIB)), { rsv: 4 }));
      await ws.expectClose([1009], 20_000);
    },
    { extensions: PLAIN_DEFLATE, ...long },
  );
});

describe("13 what is negotiated", () => {
  const offers = [
    "permessage-deflate",
    "permessage-deflate; client_max_window_bits",
    "permessage-deflate; server_no_context_takeover",
    "permessage-deflate; client_no_context_takeover; client_max_window_bits",
    "permessage-deflate; server_max_window_bits=9",
    "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
    "permessage-deflate; server_max_window_bits=15; client_max_window_bits=15; server_no_context_takeover",
    "permessage-deflate; server_max_window_bits=10, permessage-deflate",
  ];
  for (const extensions of offers) {
    for (const size of [16, 256, 4 * KIB, 64 * KIB]) {
      const asked = Number(/^[^,]*client_max_window_bits=(\d+)/.exec(extensions)?.[1] ?? 15);
      compresses(`${extensions}: ${size} bytes`, TEXT, json(size), { extensions, n: 5, windowBits: asked });
    }
    test(
      `${extensions}: the answer asks for no more than was offered`,
      async (ws) => {
        assert.match(ws.extensions, /^permessage-deflate/);
        assert.ok(!ws.extensions.includes(","), ws.extensions);
        const asked = /^[^,]*server_max_window_bits=(\d+)/.exec(extensions);
        if (asked) {
          assert.ok(ws.serverWindow <= Number(asked[1]), ws.extensions);
        }
        if (!extensions.split(",")[0].includes("client_max_window_bits")) {
          assert.ok(!ws.extensions.includes("client_max_window_bits"), ws.extensions);
        }
        // Large enough that a wider window than agreed would be used, and would fail to inflate here.
        ws.send(frame(TEXT, json(100_000)));
        await ws.expect(TEXT, json(100_000));
        await ws.finish();
      },
      { extensions },
    );
  }

  const declined = {
    "an unknown extension": "x-webkit-deflate-frame",
    "an unknown parameter": "permessage-deflate; turbo",
    "a window too small": "permessage-deflate; server_max_window_bits=7",
    "a window too large": "permessage-deflate; server_max_window_bits=16",
    "a window that is no number": "permessage-deflate; client_max_window_bits=wide",
    "a value where none belongs": "permessage-deflate; server_no_context_takeover=1",
    "a parameter twice": "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
  };
  for (const [what, extensions] of Object.entries(declined)) {
    it(`${what} is declined`, { timeout: 15_000 }, async (t) => {
      // Refusing the whole handshake is stricter than the text asks for, but the reference does it.
      const ws = await RawWebSocket.open(server, { extensions }).catch((error) => error);
      if (ws instanceof Error) {
        return server.isReference ? t.skip("the reference refuses the handshake") : Promise.reject(ws);
      }
      assert.equal(ws.extensions, undefined);
      ws.send(frame(TEXT, json(5000)));
      assert.equal((await ws.expect(TEXT, json(5000))).compressed, false);
      await ws.finish();
    });
    it(`${what} is passed over for the next offer`, { timeout: 15_000 }, async (t) => {
      if (server.isReference && what !== "an unknown extension") {
        return t.skip("the reference refuses the handshake");
      }
      const ws = await RawWebSocket.open(server, { extensions: `${extensions}, permessage-deflate` });
      assert.match(ws.extensions, /^permessage-deflate/);
      await ws.finish();
    });
  }

  test(
    "a server window of 8, which zlib cannot make, is declined or answered in plain",
    async (ws) => {
      ws.send(frame(TEXT, json(5000)));
      const { compressed } = await ws.expect(TEXT, json(5000));
      assert.ok(!compressed || ws.serverWindow === 8);
      await ws.finish();
    },
    { extensions: "permessage-deflate; server_max_window_bits=8" },
  );
});
