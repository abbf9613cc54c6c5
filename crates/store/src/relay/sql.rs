//! The statements of the reader.

/// Longest name of a node.
pub(super) const NODE_BYTES_MAX: usize = 256;

/// Rows that one statement deletes.
pub(super) const DELETED_AT_ONCE: i64 = 20_000;
/// Rows that are looked at for age in one pass.
pub(super) const EXPIRED_AT_ONCE: i64 = 50_000;
/// Publications put aside that are kept.
pub(super) const DEAD_MAX: i64 = 10_000;

/// A server that was promoted, and one that crashed, begins another history, in which the numbers of transactions that were
/// lost are given out again: a position counts in its own history alone, so each statement that uses one names the history.
/// It is the timeline and the life of the server; null until somebody has claimed a place in it.
macro_rules! in_history {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            "(SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || '.' || life FROM tidegate.outbox_life)",
            $after
        )
    };
}

/// Begins the history, if nobody has yet.
pub(super) const LIVE: &str = "INSERT INTO tidegate.outbox_life DEFAULT VALUES ON CONFLICT DO NOTHING";

/// Takes over the node's place: node, owner, where to begin if it has none, and the history in which that counts. A
/// database that was restored into another cluster has positions from the future: reading then begins anew.
pub(super) const CLAIM: &str = in_history!(
    "INSERT INTO tidegate.outbox_reader AS r (node, owner, xid, id, dropped) \
     SELECT $1, $2, CASE WHEN known THEN $3::text::xid8 ELSE '0'::xid8 END, CASE WHEN known THEN $4::int8 ELSE 0 END, \
     (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM tidegate.outbox_dropped) \
     FROM (SELECT history, history = $5 AND $3::text::xid8 <= pg_snapshot_xmax(pg_current_snapshot()) AS known FROM ",
    " AS h (history)) AS now ON CONFLICT (node) DO UPDATE SET owner = excluded.owner, seen_at = clock_timestamp(), \
     xid = CASE WHEN r.xid > pg_snapshot_xmax(pg_current_snapshot()) THEN '0'::xid8 ELSE r.xid END, \
     id = CASE WHEN r.xid > pg_snapshot_xmax(pg_current_snapshot()) THEN 0 ELSE r.id END \
     RETURNING xid::text, id, lost, dropped"
);

/// The history of this moment.
pub(super) const HISTORY: &str = in_history!("SELECT ", "");

/// Who has the node's place, and whether he is still there: node, milliseconds.
pub(super) const HOLDER: &str = "SELECT owner, seen_at < clock_timestamp() - $2::int8 * interval '1 millisecond' \
     FROM tidegate.outbox_reader WHERE node = $1";

/// The next rows: position, rows, bytes, history. The order names its table: as text, transaction 10 comes before 9.
pub(super) const READ: &str = in_history!(
    "SELECT xid::text, id, namespace, array_to_json(rooms)::text, event, data::text, \
     array_to_json(tags)::text, options::text, problem, n_bytes, age FROM (SELECT o.*, \
     sum(n_bytes) OVER (ORDER BY xid, id) - n_bytes AS before, \
     (extract(epoch FROM clock_timestamp() - at) * 1000000)::int8 AS age FROM (SELECT * FROM tidegate.outbox \
     WHERE (xid, id) > ($1::text::xid8, $2::int8) AND xid < pg_snapshot_xmin(pg_current_snapshot()) \
     AND ",
    " = $5 ORDER BY xid, id LIMIT $3::int8) AS o) AS batch WHERE before < $4::int8 ORDER BY batch.xid, batch.id"
);

/// Whether rows are there that may not be read yet, and whether the history is still the same: position, history.
pub(super) const HELD: &str = in_history!(
    "SELECT EXISTS (SELECT FROM tidegate.outbox WHERE (xid, id) > ($1::text::xid8, $2::int8)), ",
    " = $3"
);

/// Tags of rows that are committed, whether they may be read or not: position, rows, bytes.
pub(super) const TAGS: &str = "SELECT array_to_json(tags)::text FROM (SELECT tags, \
     sum(n_bytes) OVER (ORDER BY xid, id) - n_bytes AS before FROM (SELECT xid, id, tags, n_bytes FROM tidegate.outbox \
     WHERE (xid, id) > ($1::text::xid8, $2::int8) ORDER BY xid, id LIMIT $3::int8) AS o) AS batch \
     WHERE before < $4::int8 AND tags <> '{}'";

/// Puts rows aside: transactions, numbers, reasons, node, history.
pub(super) const BURY: &str = in_history!(
    "INSERT INTO tidegate.outbox_dead (xid, id, at, namespace, rooms, event, data, tags, options, \
     reason, node) SELECT o.xid, o.id, o.at, o.namespace, o.rooms, o.event, o.data, o.tags, o.options, d.reason, $4 \
     FROM unnest($1::text[], $2::int8[], $3::text[]) AS d (xid, id, reason) \
     JOIN tidegate.outbox AS o ON o.xid = d.xid::xid8 AND o.id = d.id WHERE ",
    " = $5 ON CONFLICT DO NOTHING"
);

