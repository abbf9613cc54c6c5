//! The table of routes.

use axum::http::Method;
use tidegate_gateway::Code;

use super::{
    application, cache, connections, database, figures, history, ingest, memory, operate, profile, publish,
    query, rooms,
    route::{
        Access, Answer, In, Parameter, Place, Route,
        Type::{Choice, Count, Free, Text},
    },
    sessions::{self, Deed, Whom},
};

const NAMESPACE: Parameter = asked("namespace", Text { bytes_max: 256 }, "Namespace; / unless given.");
const AFTER: Parameter = asked(
    "after",
    Text { bytes_max: 4_096 },
    "Continue after this value of next.",
);
const LIMIT: Parameter = asked(
    "limit",
    Count {
        min: 1,
        max: 1_000,
        default: 100,
    },
    "Most entries of this page.",
);
const ROOM: Parameter = path("room", "Name of the room, percent-encoded.");

const HISTORY: &[Parameter] = &[
    asked(
        "names",
        Text { bytes_max: 4_096 },
        "Names of metrics, separated by commas; all unless given.",
    ),
    asked(
        "seconds",
        Count {
            min: 1,
            max: 3_600,
            default: 60,
        },
        "How far back.",
    ),
];

const fn asked(name: &'static str, kind: super::route::Type, about: &'static str) -> Parameter {
    Parameter {
        name,
        place: In::Query,
        kind,
        about,
    }
}

const fn path(name: &'static str, about: &'static str) -> Parameter {
    Parameter {
        name,
        place: In::Path,
        kind: Text { bytes_max: 4_096 },
        about,
    }
}

const PROFILE: &[Parameter] = &[
    asked(
        "seconds",
        Count {
            min: 1,
            max: profile::SECONDS,
            default: 10,
        },
        "How long.",
    ),
    asked(
        "form",
        Choice(profile::FORMS),
        "Report, or the samples alone as folded lines, for pprof, or as a flame graph; without it Accept decides.",
    ),
    asked(
        "heap",
        Choice(&["false", "true"]),
        "Whether the report names the places that hold memory.",
    ),
];

/// What most routes share: an operator's GET without parameters.
const GET: Route = Route {
    method: Method::GET,
    path: "",
    place: Place::Admin,
    access: Access::Admin,
    title: "",
    about: "",
    parameters: &[],
    body: None,
    lines: false,
    answer: Answer::Json(""),
    failures: &[],
    run: |call| Box::pin(operate::healthz(call)),
};

const OPEN: Route = Route {
    place: Place::Everywhere,
    access: Access::Open,
    ..GET
};

const MAKE_PROFILE: Route = Route {
    path: "/api/performance/profile",
    title: "Profile the running server",
    about: "Answers after so many seconds: bottlenecks by weight, each with its numbers and the change to make; functions, \
            stacks, threads, locks, tasks, statements, memory, cache. One runs at a time. A caller that goes away ends it. \
            GET does the same, for tools that know no other method.",
    parameters: PROFILE,
    answer: Answer::JsonOr("Profile", profile::MEDIA),
    failures: &[Code::Overloaded, Code::Unavailable],
    run: |call| Box::pin(profile::profile(call)),
    ..GET
};

const DELETE: Route = Route {
    method: Method::DELETE,
    answer: Answer::Json("Disconnected"),
    ..GET
};

const SESSION: Parameter = path("id", "Socket.IO id of the session.");
const USER: Parameter = path("user", "Name of the user, percent-encoded.");

/// What an application does to its sessions.
const ACT: Route = Route {
    method: Method::POST,
    place: Place::Main,
    access: Access::Known,
    answer: Answer::Json("Acted"),
    failures: &[
        Code::Forbidden,
        Code::NotFound,
        Code::Overloaded,
        Code::RateLimited,
        Code::Timeout,
        Code::TokenExpired,
    ],
    ..GET
};

const JOIN: Route = Route {
    title: "Put sessions into rooms",
    about: "What is published after the answer reaches them there, and before the answer what was published after this was \
            asked. Each room needs a role whose act patterns match, users and sessions the pattern *. Doing it twice is no \
            harm. sessions says how many it was done to, refused how many of them are in as many rooms as one may be in.",
    body: Some("ChangeRooms"),
    ..ACT
};

