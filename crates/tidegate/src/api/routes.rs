//! The table of routes.

use axum::http::Method;
use tidegate_gateway::Code;

use super::{
    connections, figures, history, operate, publish, rooms,
    route::{
        Access, Answer, In, Parameter, Place, Route,
        Type::{Count, Text},
    },
};

const NAMESPACE: Parameter = query("namespace", Text { bytes_max: 256 }, "Namespace; / unless given.");
const AFTER: Parameter = query(
    "after",
    Text { bytes_max: 4_096 },
    "Continue after this value of next.",
);
const LIMIT: Parameter = query(
    "limit",
    Count {
        min: 1,
        max: 1_000,
        default: 100,
    },
    "Most entries of this page.",
);
const ROOM: Parameter = path("room", "Name of the room, percent-encoded.");

const fn query(name: &'static str, kind: super::route::Type, about: &'static str) -> Parameter {
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
    answer: Answer::Json(""),
    failures: &[],
    run: |call| Box::pin(operate::healthz(call)),
};

const OPEN: Route = Route {
    place: Place::Everywhere,
    access: Access::Open,
    ..GET
};

const DELETE: Route = Route {
    method: Method::DELETE,
    answer: Answer::Json("Disconnected"),
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
                *. With an id, a message that is sent again is published once. With ack_timeout_ms the answers of \
                the receivers are collected.",
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
        parameters: &[
            query(
                "names",
                Text { bytes_max: 4_096 },
                "Names of metrics, separated by commas; all unless given.",
            ),
            query(
                "seconds",
                Count {
                    min: 1,
                    max: 3_600,
                    default: 60,
                },
                "How far back.",
            ),
        ],
        answer: Answer::Json("Metrics"),
        run: |call| Box::pin(history::metrics(call)),
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
        parameters: &[path("id", "Socket.IO id of the session.")],
        answer: Answer::Json("ConnectionAnswer"),
        failures: &[Code::NotFound],
        run: |call| Box::pin(connections::one(call)),
        ..GET
    },
    Route {
        path: "/api/connections/{id}",
        title: "Disconnect a session",
        about: "Terminally: standard clients stay away until the user acts.",
        parameters: &[path("id", "Socket.IO id of the session.")],
        failures: &[Code::NotFound],
        run: |call| Box::pin(connections::disconnect(call)),
        ..DELETE
    },
    Route {
        path: "/api/users/{user}/connections",
        title: "Disconnect a user",
        about: "All sessions of the user, terminally.",
        parameters: &[path("user", "Name of the user, percent-encoded.")],
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
        about: "503 while it drains.",
        answer: Answer::Json("Healthy"),
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
