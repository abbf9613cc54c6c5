//! The SQL of the outbox: tables and functions by which an application publishes inside its own transactions.
//!
//! | object | what it is |
//! |---|---|
//! | `outbox` | publications that wait for the readers, ordered by transaction and number |
//! | `outbox_reader` | how far each node has read, and when it was last seen |
//! | `outbox_life` | one row: the life of the server since its last crash; the server itself empties it |
//! | `outbox_limits` | one row: what `publish` checks, written by the readers |
//! | `outbox_dropped` | a sequence that counts publications that found the outbox full; it counts in rolled-back transactions too |
//! | `outbox_dead` | publications that no node could carry out, with the reason |
//! | `publish`, `publish_to`, `invalidate` | what an application calls |
//! | `watch`, `unwatch` | triggers that publish the rows of a table |

/// Whoever may publish needs no more than EXECUTE on the functions: they run with the rights of the role that migrated,
/// with a search path of their own.
pub(super) const POSTGRES: &[&str] = &[
    // Rows live for milliseconds: what is left of them is cleaned up early and often.
    "CREATE TABLE IF NOT EXISTS tidegate.outbox (
  xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
  id int8 GENERATED ALWAYS AS IDENTITY,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  namespace text NOT NULL,
  rooms text[] NOT NULL,
  event text,
  data jsonb,
  tags text[] NOT NULL,
  options jsonb,
  problem text,
  n_bytes int4 NOT NULL,
  PRIMARY KEY (xid, id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000, vacuum_truncate = true)",
    "CREATE TABLE IF NOT EXISTS tidegate.outbox_reader (
  node text PRIMARY KEY,
  owner text NOT NULL,
  xid xid8 NOT NULL,
  id int8 NOT NULL,
  lost int8 NOT NULL DEFAULT 0,
  dropped int8 NOT NULL,
  since timestamptz NOT NULL DEFAULT clock_timestamp(),
  seen_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50)",
    // A crash may take the last transactions with it, and their numbers are given out again: readers must notice. It also
    // empties tables that are not logged, and a promoted server has them empty.
    "CREATE UNLOGGED TABLE IF NOT EXISTS tidegate.outbox_life (
  lone boolean PRIMARY KEY DEFAULT true CHECK (lone),
  life text NOT NULL DEFAULT left(gen_random_uuid()::text, 8)
)",
    "CREATE TABLE IF NOT EXISTS tidegate.outbox_limits (
  lone boolean PRIMARY KEY DEFAULT true CHECK (lone),
  bytes_max int8 NOT NULL DEFAULT 1073741824,
  row_bytes_max int4 NOT NULL DEFAULT 1048576,
  is_strict boolean NOT NULL DEFAULT false,
  room_until timestamptz
) WITH (fillfactor = 50)",
    "INSERT INTO tidegate.outbox_limits DEFAULT VALUES ON CONFLICT DO NOTHING",
    "CREATE SEQUENCE IF NOT EXISTS tidegate.outbox_dropped",
    "CREATE TABLE IF NOT EXISTS tidegate.outbox_dead (
  xid xid8 NOT NULL,
  id int8 NOT NULL,
  at timestamptz NOT NULL,
  namespace text NOT NULL,
  rooms text[] NOT NULL,
  event text,
  data jsonb,
  tags text[] NOT NULL,
  options jsonb,
  reason text NOT NULL,
  node text NOT NULL,
  PRIMARY KEY (xid, id)
)",
    PUT,
    PUBLISH,
    PUBLISH_TO,
    INVALIDATE,
    TEMPLATE_PARTS,
    TEMPLATE_FILL,
    CHECK_CASTS,
    WATCH_ROW,
    WATCH,
    UNWATCH,
    "REVOKE EXECUTE ON FUNCTION tidegate.outbox_put, tidegate.publish, tidegate.publish_to, tidegate.invalidate, \
     tidegate.watch_row, tidegate.watch, tidegate.unwatch FROM PUBLIC",
];

