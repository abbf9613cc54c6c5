//! Carries an answer of the application out on a session.

use tidegate_gateway::{Admitted, ConnectRequest, Error, Event, Socket, Target};

use super::answer::{Answer, Emit, Parting, Whom};

/// What a client that is let in begins with, or the application's refusal.
pub(super) fn admit(request: &ConnectRequest, mut answer: Answer) -> Result<Admitted, Error> {
    if let Some(Parting { message, data }) = answer.disconnect.take() {
        let message = message.unwrap_or_else(|| "refused".to_owned());
        return Err(Error::Refused { message, data });
    }
    let mut admitted = Admitted::new();
    if let Some(user) = answer.user.take() {
        admitted = admitted.identity(user.identity(request.identity()));
    }
    if let Some(Some(data)) = answer.data.take() {
        admitted = admitted.data(data);
    }
    Ok(admitted.then(move |socket| {
        if let Err(error) = to_session(socket, answer, None) {
            // It would be without its rooms and not know it.
            tracing::warn!(session = %socket.id(), %error, "session ended: a connect could not be carried out");
            socket.disconnect();
        }
    }))
}

/// In this order: who it is, what is kept, rooms, messages, the acknowledgement, the end. So whoever has the
/// acknowledgement is in its rooms.
pub(super) fn to_session(socket: &Socket, answer: Answer, event: Option<&Event>) -> Result<(), Error> {
    if let Some(user) = answer.user {
        socket.identify(user.identity(socket.identity()));
    }
    if let Some(data) = answer.data {
        socket.set_data(data)?;
    }
    change_rooms(&answer.join, |rooms| socket.join_all(rooms))?;
    change_rooms(&answer.leave, |rooms| socket.leave_all(rooms))?;
    for message in answer.emit {
        emit(socket, message)?;
    }
    if let (Some(event), Some(args)) = (event, &answer.ack) {
        event.ack(args);
    }
    if answer.disconnect.is_some() {
        socket.disconnect();
    }
    Ok(())
}

fn change_rooms(rooms: &[String], change: impl Fn(&[&str]) -> Result<(), Error>) -> Result<(), Error> {
    if rooms.is_empty() {
        return Ok(());
    }
    let rooms: Vec<&str> = rooms.iter().map(String::as_str).collect();
    match change(&rooms) {
        // It left meanwhile, and is in no room any more.
        Err(Error::Gone) => Ok(()),
        result => result,
    }
}

fn emit(socket: &Socket, message: Emit) -> Result<(), Error> {
    let mut publication = message.publication;
    match message.whom {
        Whom::Itself => publication.to.push(Target::Session(socket.id().to_owned())),
        Whom::Targets => {}
        Whom::Nobody => return Ok(()),
    }
    if !message.has_namespace {
        socket.namespace().clone_into(&mut publication.namespace);
    }
    socket.publish(publication).map(drop)
}
