//! Handlers of the application: how they are kept, and what they are given.

use std::{collections::HashMap, future::Future, pin::Pin, sync::Arc};

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use tidegate_auth::Identity;
use tidegate_vitals::Guard;

use crate::{
    Args, Error,
    admit::{Admitted, Entrant},
    close::CloseReason,
    message::SessionRef,
    shard::{command::Command, conn::Handshake},
    shared::Shared,
    socket::Socket,
};

pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
pub(crate) type Admit = Arc<dyn Fn(Entrant) -> BoxFuture<Result<Admitted, Error>> + Send + Sync>;
type End = Arc<dyn Fn(&Socket, CloseReason) + Send + Sync>;
type Connect = Arc<dyn Fn(Socket, ConnectRequest) -> BoxFuture<Result<(), Error>> + Send + Sync>;
type Disconnect = Arc<dyn Fn(Socket, CloseReason) -> BoxFuture<()> + Send + Sync>;
type Inline = Arc<dyn Fn(&Socket, Event) + Send + Sync>;
type Async = Arc<dyn Fn(Socket, Event) -> BoxFuture<()> + Send + Sync>;
type Middleware = Arc<dyn Fn(ConnectRequest) -> BoxFuture<Result<Identity, Error>> + Send + Sync>;

/// What a namespace does with its sessions and their events.
#[derive(Clone, Default)]
pub(crate) struct Handlers {
    pub(crate) middleware: Option<Middleware>,
    pub(crate) on_admit: Option<Admit>,
    pub(crate) on_connect: Option<Connect>,
    pub(crate) on_disconnect: Option<Disconnect>,
    pub(crate) on_end: Option<End>,
    pub(crate) events: HashMap<String, Handler>,
    /// For events that have no handler of their own.
    pub(crate) any: Option<Handler>,
}

impl Handlers {
    /// Whether somebody wants to see what a client entered with.
    pub(crate) fn wants_request(&self) -> bool {
        self.on_connect.is_some() || self.on_admit.is_some()
    }
}

/// A handler of one event.
#[derive(Clone)]
pub(crate) enum Handler {
    /// Runs on the shard's thread and must not block.
    Inline(Inline),
    /// Runs on the service runtime, one event of a session at a time.
    Async(Async),
}

/// Handlers of one namespace, while a gateway is built.
#[derive(Clone, Default)]
pub struct NamespaceBuilder {
    pub(crate) handlers: Handlers,
}

impl NamespaceBuilder {
    /// Decides who may enter, after the credentials were checked: returns the identity to use, or an error whose
    /// code and message the client gets as `connect_error`.
    #[must_use]
    pub fn middleware<F, Fut>(mut self, middleware: F) -> Self
    where
        F: Fn(ConnectRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Identity, Error>> + Send + 'static,
    {
        self.handlers.middleware = Some(Arc::new(move |request| Box::pin(middleware(request))));
        self
    }

    /// Decides on each fresh session before it begins, when its id is known, and says who it is and what it begins
    /// with. A session that is recovered keeps what it was given, and is not asked about again. A retryable error
    /// closes the connection as `app_unavailable`, so that standard clients come back; any other is the client's
    /// `connect_error`, word for word with [`Error::Refused`].
    #[must_use]
    pub fn on_admit<F, Fut>(mut self, handler: F) -> Self
    where
        F: Fn(Entrant) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Admitted, Error>> + Send + 'static,
    {
        self.handlers.on_admit = Some(Arc::new(move |entrant| Box::pin(handler(entrant))));
        self
    }

    /// Called once for each session that is over for good: it left, or its recovery window has passed, or it was let in
    /// and did not begin. What it sent before is handled first, also where it did not wait for it. It runs on the
    /// shard's thread and must not block.
    #[must_use]
    pub fn on_end<F>(mut self, handler: F) -> Self
    where
        F: Fn(&Socket, CloseReason) + Send + Sync + 'static,
    {
        self.handlers.on_end = Some(Arc::new(handler));
        self
    }

    /// Called for each session that has entered; events of the session wait until it is done. An error
    /// disconnects the session.
    #[must_use]
    pub fn on_connect<F, Fut>(self, handler: F) -> Self
    where
        F: Fn(Socket) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        self.on_connect_with(move |socket, _| handler(socket))
    }

    /// As [`NamespaceBuilder::on_connect`], with what the client sent to enter.
    #[must_use]
    pub fn on_connect_with<F, Fut>(mut self, handler: F) -> Self
    where
        F: Fn(Socket, ConnectRequest) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), Error>> + Send + 'static,
    {
        self.handlers.on_connect = Some(Arc::new(move |socket, request| {
            Box::pin(handler(socket, request))
        }));
        self
    }

    /// Called when a session ends or loses its connection; a recovered session connects again.
    #[must_use]
    pub fn on_disconnect<F, Fut>(mut self, handler: F) -> Self
    where
        F: Fn(Socket, CloseReason) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.handlers.on_disconnect = Some(Arc::new(move |socket, reason| Box::pin(handler(socket, reason))));
        self
    }

    /// Handles an event with a typed payload on the service runtime. One argument becomes `T`; several become a
    /// tuple; none becomes `()`. What it returns is the acknowledgement, if the client wants one; an error, or a
    /// payload that is no `T`, is acknowledged in the error shape.
    #[must_use]
    pub fn on<T, R, F, Fut>(self, event: &str, handler: F) -> Self
    where
        T: DeserializeOwned + Send + 'static,
        R: Serialize,
        F: Fn(Socket, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, Error>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        self.on_event(event, move |socket, event| {
            let handler = handler.clone();
            async move {
                let answer = match event.payload::<T>() {
                    Ok(payload) => handler(socket, payload).await,
                    Err(error) => Err(error),
                };
                event.answer(answer);
            }
        })
    }

    /// Handles an event with its raw arguments, on the service runtime.
    #[must_use]
    pub fn on_event<F, Fut>(mut self, event: &str, handler: F) -> Self
    where
        F: Fn(Socket, Event) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let handler = Handler::Async(Arc::new(move |socket, event| Box::pin(handler(socket, event))));
        self.handlers.events.insert(event.to_owned(), handler);
        self
    }

    /// Handles an event at once on the shard's thread. It must not block: every client of the shard waits.
    #[must_use]
    pub fn on_inline<F>(mut self, event: &str, handler: F) -> Self
    where
        F: Fn(&Socket, Event) + Send + Sync + 'static,
    {
        self.handlers
            .events
            .insert(event.to_owned(), Handler::Inline(Arc::new(handler)));
        self
    }

    /// Handles every event that has no handler of its own and is not built in, unless the roles of the session list
    /// events and this one is not among them: it is then answered with `forbidden`.
    #[must_use]
    pub fn on_any<F, Fut>(mut self, handler: F) -> Self
    where
        F: Fn(Socket, Event) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        self.handlers.any = Some(Handler::Async(Arc::new(move |socket, event| {
            Box::pin(handler(socket, event))
        })));
        self
    }
}