/// Writes the position and deletes what every node has read: node, owner, position, lost and dropped ones that are
/// accounted for, below which nothing is left, how much to delete, history. No row if another process has the place, or the
/// history is another one. The commit may be lost in a crash, which costs a repetition.
pub(super) const SAVE: &str = in_history!(
    "WITH me AS (UPDATE tidegate.outbox_reader SET xid = $3::text::xid8, id = $4::int8, \
     lost = lost - $5::int8, dropped = $6::int8, seen_at = clock_timestamp() WHERE node = $1 AND owner = $2 \
     AND ",
    " = $10 RETURNING lost), low AS (SELECT xid, id FROM (SELECT xid, id FROM tidegate.outbox_reader WHERE node <> $1 \
     UNION ALL SELECT $3::text::xid8, $4::int8) AS every ORDER BY xid, id LIMIT 1), \
     gone AS (DELETE FROM tidegate.outbox WHERE ctid = ANY (ARRAY(SELECT ctid FROM tidegate.outbox \
     WHERE (xid, id) > ($7::text::xid8, $8::int8) AND (xid, id) <= ((SELECT xid FROM low), (SELECT id FROM low)) \
     ORDER BY xid, id LIMIT $9::int8)) AND EXISTS (SELECT FROM me) RETURNING 1) \
     SELECT me.lost, (SELECT count(*) FROM gone), low.xid::text, low.id, \
     set_config('synchronous_commit', 'off', true) FROM me, low"
);

/// What is there: how far to count, position.
pub(super) const LOOK: &str = "SELECT (SELECT count(*) FROM (SELECT FROM tidegate.outbox LIMIT $1::int8) AS every), \
     (SELECT count(*) FROM (SELECT FROM tidegate.outbox WHERE (xid, id) > ($2::text::xid8, $3::int8) LIMIT $1::int8) \
     AS waiting), (SELECT (extract(epoch FROM clock_timestamp() - at) * 1000000)::int8 FROM tidegate.outbox \
     WHERE (xid, id) > ($2::text::xid8, $3::int8) ORDER BY xid, id LIMIT 1), \
     (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM tidegate.outbox_dropped), \
     pg_table_size('tidegate.outbox'::regclass), (SELECT count(*) FROM tidegate.outbox_reader), \
     (SELECT count(*) FROM tidegate.outbox_dead)";

/// Nodes that are gone hold nothing back: this node, milliseconds.
pub(super) const FORGET: &str = "DELETE FROM tidegate.outbox_reader WHERE node <> $1 \
     AND seen_at < clock_timestamp() - $2::int8 * interval '1 millisecond' RETURNING node";

/// Gives up what is too old or too much, also for nodes that have not read it, which are told how many: milliseconds,
/// how many of the oldest, how many to look at. Rows from the future of another cluster can never be read.
pub(super) const EXPIRE: &str = "WITH old AS (DELETE FROM tidegate.outbox WHERE ctid = ANY (ARRAY(SELECT place.ctid FROM \
     (SELECT ctid, xid, at, row_number() OVER (ORDER BY xid, id) AS n FROM tidegate.outbox ORDER BY xid, id \
     LIMIT $3::int8) AS place WHERE (at < clock_timestamp() - $1::int8 * interval '1 millisecond' OR n <= $2::int8) \
     AND (xid < pg_snapshot_xmin(pg_current_snapshot()) OR xid >= pg_snapshot_xmax(pg_current_snapshot())))) \
     RETURNING xid, id), marked AS (UPDATE tidegate.outbox_reader AS r SET lost = r.lost + (SELECT count(*) FROM old \
     WHERE (old.xid, old.id) > (r.xid, r.id)) WHERE EXISTS (SELECT FROM old WHERE (old.xid, old.id) > (r.xid, r.id))) \
     SELECT count(*) FROM old";

/// What `publish` checks: bytes, bytes of a row, whether it fails, whether there is room whatever the files say.
pub(super) const LIMITS: &str = "INSERT INTO tidegate.outbox_limits AS l (bytes_max, row_bytes_max, is_strict, room_until) \
     VALUES ($1::int8, $2::int8::int4, $3::bool, CASE WHEN $4::bool THEN clock_timestamp() + interval '30 seconds' END) \
     ON CONFLICT (lone) DO UPDATE SET bytes_max = excluded.bytes_max, row_bytes_max = excluded.row_bytes_max, \
     is_strict = excluded.is_strict, room_until = excluded.room_until";

/// Keeps the newest of what was put aside: how many.
pub(super) const TRIM: &str = "DELETE FROM tidegate.outbox_dead WHERE (xid, id) <= (SELECT xid, id FROM \
     tidegate.outbox_dead ORDER BY xid DESC, id DESC OFFSET $1::int8 LIMIT 1)";
