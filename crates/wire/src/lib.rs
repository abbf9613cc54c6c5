//! The bytes of a real-time connection: WebSocket frames, Engine.IO 4 and Socket.IO 5.
//!
//! Everything here is a pure function over bytes. A caller brings what it read from a socket and a
//! small state per connection; it gets values out, and encoded bytes to write. Decoding borrows from
//! the input wherever a packet is whole, and every limit is an argument.
//!
//! ```text
//!            websocket::Reader            engineio::decode_text       socketio::decode
//!  bytes ──▶ frames → messages ──▶ text ──▶ packet ──▶ message text ──▶ packet ──▶ event(name, args)
//!                 │                                     ▲
//!                 └ deflate::Inflater       polling body: engineio::decode_payload
//!
//!  socketio::put_event ──▶ message text ──▶ deflate::Deflater ──▶ websocket::put_frame ──▶ bytes
//! ```
//!
//! ```
//! use tidegate_wire::deflate::Inflater;
//! use tidegate_wire::websocket::{put_masked_frame, OpCode, Reader, ReaderConfig, Role, WsEvent};
//! use tidegate_wire::{engineio, socketio};
//!
//! // What a client sends: a Socket.IO event inside an Engine.IO message inside a masked frame.
//! let mut bytes = Vec::new();
//! put_masked_frame(&mut bytes, OpCode::Text, true, false, [1, 2, 3, 4], br#"42["price",600519]"#);
//!
//! let config = ReaderConfig { message_bytes_max: 1_000_000, deflate: false, role: Role::Server };
//! let (mut reader, mut inflater) = (Reader::new(), Inflater::new());
//! let step = reader.step(&mut bytes, &config, &mut inflater)?;
//! let Some(WsEvent::Text(text)) = step.event else { panic!("one whole text message") };
//!
//! let engineio::Packet::Message(message) = engineio::decode_text(&text)? else { panic!("a message") };
//! let packet = socketio::decode(&message, &socketio::Limits::default())?;
//! let event = socketio::event(packet.data)?;
//! assert_eq!((event.name.as_ref(), event.args[0].get()), ("price", "600519"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! What this crate does not know: sockets, time, tasks, sessions, rooms, who may do what, HTTP beyond
//! two header values. Pings are not answered and connections are not closed here; errors say which
//! close code to send and the caller decides.
#![forbid(unsafe_code)]

pub mod deflate;
pub mod engineio;
pub mod socketio;
pub mod websocket;
