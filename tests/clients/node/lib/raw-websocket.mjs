// RFC 6455 and RFC 7692 by hand over TCP: sends any bytes, and is strict about every byte that comes back.

import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import net from "node:net";
import zlib from "node:zlib";
import { within } from "./wait.mjs";

export const CONTINUATION = 0;
export const TEXT = 1;
export const BINARY = 2;
export const CLOSE = 8;
export const PING = 9;
export const PONG = 10;

const GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const TAIL = Buffer.from([0, 0, 0xff, 0xff]);

/** One frame from a client. `rsv` is a number of three bits; `length` overrides the true one. */
export function frame(opcode, payload = "", { fin = true, rsv = 0, mask = randomBytes(4), length } = {}) {
  const data = Buffer.from(payload);
  const head = Buffer.concat([Buffer.from([(fin ? 0x80 : 0) | (rsv << 4) | opcode]), lengthOf(length ?? data.length)]);
  if (mask === null) {
    return Buffer.concat([head, data]);
  }
  head[1] |= 0x80;
  return Buffer.concat([head, mask, masked(data, mask)]);
}

function lengthOf(length) {
  if (length < 126) {
    return Buffer.from([length]);
  }
  const bytes = Buffer.alloc(length < 65_536 ? 3 : 9);
  if (length < 65_536) {
    bytes[0] = 126;
    bytes.writeUInt16BE(length, 1);
  } else {
    bytes[0] = 127;
    bytes.writeBigUInt64BE(BigInt(length), 1);
  }
  return bytes;
}

function masked(data, mask) {
  const out = Buffer.allocUnsafe(data.length);
  for (let i = 0; i < data.length; i += 1) {
    out[i] = data[i] ^ mask[i & 3];
  }
  return out;
}

/** The payload of a close frame. */
export function closing(code, reason = "") {
  const head = Buffer.alloc(2);
  head.writeUInt16BE(code);
  return Buffer.concat([head, Buffer.from(reason)]);
}

/** A message cut into frames of `size` bytes. */
export function fragments(opcode, payload, size, rsv = 0) {
  const data = Buffer.from(payload);
  const frames = [];
  for (let at = 0; at === 0 || at < data.length; at += size) {
    const first = at === 0;
    const fin = at + size >= data.length;
    frames.push(frame(first ? opcode : CONTINUATION, data.subarray(at, at + size), { fin, rsv: first ? rsv : 0 }));
  }
  return frames;
}

/** A message as permessage-deflate has it, without context. */
export function deflated(payload, windowBits = 15) {
  const options = { windowBits, finishFlush: zlib.constants.Z_SYNC_FLUSH };
  const whole = zlib.deflateRawSync(Buffer.from(payload), options);
  return whole.subarray(0, whole.length - TAIL.length);
}

/** One connection. */
export class RawWebSocket {
  /** Opens `/echo`; `extensions` is what is offered in `Sec-WebSocket-Extensions`. */
  static async open(server, { path = "/echo", extensions } = {}) {
    const client = new RawWebSocket(net.connect(server.port, server.host));
    await client.#handshake(server, path, extensions);
    return client;
  }

  constructor(socket) {
    this.socket = socket;
    this.socket.setNoDelay(true);
    this.chunks = [];
    this.n_bytes = 0;
    this.wake = () => {};
    this.ended = false;
    this.partial = null;
    socket.on("data", (chunk) => {
      this.chunks.push(chunk);
      this.n_bytes += chunk.length;
      this.wake();
    });
    socket.on("error", () => {});
    this.closed = new Promise((resolve) => socket.once("close", resolve)).then(() => {
      this.ended = true;
      this.wake();
    });
  }

  async #handshake(server, path, extensions) {
    const key = randomBytes(16).toString("base64");
    const offer = extensions === undefined ? "" : `Sec-WebSocket-Extensions: ${extensions}\r\n`;
    this.socket.write(
      `GET ${path} HTTP/1.1\r\nHost: ${server.host}:${server.port}\r\nUpgrade: websocket\r\n` +
        `Connection: Upgrade\r\nSec-WebSocket-Key: ${key}\r\nSec-WebSocket-Version: 13\r\n${offer}\r\n`,
    );
    const head = await within(this.#head(), "answer to the handshake");
    const [status, ...lines] = head.split("\r\n");
    assert.match(status, /^HTTP\/1\.1 101 /);
    const headers = new Map(lines.filter(Boolean).map((line) => [line.split(":")[0].toLowerCase(), line.split(/:\s*/).slice(1).join(":")]));
    assert.equal(headers.get("upgrade").toLowerCase(), "websocket");
    assert.equal(headers.get("connection").toLowerCase(), "upgrade");
    assert.equal(headers.get("sec-websocket-accept"), createHash("sha1").update(key + GUID).digest("base64"));
    this.extensions = headers.get("sec-websocket-extensions");
    this.deflates = this.extensions !== undefined;
    const window = /server_max_window_bits=(\d+)/.exec(this.extensions ?? "");
    this.serverWindow = window ? Number(window[1]) : 15;
  }