const LEAVE: Route = Route {
    title: "Take sessions out of rooms",
    about: "Nothing that is published after the answer reaches them there. Rooms that they are not in are no failure.",
    body: Some("ChangeRooms"),
    ..ACT
};

const DISCONNECT: Route = Route {
    title: "Disconnect sessions",
    about: "Terminally: standard clients stay away until the user acts. With close the whole connection ends.",
    body: Some("DisconnectThem"),
    ..ACT
};

/// Sessions as an application looks them up.
const LOOK: Route = Route {
    place: Place::Main,
    access: Access::Known,
    about: "In order of id, with what the application keeps with each. Needs a role whose act patterns match the room, or \
            the pattern *.",
    answer: Answer::Json("SessionPage"),
    failures: &[
        Code::Forbidden,
        Code::NotFound,
        Code::Overloaded,
        Code::RateLimited,
        Code::TokenExpired,
    ],
    ..GET
};

/// Every route, in the order of the page.
pub(crate) static ROUTES: &[Route] = &[
    Route {
        method: Method::POST,
        path: "/api/publish",
        place: Place::Main,
        access: Access::Known,
        title: "Publish one message or a list",
        about: "Each room needs a role whose publish patterns match; everybody, users and sessions need the pattern \
                *. With an id, a message that is sent again is published once. With ack the answers of the receivers \
                are collected until all have answered, max have, or the time is over; missing says who has not.",
        body: Some("PublishRequest"),
        answer: Answer::Json("PublishAnswer"),
        failures: &[
            Code::Forbidden,
            Code::IdReused,
            Code::Overloaded,
            Code::TokenExpired,
        ],
        run: |call| Box::pin(publish::publish(call)),
        ..GET
    },
    Route {
        path: "/api/sessions/{id}/join",
        parameters: &[SESSION],
        run: |call| Box::pin(sessions::act(call, Whom::Session, Deed::Join)),
        ..JOIN
    },
    Route {
        path: "/api/sessions/{id}/leave",
        parameters: &[SESSION],
        run: |call| Box::pin(sessions::act(call, Whom::Session, Deed::Leave)),
        ..LEAVE
    },
    Route {
        path: "/api/sessions/{id}/disconnect",
        parameters: &[SESSION],
        run: |call| Box::pin(sessions::act(call, Whom::Session, Deed::Disconnect)),
        ..DISCONNECT
    },
    Route {
        path: "/api/users/{user}/join",
        parameters: &[USER],
        run: |call| Box::pin(sessions::act(call, Whom::User, Deed::Join)),
        ..JOIN
    },
    Route {
        path: "/api/users/{user}/leave",
        parameters: &[USER],
        run: |call| Box::pin(sessions::act(call, Whom::User, Deed::Leave)),
        ..LEAVE
    },
    Route {
        path: "/api/users/{user}/disconnect",
        parameters: &[USER],
        run: |call| Box::pin(sessions::act(call, Whom::User, Deed::Disconnect)),
        ..DISCONNECT
    },
    Route {
        path: "/api/rooms/{room}/join",
        parameters: &[ROOM],
        run: |call| Box::pin(sessions::act(call, Whom::Room, Deed::Join)),
        ..JOIN
    },
    Route {
        path: "/api/rooms/{room}/leave",
        parameters: &[ROOM],
        run: |call| Box::pin(sessions::act(call, Whom::Room, Deed::Leave)),
        ..LEAVE
    },
    Route {
        path: "/api/rooms/{room}/disconnect",
        parameters: &[ROOM],
        run: |call| Box::pin(sessions::act(call, Whom::Room, Deed::Disconnect)),
        ..DISCONNECT
    },
    Route {
        path: "/api/sessions/{id}",
        title: "One session, for the application",
        about: "With what the application keeps with it. Needs a role with the act pattern *.",
        parameters: &[SESSION],
        answer: Answer::Json("SessionAnswer"),
        run: |call| Box::pin(sessions::one(call)),
        ..LOOK
    },
    Route {
        path: "/api/users/{user}/sessions",
        title: "Sessions of a user",
        parameters: &[USER, NAMESPACE, AFTER, LIMIT],
        run: |call| Box::pin(sessions::list(call, Whom::User)),
        ..LOOK
    },
    Route {
        path: "/api/rooms/{room}/sessions",
        title: "Sessions in a room",
        parameters: &[ROOM, NAMESPACE, AFTER, LIMIT],
        run: |call| Box::pin(sessions::list(call, Whom::Room)),
        ..LOOK
    },
    Route {
        method: Method::POST,
        path: "/api/ingest/{feed}",
        place: Place::Main,
        access: Access::Known,
        title: "Send rows to a feed",
        about: "A list of rows, one row, or {rows, id, op}. Needs a role whose ingest patterns match. With an id, here or \
                as the header Idempotency-Key, rows that are sent again are stored once. Rows that do not fit are named \
                in rejected and the others are stored; when none fits, the answer is 422. As lines, rows are stored while \
                they come: the answer has a line of progress now and then, and last the outcome.",
        parameters: &[
            path("feed", "Name of the feed."),
            asked(
                "op",
                Choice(&["insert", "upsert", "update", "delete"]),
                "What happens to the rows; insert follows the feed's on_conflict.",
            ),
        ],
        body: Some("IngestRequest"),
        lines: true,
        answer: Answer::Json("IngestAnswer"),
        failures: &[
            Code::BacklogFull,
            Code::Forbidden,
            Code::IdReused,
            Code::InvalidRow,
            Code::NotFound,
            Code::Overloaded,
            Code::RateLimited,
            Code::SpoolFull,
            Code::Timeout,
            Code::TokenExpired,
            Code::Unavailable,
            Code::UnknownFeed,
        ],
        run: |call| Box::pin(ingest::ingest(call)),
    },
    Route {
        path: "/api/query/{name}",
        place: Place::Main,
        access: Access::Known,
        title: "Ask a declared query",
        about: "One page of rows; next is the cursor of the page behind it, null on the last one. Needs a role whose query \
                patterns match. With Accept: application/x-ndjson all rows come as lines, of any number, and last a line \
                with their count.",
        parameters: &[
            path("name", "Name of the query."),
            asked(
                "limit",
                Text { bytes_max: 8 },
                "Most rows of this page; at most the rows_max of the query, which is the default.",
            ),
            AFTER,
            asked(
                "parameters",
                Free { bytes_max: 65_536 },
                "The query's own parameters by name; arrays as JSON or given several times.",
            ),
        ],
        lines: true,
        answer: Answer::Json("RowPage"),
        failures: &[
            Code::CursorInvalid,
            Code::Forbidden,
            Code::NotFound,
            Code::Overloaded,
            Code::Timeout,
            Code::TokenExpired,
            Code::TooLarge,
            Code::Unavailable,
        ],
        run: |call| Box::pin(query::query(call)),
        ..GET
    },
    Route {
        path: "/api/performance/websocket/stats",
        title: "Figures now",
        about: "Connections by state, users, admission, recovery, traffic, batches, slow consumers, latency, memory, \
                shards.",
        answer: Answer::Json("Stats"),
        run: |call| Box::pin(figures::stats(call)),
        ..GET
    },
    Route {
        path: "/api/performance/websocket/summary",
        title: "Averages and peaks",
        about: "Over the kept history, at most one hour.",
        answer: Answer::Json("Summary"),
        run: |call| Box::pin(figures::summary(call)),
        ..GET
    },
    Route {
        path: "/api/performance/websocket/metrics",
        title: "History as time series",
        about: "One point a second. Counters are rates per second; histograms have mean, p50, p95 and p99.",
        parameters: HISTORY,
        answer: Answer::Json("Metrics"),
        run: |call| Box::pin(history::metrics(call)),
        ..GET
    },
    Route {
        path: "/api/performance/database/stats",
        title: "Figures of the database now",
        about: "Pool with its holders, pipeline, replicas, transactions, statements, queries, ingest, spool, publications by SQL.",
        answer: Answer::Json("DatabaseStats"),
        failures: &[Code::NotFound],
        run: |call| Box::pin(database::stats(call)),
        ..GET
    },
    Route {
        path: "/api/performance/database/summary",
        title: "Averages and peaks of the database",
        about: "Over the kept history, at most one hour.",
        answer: Answer::Json("DatabaseSummary"),
        failures: &[Code::NotFound],
        run: |call| Box::pin(database::summary(call)),
        ..GET
    },
    Route {
        path: "/api/performance/database/metrics",
        title: "History of the database as time series",
        about: "One point a second, as for connections.",
        parameters: HISTORY,
        answer: Answer::Json("Metrics"),
        failures: &[Code::NotFound],
        run: |call| Box::pin(database::metrics(call)),
        ..GET
    },
    Route {
        path: "/api/performance/database/statements",
        title: "Statements by what they cost",
        about: "Grouped by their text without literals; greatest first.",
        parameters: &[
            asked("order", Choice(database::ORDERS), "By what they are ordered."),
            LIMIT,
        ],
        answer: Answer::Json("Statements"),
        failures: &[Code::NotFound],
        run: |call| Box::pin(database::statements(call)),
        ..GET
    },
    Route {
        path: "/api/performance/database/slow",
        title: "Slow statements",
        about: "The newest first, with the place in the code that ran them; values of parameters are not kept.",
        parameters: &[LIMIT],
        answer: Answer::Json("SlowStatements"),
        failures: &[Code::NotFound],
        run: |call| Box::pin(database::slow(call)),
        ..GET
    },
    Route {
        path: "/api/performance/database/tables",
        title: "Tables",
        about: "Size, rows, dead rows and use of indexes as the database counts them, and our statements by table.",
        parameters: &[LIMIT],
        answer: Answer::Json("Tables"),
        failures: &[Code::NotFound, Code::Overloaded, Code::Timeout, Code::Unavailable],
        run: |call| Box::pin(database::tables(call)),
        ..GET
    },
    Route {
        path: "/api/performance/cache/stats",
        title: "Figures of the cache now",
        about: "Hits by level, misses, loads, what was not stored and why, evictions, and the hit rate to expect with less \
                or more memory.",
        answer: Answer::Json("CacheStats"),
        failures: &[Code::NotFound],
        run: |call| Box::pin(cache::stats(call)),
        ..GET
    },
    Route {
        path: "/api/performance/cache/summary",
        title: "Averages and peaks of the cache",
        about: "Over the kept history, at most one hour.",
        answer: Answer::Json("CacheSummary"),
        failures: &[Code::NotFound],
        run: |call| Box::pin(cache::summary(call)),
        ..GET
    },
    Route {
        path: "/api/performance/cache/metrics",
        title: "History of the cache as time series",
        about: "One point a second, as for connections.",
        parameters: HISTORY,
        answer: Answer::Json("Metrics"),
        failures: &[Code::NotFound],
        run: |call| Box::pin(cache::metrics(call)),
        ..GET
    },
    Route {
        method: Method::POST,
        path: "/api/cache/invalidate",
        title: "Drop kept answers",
        about: "By tags as feeds fill them, by what the templates of tags begin with, or all. What feeds store is dropped \
                without this; it is for changes that come by another way.",
        body: Some("Invalidate"),
        answer: Answer::Json("Done"),
        failures: &[Code::NotFound],
        run: |call| Box::pin(cache::invalidate(call)),
        ..GET
    },
    Route {
        method: Method::POST,
        ..MAKE_PROFILE
    },
    MAKE_PROFILE,
    Route {
        path: "/api/performance/memory/stats",
        title: "Memory now",
        about: "Level and signal, what each part was asked for, promised and gave back, accounts, allocator, growth, leaks.",
        answer: Answer::Json("MemoryStats"),
        run: |call| Box::pin(memory::stats(call)),
        ..GET
    },
    Route {
        path: "/api/performance/memory/summary",
        title: "Averages and peaks of memory",
        about: "Over the kept history, at most one hour.",
        answer: Answer::Json("MemorySummary"),
        run: |call| Box::pin(memory::summary(call)),
        ..GET
    },
    Route {
        path: "/api/performance/memory/metrics",
        title: "History of memory as time series",
        about: "One point a second, as for connections.",
        parameters: HISTORY,
        answer: Answer::Json("Metrics"),
        run: |call| Box::pin(memory::metrics(call)),
        ..GET
    },
    Route {
        path: "/api/performance/memory/snapshots",
        title: "Snapshots of memory",
        about: "The last 256: at the start, every five minutes, at each change of level, and those taken by hand.",
        answer: Answer::Json("Snapshots"),
        run: |call| Box::pin(memory::snapshots(call)),
        ..GET
    },
    Route {
        method: Method::POST,
        path: "/api/performance/memory/snapshots",
        title: "Take a snapshot of memory",
        body: Some("TakeSnapshot"),
        answer: Answer::Json("SnapshotTaken"),
        run: |call| Box::pin(memory::take(call)),
        ..GET
    },
    Route {
        path: "/api/performance/application/stats",
        title: "Figures of the application now",
        about: "Requests to the application behind the server by kind and outcome, their times, the breaker, and \
                disconnects that it was not told yet.",
        answer: Answer::Json("ApplicationStats"),
        failures: &[Code::NotFound],
        run: |call| Box::pin(application::stats(call)),
        ..GET
    },
    Route {
        path: "/api/connections",
        title: "List sessions",
        about: "One row for each Socket.IO session, in order of id.",
        parameters: &[AFTER, LIMIT],
        answer: Answer::Json("ConnectionPage"),
        run: |call| Box::pin(connections::list(call)),
        ..GET
    },
    Route {
        path: "/api/connections/{id}",
        title: "One session",
        parameters: &[SESSION],
        answer: Answer::Json("ConnectionAnswer"),
        failures: &[Code::NotFound],
        run: |call| Box::pin(connections::one(call)),
        ..GET
    },
    Route {
        path: "/api/connections/{id}",
        title: "Disconnect a session",
        about: "Terminally: standard clients stay away until the user acts.",
        parameters: &[SESSION],
        failures: &[Code::NotFound],
        run: |call| Box::pin(connections::disconnect(call)),
        ..DELETE
    },
    Route {
        path: "/api/users/{user}/connections",
        title: "Disconnect a user",
        about: "All sessions of the user, terminally.",
        parameters: &[USER],
        run: |call| Box::pin(connections::disconnect_user(call)),
        ..DELETE
    },
    Route {
        path: "/api/rooms/{room}/connections",
        title: "Disconnect a room",
        about: "All sessions in the room, terminally.",
        parameters: &[ROOM, NAMESPACE],
        run: |call| Box::pin(connections::disconnect_room(call)),
        ..DELETE
    },
    Route {
        path: "/api/users",
        title: "List users",
        about: "Users with sessions, by name, with their number.",
        parameters: &[AFTER, LIMIT],
        answer: Answer::Json("UserPage"),
        run: |call| Box::pin(connections::users(call)),
        ..GET
    },
    Route {
        path: "/api/rooms",
        title: "List rooms",
        parameters: &[NAMESPACE, AFTER, LIMIT],
        answer: Answer::Json("RoomPage"),
        run: |call| Box::pin(rooms::list(call)),
        ..GET
    },
    Route {
        path: "/api/rooms/{room}/presence",
        title: "Who is in a room",
        about: "For rooms whose options turn presence on.",
        parameters: &[ROOM, NAMESPACE, LIMIT],
        answer: Answer::Json("Presence"),
        failures: &[Code::NotFound],
        run: |call| Box::pin(rooms::presence(call)),
        ..GET
    },
    Route {
        path: "/api/rooms/{room}/history",
        title: "Messages of a room",
        about: "For rooms whose options keep a history; newest last.",
        parameters: &[ROOM, NAMESPACE, LIMIT],
        answer: Answer::Json("History"),
        failures: &[Code::NotFound],
        run: |call| Box::pin(rooms::history(call)),
        ..GET
    },
    Route {
        path: "/metrics",
        title: "Figures for Prometheus",
        answer: Answer::Text(tidegate_ops::prometheus::CONTENT_TYPE),
        run: |call| Box::pin(operate::metrics(call)),
        ..GET
    },
    Route {
        path: "/healthz",
        title: "The process answers",
        answer: Answer::Json("Healthy"),
        run: |call| Box::pin(operate::healthz(call)),
        ..OPEN
    },
    Route {
        path: "/readyz",
        title: "It takes new connections",
        about: "503 while it drains. A database that is away is told and changes nothing.",
        answer: Answer::Json("Ready"),
        failures: &[Code::Unavailable],
        run: |call| Box::pin(operate::readyz(call)),
        ..OPEN
    },
    Route {
        path: "/api/openapi.json",
        title: "This description, for programs",
        answer: Answer::Json("OpenApi"),
        run: |call| Box::pin(operate::openapi(call)),
        ..OPEN
    },
    Route {
        path: "/api/docs",
        title: "This description, for people",
        answer: Answer::Text("text/html; charset=utf-8"),
        run: |call| Box::pin(operate::docs(call)),
        ..OPEN
    },
];