/// Writes one row. It never fails for what a row holds: what cannot be published is put aside by the reader, and the
/// transaction of the application goes on. The size of the table is that of its files, so that the bound holds while
/// nobody reads; a reader that sees few rows in large files says so for half a minute.
const PUT: &str = "CREATE OR REPLACE FUNCTION tidegate.outbox_put(p_namespace text, p_rooms text[], p_event text, p_data jsonb,
  p_tags text[], p_options jsonb, p_problem text)
RETURNS int8 LANGUAGE plpgsql AS $body$
DECLARE
  limits tidegate.outbox_limits%ROWTYPE;
  v_rooms text[] := array_remove(coalesce(p_rooms, '{}'), NULL);
  v_tags text[] := array_remove(coalesce(p_tags, '{}'), NULL);
  v_bytes int8;
  made int8;
BEGIN
  SELECT * INTO limits FROM tidegate.outbox_limits;
  IF (limits.room_until IS NULL OR limits.room_until < clock_timestamp())
     AND pg_table_size('tidegate.outbox'::regclass) >= limits.bytes_max THEN
    PERFORM nextval('tidegate.outbox_dropped'::regclass);
    IF limits.is_strict THEN
      RAISE EXCEPTION 'outbox of Tidegate full: % bytes', limits.bytes_max
        USING ERRCODE = 'configuration_limit_exceeded',
              HINT = 'No Tidegate reads it, or it cannot keep up; see store.relay.bytes_max.';
    END IF;
    RAISE WARNING 'outbox of Tidegate full: % bytes, publication dropped', limits.bytes_max;
    RETURN NULL;
  END IF;
  v_bytes := coalesce(octet_length(p_data::text), 0) + coalesce(octet_length(p_options::text), 0)
    + octet_length(array_to_string(v_rooms, ',')) + octet_length(array_to_string(v_tags, ','));
  IF v_bytes > limits.row_bytes_max THEN
    p_problem := format('too_large: %s bytes, at most %s', v_bytes, limits.row_bytes_max);
    p_data := NULL;
    p_options := NULL;
    v_rooms := v_rooms[1:1];
    IF octet_length(array_to_string(v_tags, ',')) > limits.row_bytes_max THEN
      v_tags := ARRAY['*'];
    END IF;
    v_bytes := octet_length(array_to_string(v_tags, ','));
    IF octet_length(v_rooms[1]) > 1024 THEN
      v_rooms := '{}';
    END IF;
  END IF;
  INSERT INTO tidegate.outbox (namespace, rooms, event, data, tags, options, problem, n_bytes)
    VALUES (left(p_namespace, 1025), v_rooms, left(p_event, 1025), p_data, v_tags, p_options, p_problem, v_bytes)
    RETURNING id INTO made;
  -- A transaction that notifies cannot be prepared.
  IF current_setting('tidegate.notify', true) IS DISTINCT FROM 'off' THEN
    PERFORM pg_notify('tidegate_outbox', '');
  END IF;
  RETURN made;
END
$body$";

const PUBLISH: &str =
    "CREATE OR REPLACE FUNCTION tidegate.publish(room text, event text, data jsonb DEFAULT NULL,
  tags text[] DEFAULT '{}', namespace text DEFAULT '/')
RETURNS int8 LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
  IF event IS NULL THEN
    RAISE EXCEPTION 'tidegate.publish: event is null' USING ERRCODE = 'null_value_not_allowed';
  END IF;
  RETURN tidegate.outbox_put(coalesce(namespace, '/'), ARRAY[room], event, data, tags, NULL,
    CASE WHEN coalesce(room, '') = '' THEN 'no_target: the room is null or empty' END);
END
$body$";

