// Prints failures, one line per top-level group, and the counts that `cargo xtask ci` adds up.

export default async function* reporter(source) {
  const n = { passed: 0, failed: 0, skipped: 0 };
  const groups = new Map();
  const told = new Set();
  for await (const { type, data } of source) {
    if (type === "test:stderr" || type === "test:stdout") {
      yield data.message;
      continue;
    }
    if (type !== "test:pass" && type !== "test:fail") {
      continue;
    }
    if (data.details?.type === "suite") {
      yield* group(data, groups);
      // A group fails because of its tests, which are counted, or because of its hooks, which are not.
      if (type === "test:fail" && data.details.error?.failureType !== "subtestsFailed") {
        n.failed += 1;
        // One hook serves every group: its failure is told once.
        const text = String(data.details.error?.cause);
        if (!told.has(text)) {
          told.add(text);
          yield failure(data);
        }
      }
      continue;
    }
    if (data.skip !== undefined) {
      n.skipped += 1;
    } else if (type === "test:pass") {
      n.passed += 1;
    } else {
      n.failed += 1;
      // Tests under a hook that failed are counted; the hook's own failure says why.
      if (data.details?.error?.failureType !== "cancelledByParent") {
        yield failure(data);
      }
    }
    groups.set("n", (groups.get("n") ?? 0) + 1);
  }
  yield `# pass ${n.passed}\n# fail ${n.failed}\n`;
  if (n.skipped > 0) {
    yield `# skipped ${n.skipped}\n`;
  }
}

function* group(data, groups) {
  if (data.nesting > 0) {
    return;
  }
  const n = groups.get("n") ?? 0;
  groups.set("n", 0);
  yield `${data.name}: ${n} tests, ${(data.details.duration_ms / 1000).toFixed(1)} s\n`;
}

function failure(data) {
  const error = data.details?.error;
  const cause = error?.cause ?? error;
  const text = cause?.stack ?? String(cause);
  return `FAILED ${data.name} (${data.file ?? ""}:${data.line ?? ""})\n${text.replace(/^/gm, "    ")}\n`;
}
