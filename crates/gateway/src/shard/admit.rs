//! Asks the application whether a fresh session may begin, and begins it.

use std::{
    net::IpAddr,
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use tidegate_auth::Identity;
use tidegate_vitals::Class;

use super::{
    Shard,
    command::{Asker, Command},
    session::user_of,
};
use crate::{
    Code, Error,
    admit::{Admitted, Entrant, Given, SessionData, Then},
    close::CloseReason,
    handler::Admit,
    id::Id,
    message::SessionRef,
    shared::Shared,
    socket::Socket,
};

/// The application's decision on a session.
pub(crate) struct Admission {
    asker: Asker,
    id: Id,
    result: Result<Admitted, Error>,
}

/// A question under way. However it ends, the shard hears of it.
struct Asking {
    shared: Arc<Shared>,
    admission: Option<Box<Admission>>,
}

impl Shard {
    /// A fresh session, once the application agrees where there is one to ask.
    pub(super) fn open_session(&mut self, mut asker: Asker) {
        if !self.may_enter(&asker) {
            return;
        }
        let id = Id::random(&mut self.random);
        let namespace = self.shared.namespaces[usize::from(asker.entry.namespace)].clone();
        let Some(admit) = namespace.handlers.on_admit.clone() else {
            return self.begin_session(&asker, id, Admitted::new());
        };
        let (Some(runtime), Some(request)) = (self.shared.runtime.clone(), asker.entry.request.clone())
        else {
            return self.begin_session(&asker, id, Admitted::new());
        };
        if namespace.handlers.on_connect.is_none() {
            asker.entry.request = None;
        }
        self.conns[asker.conn as usize].entering += 1;
        self.shared.n_asked.fetch_add(1, Relaxed);
        let entrant = Entrant {
            id,
            request: *request,
        };
        runtime.spawn(ask(self.shared.clone(), admit, asker, entrant));
    }

    /// The application has decided, or failed to.
    pub(super) fn on_admitted(&mut self, admission: Admission) {
        let Admission { asker, id, result } = admission;
        if self.is_conn(asker.conn, asker.generation) {
            self.conns[asker.conn as usize].entering -= 1;
        }
        let may_enter = self.may_enter(&asker);
        match result {
            Ok(admitted) if may_enter => self.begin_session(&asker, id, admitted),
            Ok(Admitted { identity, data, .. }) => {
                let given = (
                    identity.map(Arc::new),
                    self.keep_data(data).unwrap_or_else(|(_, data)| data),
                );
                self.tell_end_of_none(&asker, id, given, CloseReason::TransportClosed);
                self.close_second(&asker);
            }
            Err(error) if may_enter => self.turn_away(&asker, &error),
            Err(_) => self.close_second(&asker),
        }
        // Last: whoever waits for it finds what it led to.
        self.shared.n_asked.fetch_sub(1, Relaxed);
    }

    /// A second CONNECT for a namespace that was sent before the first was decided.
    fn close_second(&mut self, asker: &Asker) {
        if self.is_conn(asker.conn, asker.generation) && self.conns[asker.conn as usize].is_open() {
            self.close_conn(asker.conn, CloseReason::ParseError);
        }
    }

    /// The application refused, or could not be asked. A standard client stays away after a refusal, so where the
    /// application is only away the connection is closed instead: then it comes back by itself.
    fn turn_away(&mut self, asker: &Asker, error: &Error) {
        self.shared.figures.handshake_errors.inc();
        let alone = self.conns[asker.conn as usize].sessions.is_empty();
        if error.is_retryable() && alone {
            return self.close_conn(asker.conn, CloseReason::AppUnavailable);
        }
        self.refuse_entry(asker.conn, asker.entry.namespace, error);
    }

    /// Begins a session that was let in; if that fails, the application hears of the end.
    fn begin_session(&mut self, asker: &Asker, id: Id, admitted: Admitted) {
        let Admitted { identity, data, then } = admitted;
        let identity = identity.map(Arc::new);
        let (begun, data) = match self.keep_data(data) {
            Ok(data) => {
                let begun = self.try_begin(asker, id, identity.clone(), data.clone());
                (begun, data)
            }
            Err((error, data)) => (Err(error), data),
        };
        match begun {
            Ok(index) => {
                if let Some(then) = then {
                    self.run_then(index, then);
                }
            }
            Err(error) => {
                self.refuse_entry(asker.conn, asker.entry.namespace, &error);
                self.tell_end_of_none(asker, id, (identity, data), CloseReason::Kicked);
            }
        }
    }

    /// What the session keeps; where nobody pays for that, the error and what its end is told with.
    fn keep_data(&self, data: Option<String>) -> Result<Option<SessionData>, (Error, Option<SessionData>)> {
        let Some(text) = data else { return Ok(None) };
        let ledger = &self.shared.ledger;
        match ledger.reserve(Class::Sessions, text.len()) {
            Ok(memory) => Ok(Some(SessionData::paid(text, memory))),
            // Gone as soon as its end is told.
            Err(full) => Err((
                full.into(),
                Some(SessionData::paid(text, ledger.empty(Class::Sessions))),
            )),
        }
    }

    fn try_begin(
        &mut self,
        asker: &Asker,
        id: Id,
        identity: Option<Arc<Identity>>,
        data: Option<SessionData>,
    ) -> Result<u32, Error> {
        let limits = self.shared.live.limits();
        let user = user_of(identity.as_ref().unwrap_or(&asker.entry.identity)).cloned();
        if let Some(user) = &user
            && !self.shared.admission.admit_user(user, limits.sessions_per_user)
        {
            self.shared.figures.refused("user");
            let max = limits.sessions_per_user.unwrap_or_default();
            let what = "sessions of a user";
            return Err(Error::TooMany { what, max });
        }
        if let Err(error) = self.pay_session() {
            self.release_user(user.as_ref());
            return Err(error);
        }
        let pid = asker.entry.recovery.then(|| Id::random(&mut self.random));
        let mut session = self.new_session(asker, asker.conn, id, pid);
        if identity.is_some() || data.is_some() {
            let proved = identity.as_ref().map(|_| asker.entry.identity.clone());
            session.given = Some(Box::new(Given { proved, data }));
        }
        session.identity = identity.unwrap_or(session.identity);
        let index = self.insert_session(session);
        let at = self.reference(index);
        let namespace = self.shared.namespaces[usize::from(asker.entry.namespace)].clone();
        if let Err(error) = namespace.open(id, at, user.as_ref()) {
            self.drop_slot(index);
            self.release_user(user.as_ref());
            return Err(error);
        }
        if let Some(pid) = pid {
            self.shared.put_pid(pid, at);
        }
        Ok(index)
    }

    fn release_user(&self, user: Option<&Arc<str>>) {
        if let Some(user) = user {
            self.shared.admission.release_user(user);
        }
    }

    fn run_then(&mut self, index: u32, then: Then) {
        let socket = self.socket(index);
        if std::panic::catch_unwind(AssertUnwindSafe(|| then(&socket))).is_err() {
            self.on_handler_failed(index);
        }
    }

    /// Tells the application, which let a session in, that it did not come about.
    fn tell_end_of_none(
        &self,
        asker: &Asker,
        id: Id,
        (identity, data): (Option<Arc<Identity>>, Option<SessionData>),
        reason: CloseReason,
    ) {
        let namespace = &self.shared.namespaces[usize::from(asker.entry.namespace)];
        let Some(end) = &namespace.handlers.on_end else {
            return;
        };
        let unknown = IpAddr::from([0, 0, 0, 0]);
        let socket = Socket {
            shared: self.shared.clone(),
            namespace: asker.entry.namespace,
            id,
            identity: identity.unwrap_or_else(|| asker.entry.identity.clone()),
            address: self
                .conns
                .get(asker.conn as usize)
                .map_or(unknown, |conn| conn.address),
            recovered: false,
            data,
        };
        end(&socket, reason);
    }

    /// The application keeps another text with a session.
    pub(super) fn on_set_data(&mut self, at: SessionRef, data: Option<SessionData>) {
        match self.slot(at) {
            Some(index) => {
                let given = &mut self.sessions[index as usize].given;
                given
                    .get_or_insert_with(|| {
                        Box::new(Given {
                            proved: None,
                            data: None,
                        })
                    })
                    .data = data;
            }
            None => self.forward(at, |session| Command::SetData { session, data }),
        }
    }
}

async fn ask(shared: Arc<Shared>, admit: Admit, asker: Asker, entrant: Entrant) {
    let failed = Error::Application {
        code: Code::AppUnavailable,
        message: "the connect handler failed".to_owned(),
    };
    let id = entrant.id;
    let mut asking = Asking {
        shared,
        admission: Some(Box::new(Admission {
            asker,
            id,
            result: Err(failed),
        })),
    };
    let result = admit(entrant).await;
    if let Some(admission) = &mut asking.admission {
        admission.result = result;
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if let Some(admission) = self.admission.take() {
            let shard = usize::from(admission.asker.shard);
            // One decision for one CONNECT that was counted on its connection.
            self.shared.inboxes[shard].push_always(Command::Admitted(admission));
        }
    }
}