const PUBLISH_TO: &str = "CREATE OR REPLACE FUNCTION tidegate.publish_to(event text, data jsonb DEFAULT NULL,
  rooms text[] DEFAULT '{}', users text[] DEFAULT '{}', sessions text[] DEFAULT '{}', everyone boolean DEFAULT false,
  except_rooms text[] DEFAULT '{}', except_users text[] DEFAULT '{}', except_sessions text[] DEFAULT '{}',
  tags text[] DEFAULT '{}', namespace text DEFAULT '/', conflate text DEFAULT NULL, urgent boolean DEFAULT false,
  may_be_lost boolean DEFAULT false)
RETURNS int8 LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  to_all boolean := coalesce(everyone, false);
  no_target boolean := coalesce(cardinality(array_remove(rooms, NULL)), 0) + coalesce(cardinality(array_remove(users, NULL)), 0)
    + coalesce(cardinality(array_remove(sessions, NULL)), 0) = 0;
BEGIN
  IF event IS NULL THEN
    RAISE EXCEPTION 'tidegate.publish_to: event is null' USING ERRCODE = 'null_value_not_allowed';
  END IF;
  RETURN tidegate.outbox_put(coalesce(namespace, '/'), CASE WHEN to_all THEN '{}' ELSE rooms END, event, data, tags,
    jsonb_strip_nulls(jsonb_build_object(
      'users', CASE WHEN NOT to_all THEN array_remove(users, NULL) END,
      'sessions', CASE WHEN NOT to_all THEN array_remove(sessions, NULL) END,
      'everyone', to_all,
      'except_rooms', array_remove(except_rooms, NULL), 'except_users', array_remove(except_users, NULL),
      'except_sessions', array_remove(except_sessions, NULL),
      'conflate', conflate, 'urgent', urgent, 'volatile', may_be_lost)),
    CASE WHEN no_target AND NOT to_all THEN 'no_target: no room, user or session, and not everyone' END);
END
$body$";

const INVALIDATE: &str = "CREATE OR REPLACE FUNCTION tidegate.invalidate(tags text[])
RETURNS int8 LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
  RETURN tidegate.outbox_put('/', '{}', NULL, NULL, tags, NULL, NULL);
END
$body$";

/// A template such as `orders:{store}` as literals and names in turn, a literal first and last.
const TEMPLATE_PARTS: &str = "CREATE OR REPLACE FUNCTION tidegate.template_parts(template text)
RETURNS text[] LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  parts text[] := '{}';
  literal text := '';
  at int4 := 1;
  c text;
  name text;
BEGIN
  WHILE at <= length(template) LOOP
    c := substr(template, at, 1);
    IF c IN ('{', '}') AND substr(template, at + 1, 1) = c THEN
      literal := literal || c;
      at := at + 2;
    ELSIF c = '{' THEN
      name := split_part(substr(template, at + 1), '}', 1);
      IF name = '' OR strpos(name, '{') > 0 OR substr(template, at + 1 + length(name), 1) <> '}' THEN
        RAISE EXCEPTION 'template %: a name in braces is missing or a brace stands alone; write {{ and }} for braces',
          quote_literal(template) USING ERRCODE = 'invalid_parameter_value';
      END IF;
      parts := parts || literal || name;
      literal := '';
      at := at + length(name) + 2;
    ELSIF c = '}' THEN
      RAISE EXCEPTION 'template %: a name in braces is missing or a brace stands alone; write {{ and }} for braces',
        quote_literal(template) USING ERRCODE = 'invalid_parameter_value';
    ELSE
      literal := literal || c;
      at := at + 1;
    END IF;
  END LOOP;
  RETURN parts || literal;
END
$body$";

/// Null if a column that it names is null.
const TEMPLATE_FILL: &str = "CREATE OR REPLACE FUNCTION tidegate.template_fill(parts text[], cells jsonb)
RETURNS text LANGUAGE plpgsql IMMUTABLE AS $body$
DECLARE
  filled text := '';
BEGIN
  FOR at IN 1 .. cardinality(parts) LOOP
    filled := filled || CASE WHEN at % 2 = 1 THEN parts[at] ELSE cells ->> parts[at] END;
  END LOOP;
  RETURN filled;
