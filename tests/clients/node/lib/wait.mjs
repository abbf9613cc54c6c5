// Waiting with a deadline, so that a test which waits for ever fails with a name instead.

export const DEADLINE_MS = 5_000;

/** Rejects with `what` if `promise` takes longer than `ms`. */
export async function within(promise, what, ms = DEADLINE_MS) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: not within ${ms} ms`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Resolves after `ms`: for what the protocol says must have happened by a time. */
export function elapsed(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** The arguments of the next `name` that `emitter` emits. */
export function once(emitter, name, ms = DEADLINE_MS) {
  const happened = new Promise((resolve) => emitter.once(name, (...args) => resolve(args)));
  return within(happened, `event ${name}`, ms);
}

/** Collects what `emitter` emits under `name`, with a way to wait for a number of them. */
export class Collected {
  constructor(emitter, name, keep = (...args) => args[0]) {
    this.items = [];
    this.waiting = [];
    emitter.on(name, (...args) => {
      this.items.push(keep(...args));
      this.waiting.filter(({ n }) => this.items.length >= n).forEach(({ resolve }) => resolve(this.items));
    });
    this.name = name;
  }

  /** Resolves with everything collected as soon as there are `n`. */
  count(n, ms = DEADLINE_MS) {
    const reached = new Promise((resolve) => {
      this.waiting.push({ n, resolve });
      if (this.items.length >= n) {
        resolve(this.items);
      }
    });
    return within(reached, `${n} times ${this.name} (so far ${this.items.length})`, ms);
  }
}
