//! The gateway over real sockets: each capability, each limit, and what hostile clients come to.

mod admission;
mod client;
mod house;
mod rooms;
