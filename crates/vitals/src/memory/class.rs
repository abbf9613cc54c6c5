//! What accounted memory is used for.

macro_rules! classes {
    ($($class:ident $name:literal $help:literal;)*) => {
        /// What accounted memory is used for; the ledger keeps one account per class.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Class { $(#[doc = $help] $class,)* }

        impl Class {
            /// Every class.
            pub const ALL: &[Self] = &[$(Self::$class),*];

            /// Its name in figures and errors.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$class => $name),* }
            }
        }
    };
}

classes! {
    Frames "frames" "Encoded messages, paid once however many outboxes share them.";
    Outboxes "outboxes" "Places in outboxes and private copies.";
    ReadBuffers "read_buffers" "Parts of incomplete frames and packets.";
    RequestBodies "request_bodies" "Bodies of HTTP requests being read.";
    Rings "rings" "Recovery rings and history.";
    Rooms "rooms" "Rooms, memberships, last values, presence.";
    Sessions "sessions" "Connections, sessions and users.";
    Handlers "handlers" "Payloads held by running event handlers.";
    Batches "batches" "Items waiting in batchers.";
    Caches "caches" "Cached values.";
    Spool "spool" "Rows on their way to or from the spool.";
    Compression "compression" "Compressor and decompressor contexts.";
}
