// Brings messages in from elsewhere, in a process of its own that knows nothing of Socket.IO: Drizzle writes the rows, and the
// clients hear of them when their transaction is committed, and of none if it is rolled back.
//
//     DATABASE_URL=postgres://user@host/database node importer.mjs ROOM USER < lines
//
// Tidegate reads what is published here on the same database, with `store.relay.enabled = true`; run.mjs sets that.

import { createInterface } from "node:readline";
import { sql } from "drizzle-orm";
import { close, db, store } from "./models.mjs";

const [room, user] = process.argv.slice(2);
if (!user) {
  console.error("usage: node importer.mjs ROOM USER < lines");
  process.exit(64);
}

try {
  await db.transaction(async (tx) => {
    for await (const line of createInterface({ input: process.stdin })) {
      const message = await store(room, user, line, tx);
      await tx.execute(sql`SELECT tidegate.publish(${room}, 'message', ${JSON.stringify(message)}::jsonb)`);
    }
  });
} finally {
  await close();
}
