// A TCP proxy that fails the way networks fail.

import net from "node:net";

/** Forwards to `target`; every connection can be cut on both sides or on the client's side only. */
export class Proxy {
  static async start(target) {
    const proxy = new Proxy(target);
    await new Promise((resolve) => proxy.listener.listen(0, "127.0.0.1", resolve));
    proxy.url = `http://127.0.0.1:${proxy.listener.address().port}`;
    return proxy;
  }

  constructor(target) {
    this.target = target;
    this.links = new Set();
    this.refuses = false;
    this.listener = net.createServer((client) => this.#link(client));
  }

  #link(client) {
    if (this.refuses) {
      client.destroy();
      return;
    }
    const upstream = net.connect(this.target.port, this.target.host);
    const link = { client, upstream, isHalfOpen: false };
    link.upstreamClosed = new Promise((resolve) => upstream.once("close", resolve));
    this.links.add(link);
    for (const socket of [client, upstream]) {
      socket.on("error", () => {});
      socket.setNoDelay(true);
    }
    client.on("data", (data) => upstream.write(data));
    upstream.on("data", (data) => link.isHalfOpen || client.write(data));
    client.once("close", () => link.isHalfOpen || upstream.destroy());
    upstream.once("close", () => {
      client.destroy();
      this.links.delete(link);
    });
  }

  /** Cuts every connection on both sides. */
  cut() {
    this.links.forEach(({ client, upstream }) => {
      client.destroy();
      upstream.destroy();
    });
  }

  /**
   * Cuts every connection on the client's side and says nothing to the server, as a lost radio link does.
   * Returns promises that resolve when the server gives each of them up.
   */
  halfOpen() {
    return [...this.links].map((link) => {
      link.isHalfOpen = true;
      link.client.destroy();
      return link.upstreamClosed;
    });
  }

  stop() {
    this.cut();
    return new Promise((resolve) => this.listener.close(resolve));
  }
}