END
$body$";

/// A row is written as JSON with the rights of the role that migrated, and that runs the casts of types that users made. A
/// function of somebody else would get these rights, so such a cast stops every watch.
const CHECK_CASTS: &str = "CREATE OR REPLACE FUNCTION tidegate.check_casts()
RETURNS void LANGUAGE plpgsql STABLE AS $body$
DECLARE
  found_cast record;
BEGIN
  SELECT c.castsource::regtype AS source, f.oid::regprocedure AS function INTO found_cast
    FROM pg_cast AS c JOIN pg_proc AS f ON f.oid = c.castfunc JOIN pg_roles AS owner ON owner.oid = f.proowner
    WHERE c.casttarget IN ('json'::regtype, 'jsonb'::regtype) AND c.castsource >= 16384 AND NOT owner.rolsuper
    AND owner.oid <> (SELECT proowner FROM pg_proc WHERE oid = 'tidegate.watch_row()'::regprocedure) LIMIT 1;
  IF FOUND THEN
    RAISE EXCEPTION 'tidegate.watch: the cast of % to JSON runs %, which would get the rights of the role that migrated',
      found_cast.source, found_cast.function USING ERRCODE = 'insufficient_privilege',
      HINT = 'Drop the cast, or give its function to that role or to a superuser.';
  END IF;
END
$body$";

/// Arguments: parts of the room, event, columns or nothing, namespace, then the parts of each tag. A row that moves tells
/// both rooms. A tag whose column is null voids every tag that begins alike.
const WATCH_ROW: &str = "CREATE OR REPLACE FUNCTION tidegate.watch_row()
RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $body$
DECLARE
  room_parts text[] := TG_ARGV[0]::text[];
  parts text[];
  seen jsonb[];
  cells jsonb;
  filled text;
  rooms text[] := '{}';
  tags text[] := '{}';
  shown jsonb;
BEGIN
  PERFORM tidegate.check_casts();
  IF TG_OP = 'INSERT' THEN
    seen := ARRAY[to_jsonb(NEW)];
  ELSIF TG_OP = 'UPDATE' THEN
    seen := ARRAY[to_jsonb(NEW), to_jsonb(OLD)];
    IF seen[1] = seen[2] THEN
      RETURN NULL;
    END IF;
  ELSIF TG_OP = 'DELETE' THEN
    seen := ARRAY[to_jsonb(OLD)];
  ELSE
    FOR at IN 4 .. TG_NARGS - 1 LOOP
      parts := TG_ARGV[at]::text[];
      tags := tags || (parts[1] || '*');
    END LOOP;
    PERFORM tidegate.outbox_put(TG_ARGV[3], '{}', NULL, NULL, tags, NULL, NULL);
    RETURN NULL;
  END IF;
  FOREACH cells IN ARRAY seen LOOP
    filled := nullif(tidegate.template_fill(room_parts, cells), '');
    IF filled IS NOT NULL AND filled <> ALL (rooms) THEN
      rooms := rooms || filled;
    END IF;
    FOR at IN 4 .. TG_NARGS - 1 LOOP
      parts := TG_ARGV[at]::text[];
      filled := coalesce(tidegate.template_fill(parts, cells), parts[1] || '*');
      IF filled <> ALL (tags) THEN
        tags := tags || filled;
      END IF;
    END LOOP;
  END LOOP;
  IF rooms = '{}' THEN
    IF tags <> '{}' THEN
      PERFORM tidegate.outbox_put(TG_ARGV[3], '{}', NULL, NULL, tags, NULL, NULL);
    END IF;
    RETURN NULL;
  END IF;
  shown := seen[1];
  IF TG_ARGV[2] <> '' THEN
    SELECT coalesce(jsonb_object_agg(cell.key, cell.value), '{}') INTO shown FROM jsonb_each(seen[1]) AS cell
      WHERE cell.key = ANY (TG_ARGV[2]::text[]);
  END IF;
  IF TG_OP <> 'INSERT' THEN
    shown := shown || jsonb_build_object('_op', lower(TG_OP));
  END IF;
  PERFORM tidegate.outbox_put(TG_ARGV[3], rooms, TG_ARGV[1], shown, tags, NULL, NULL);
  RETURN NULL;