  async #head() {
    for (;;) {
      const bytes = Buffer.concat(this.chunks);
      const end = bytes.indexOf("\r\n\r\n");
      if (end >= 0) {
        this.#consume(end + 4);
        return bytes.toString("latin1", 0, end + 2);
      }
      await this.#more();
    }
  }

  async #more() {
    if (this.ended) {
      throw new Error("the connection ended");
    }
    await new Promise((resolve) => (this.wake = resolve));
  }

  /** `n` bytes from the front, once they are there. */
  async #take(n) {
    while (this.n_bytes < n) {
      await this.#more();
    }
    return this.#consume(n);
  }

  #consume(n) {
    if (this.chunks.length > 1) {
      this.chunks = [Buffer.concat(this.chunks)];
    }
    const all = this.chunks[0] ?? Buffer.alloc(0);
    this.chunks = [all.subarray(n)];
    this.n_bytes -= n;
    return all.subarray(0, n);
  }

  /** Writes bytes or frames as they are. */
  send(...parts) {
    this.socket.write(Buffer.concat(parts));
  }

  /** Writes `bytes` in pieces of `size`, each in a segment of its own as far as the kernel lets us. */
  async chop(bytes, size) {
    for (let at = 0; at < bytes.length; at += size) {
      const piece = bytes.subarray(at, at + size);
      // A server that has refused what it saw so far does not take the rest.
      if (this.ended || !this.socket.writable) {
        return;
      }
      await new Promise((resolve) => this.socket.write(piece, resolve));
    }
  }

  async #frame() {
    const [one, two] = await this.#take(2);
    const [fin, rsv, opcode] = [one >= 0x80, (one >> 4) & 7, one & 15];
    assert.ok(two < 0x80, "a server must not mask");
    let length = two;
    if (length === 126) {
      length = (await this.#take(2)).readUInt16BE();
      assert.ok(length > 125, "length not minimal");
    } else if (length === 127) {
      length = Number((await this.#take(8)).readBigUInt64BE());
      assert.ok(length > 65_535, "length not minimal");
    }
    const payload = Buffer.from(await this.#take(length));
    return { fin, rsv, opcode, payload };
  }

  /** The next message, ping, pong or close: `{opcode, payload}`, inflated, checked. */
  async #event() {
    for (;;) {
      const { fin, rsv, opcode, payload } = await this.#frame();
      if (opcode >= 8) {
        assert.ok(fin && rsv === 0 && payload.length <= 125 && opcode <= PONG, "bad control frame");
        return { opcode, payload };
      }
      assert.ok(opcode <= BINARY, `opcode ${opcode}`);
      assert.equal(opcode === CONTINUATION, this.partial !== null, "continuation out of place");
      this.partial ??= { opcode, compressed: rsv === 4, parts: [] };
      assert.equal(rsv, this.partial.compressed && opcode !== CONTINUATION ? 4 : 0, "reserved bits");
      assert.ok(!this.partial.compressed || this.deflates, "compressed, but not negotiated");
      this.partial.parts.push(payload);
      if (fin) {
        return this.#message();
      }
    }
  }

  #message() {
    const { opcode, compressed, parts } = this.partial;
    this.partial = null;
    let payload = Buffer.concat(parts);
    if (compressed) {
      // With the window that was agreed: a longer distance than allowed fails here.
      const options = { windowBits: this.serverWindow, finishFlush: zlib.constants.Z_SYNC_FLUSH };
      payload = zlib.inflateRawSync(Buffer.concat([payload, TAIL]), options);
    }
    if (opcode === TEXT) {
      new TextDecoder("utf-8", { fatal: true }).decode(payload);
    }
    return { opcode, payload, compressed };
  }

  next(ms) {
    return within(this.#event(), "a frame", ms);
  }

  /** Expects one event of this kind with this payload. */
  async expect(opcode, payload, ms) {
    const event = await this.next(ms);
    assert.equal(event.opcode, opcode, `opcode ${event.opcode}: ${event.payload.subarray(0, 80)}`);
    const expected = Buffer.from(payload);
    // Not deepEqual: printing the difference of megabytes takes minutes.
    assert.ok(event.payload.equals(expected), `${event.payload.length} bytes differ from ${expected.length} expected`);
    return event;
  }

  /** Expects a close frame with one of `codes`, and then the end of the connection. Returns the code. */
  async expectClose(codes, ms) {
    const { opcode, payload } = await this.next(ms);
    assert.equal(opcode, CLOSE, `opcode ${opcode}: ${payload.subarray(0, 80)}`);
    assert.notEqual(payload.length, 1);
    const code = payload.length === 0 ? undefined : payload.readUInt16BE();
    assert.ok(codes.includes(code), `closed with ${code}: ${payload.subarray(2)}`);
    await within(this.closed, "end of the connection");
    return code;
  }

  /** Closes as a good client does; the server must answer and then hang up. */
  async finish(code = 1000) {
    this.send(frame(CLOSE, closing(code)));
    await this.expectClose([code]);
  }

  destroy() {
    this.socket.destroy();
  }
}
