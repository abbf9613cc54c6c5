//! WebSocket (RFC 6455) without a socket: handshake key, frame encoding, one incremental reader.

mod close;
mod error;
mod frame;
mod handshake;
mod message;
mod reader;

pub use close::put_close;
pub use error::WsError;
pub use frame::{OpCode, put_frame, put_header, put_masked_frame};
pub use handshake::accept_key;
pub use reader::{Reader, ReaderConfig, Role, Step, WsEvent};