END
$body$";

/// Runs with the rights of its caller, who must be allowed to put triggers on the table.
const WATCH: &str = "CREATE OR REPLACE FUNCTION tidegate.watch(watched regclass, room text, event text,
  tags text[] DEFAULT '{}', columns text[] DEFAULT NULL, namespace text DEFAULT '/')
RETURNS text LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  templates text[] := ARRAY[room] || coalesce(tags, '{}');
  template text;
  parts text[];
  written text[] := '{}';
  wanted text[] := coalesce(columns, '{}');
  missing text;
  made text := 'tidegate_watch_' || left(md5(event), 12);
  arguments text;
BEGIN
  IF coalesce(room, '') = '' OR coalesce(event, '') = '' THEN
    RAISE EXCEPTION 'tidegate.watch: room and event are needed' USING ERRCODE = 'null_value_not_allowed';
  END IF;
  PERFORM tidegate.check_casts();
  FOREACH template IN ARRAY templates LOOP
    parts := tidegate.template_parts(template);
    FOR at IN 1 .. cardinality(parts) / 2 LOOP
      wanted := wanted || parts[at * 2];
    END LOOP;
    written := written || parts::text;
  END LOOP;
  SELECT name INTO missing FROM unnest(wanted) AS name WHERE NOT EXISTS (SELECT FROM pg_attribute
    WHERE attrelid = watched AND attname = name AND attnum > 0 AND NOT attisdropped) LIMIT 1;
  IF missing IS NOT NULL THEN
    RAISE EXCEPTION 'tidegate.watch: % has no column %', watched, quote_ident(missing) USING ERRCODE = 'undefined_column';
  END IF;
  SELECT string_agg(quote_literal(argument), ', ' ORDER BY place) INTO arguments
    FROM unnest(ARRAY[written[1], event, coalesce(columns::text, ''), coalesce(namespace, '/')] || written[2:])
    WITH ORDINALITY AS given (argument, place);
  EXECUTE format('CREATE OR REPLACE TRIGGER %I AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW '
    'EXECUTE FUNCTION tidegate.watch_row(%s)', made, watched, arguments);
  EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', made || '_truncate', watched);
  IF cardinality(written) > 1 THEN
    EXECUTE format('CREATE TRIGGER %I AFTER TRUNCATE ON %s FOR EACH STATEMENT '
      'EXECUTE FUNCTION tidegate.watch_row(%s)', made || '_truncate', watched, arguments);
  END IF;
  RETURN made;
END
$body$";

const UNWATCH: &str = "CREATE OR REPLACE FUNCTION tidegate.unwatch(watched regclass, event text DEFAULT NULL)
RETURNS int4 LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $body$
DECLARE
  found_name name;
  n int4 := 0;
BEGIN
  FOR found_name IN SELECT tgname FROM pg_trigger WHERE tgrelid = watched AND NOT tgisinternal AND tgparentid = 0
      AND tgfoid = 'tidegate.watch_row()'::regprocedure
      AND (event IS NULL OR tgname LIKE 'tidegate\\_watch\\_' || left(md5(event), 12) || '%') LOOP
    EXECUTE format('DROP TRIGGER %I ON %s', found_name, watched);
    n := n + (found_name NOT LIKE '%\\_truncate')::int4;
  END LOOP;
  RETURN n;
END
$body$";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_with_our_rights_has_a_search_path_of_its_own() {
        for sql in POSTGRES.iter().filter(|sql| sql.contains("SECURITY DEFINER")) {
            assert!(sql.contains("SET search_path = pg_catalog, pg_temp"), "{sql}");
        }
    }
}