/// A client that asks to enter a namespace.
#[derive(Clone)]
pub struct ConnectRequest {
    pub(crate) namespace: Arc<str>,
    pub(crate) auth: String,
    pub(crate) identity: Arc<Identity>,
    pub(crate) handshake: Arc<Handshake>,
}

impl ConnectRequest {
    /// The namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The `auth` object of the client as JSON; `{}` where it sent none.
    #[must_use]
    pub fn auth_json(&self) -> &str {
        &self.auth
    }

    /// The `auth` object as a type of your own.
    ///
    /// # Errors
    /// When it has another shape.
    pub fn auth<T: DeserializeOwned>(&self) -> Result<T, Error> {
        Ok(serde_json::from_str(&self.auth)?)
    }

    /// Who the credentials say it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// A header of the opening request.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.handshake.header(name)
    }

    /// All headers of the opening request whose values are text, in their order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let headers = self.handshake.headers.iter();
        headers.filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
    }

    /// The query string of the opening request.
    #[must_use]
    pub fn query(&self) -> &str {
        &self.handshake.query
    }

    /// The client's address; behind trusted proxies the one they name.
    #[must_use]
    pub fn address(&self) -> std::net::IpAddr {
        self.handshake.address
    }
}

/// An event of a client.
pub struct Event {
    pub(crate) name: String,
    /// The arguments separated by commas, without brackets.
    pub(crate) args: String,
    pub(crate) attachments: Vec<Bytes>,
    pub(crate) ack: Option<AckHandle>,
    /// Pays for an event that waits for its handler or is inside one.
    pub(crate) guard: Option<Guard>,
}

/// The way back for one acknowledgement.
pub(crate) struct AckHandle {
    pub(crate) shared: Arc<Shared>,
    pub(crate) session: SessionRef,
    pub(crate) namespace: u16,
    pub(crate) id: u64,
}

impl Event {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The arguments as a JSON array; binary ones are placeholders for [`Event::attachments`].
    #[must_use]
    pub fn args_json(&self) -> String {
        format!("[{}]", self.args)
    }

    /// The binary arguments.
    #[must_use]
    pub fn attachments(&self) -> &[Bytes] {
        &self.attachments
    }

    /// The arguments, binary ones included, ready to be sent on.
    #[must_use]
    pub fn args(&self) -> Args {
        Args {
            json: self.args.clone(),
            attachments: self.attachments.clone(),
        }
    }

    /// The arguments as a type of your own; see [`NamespaceBuilder::on`].
    ///
    /// # Errors
    /// When they have another shape.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T, Error> {
        let array = self.args_json();
        let values: Vec<&serde_json::value::RawValue> = serde_json::from_str(&array)?;
        match &values[..] {
            [] => Ok(serde_json::from_str("null")?),
            [one] => Ok(serde_json::from_str(one.get())?),
            _ => Ok(serde_json::from_str(&array)?),
        }
    }

    /// Whether the client waits for an acknowledgement.
    #[must_use]
    pub fn wants_ack(&self) -> bool {
        self.ack.is_some()
    }

    /// Acknowledges with these arguments. A client that does not wait for it, or has left, gets nothing.
    pub fn ack(&self, args: &Args) {
        if let Some(ack) = &self.ack {
            ack.send(args);
        }
    }

    /// Acknowledges with a value, or with the error in the shape of the house.
    pub fn answer<R: Serialize>(&self, answer: Result<R, Error>) {
        let Some(ack) = &self.ack else { return };
        match answer.and_then(|value| Args::one(&value)) {
            Ok(args) => ack.send(&args),
            Err(error) => ack.send(&Args {
                json: error.to_json(),
                attachments: Vec::new(),
            }),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.name.len() + self.args.len() + self.attachments.iter().map(Bytes::len).sum::<usize>() + 64
    }
}

impl AckHandle {
    fn send(&self, args: &Args) {
        let name = &self.shared.namespaces[usize::from(self.namespace)].name;
        let mut text = String::with_capacity(args.json.len() + name.len() + 24);
        let array = format!("[{}]", args.json);
        tidegate_wire::socketio::put_ack(&mut text, name, self.id, args.attachments.len(), &array);
        let reply = Command::Reply {
            session: self.session,
            text,
            attachments: args.attachments.clone(),
        };
        // One reply for one event that was admitted, so it is bounded by those.
        self.shared.inboxes[usize::from(self.session.shard)].push_always(reply);
    }
}
