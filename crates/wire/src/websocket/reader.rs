//! Incremental reader of one connection's frames: bytes in, whole messages out.

use std::borrow::Cow;
use std::mem;

use crate::deflate::Inflater;
use crate::websocket::WsError;
use crate::websocket::close::parse_close;
use crate::websocket::frame::{Header, OpCode, Place, apply_mask, parse_header};
use crate::websocket::message::{Message, single};

/// Which end of the connection the reader serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Reads what clients send: every frame must be masked.
    Server,
    /// Reads what a server sends: no frame may be masked.
    Client,
}

/// What a reader is told with every step. It is the same for many connections, so they share one.
#[derive(Debug, Clone, Copy)]
pub struct ReaderConfig {
    /// The largest message, in bytes, as received and after inflation. A compressed message may exceed
    /// it on the wire by a sixteenth and 64 bytes: what deflate adds to data that does not shrink.
    pub message_bytes_max: usize,
    /// Whether permessage-deflate was negotiated: RSV1 on the first frame of a message is legal.
    pub deflate: bool,
    /// Whose frames are read.
    pub role: Role,
}

/// The state of one connection's incoming direction: one pointer, null while nothing is incomplete.
#[derive(Default)]
pub struct Reader {
    partial: Option<Box<Partial>>,
}

/// What one [`Reader::step`] did.
#[derive(Debug)]
pub struct Step<'b> {
    /// Bytes taken from the front of the buffer; all of them if there is no event.
    pub consumed: usize,
    /// The next event, if these bytes completed one.
    pub event: Option<WsEvent<'b>>,
}

/// A whole message or control frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WsEvent<'b> {
    /// A text message, valid UTF-8.
    Text(Cow<'b, str>),
    /// A binary message.
    Binary(Cow<'b, [u8]>),
    /// A ping to be answered with the same payload, at most 125 bytes.
    Ping(Cow<'b, [u8]>),
    /// A pong, at most 125 bytes.
    Pong(Cow<'b, [u8]>),
    /// The peer closes. Whatever follows in the buffer must not be read (RFC 6455, 5.5.1).
    Close {
        /// The code, if the frame had one; only codes that may travel.
        code: Option<u16>,
        /// The reason, at most 123 bytes.
        reason: Cow<'b, str>,
    },
}

/// What is kept between two reads. It exists only while something is incomplete.
#[derive(Default)]
struct Partial {
    /// The first bytes of a header.
    head: [u8; HEADER_BYTES_MAX],
    head_len: usize,
    /// A frame whose header is known and whose payload is incomplete.
    frame: Option<OpenFrame>,
    /// The payload so far if `frame` is a control frame, at most 125 bytes.
    control: Vec<u8>,
    /// The data message that `frame` or the next data frame belongs to.
    message: Option<Message>,
}

#[derive(Clone, Copy)]
struct OpenFrame {
    header: Header,
    received: usize,
}

const HEADER_BYTES_MAX: usize = 14;

// === impl Reader ===

impl Reader {
    /// A reader at the start of a connection.
    #[must_use]
    pub const fn new() -> Self {
        Self { partial: None }
    }

    /// Decodes from the front of `buf`, unmasking in place, up to and including the next event.
    ///
    /// Without an event everything was consumed; what is incomplete is kept inside, so `buf` may be
    /// reused. Call it until `buf` is used up:
    ///
    /// ```
    /// # use tidegate_wire::{deflate::Inflater, websocket::*};
    /// # fn read(reader: &mut Reader, buf: &mut [u8], config: &ReaderConfig, inflater: &mut Inflater)
    /// # -> Result<(), WsError> {
    /// let mut at = 0;
    /// while at < buf.len() {
    ///     let step = reader.step(&mut buf[at..], config, inflater)?;
    ///     at += step.consumed;
    ///     let Some(event) = step.event else { break };
    ///     println!("{event:?}");
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// Any [`WsError`]. The reader must not be used after one.
    pub fn step<'b>(
        &mut self,
        buf: &'b mut [u8],
        config: &ReaderConfig,
        inflater: &mut Inflater,
    ) -> Result<Step<'b>, WsError> {
        let total = buf.len();
        let mut rest = buf;
        while !rest.is_empty() {
            let Some((frame, header_used)) = self.next_frame(rest, config)? else {
                break;
            };
            let (_, body) = mem::take(&mut rest).split_at_mut(header_used);
            let (chunk, after) = body.split_at_mut(frame.missing().min(body.len()));
            rest = after;
            apply_mask(chunk, frame.mask_here());
            let event = if frame.is_single(chunk.len()) {
                self.release();
                Some(whole(&frame.header, chunk, config, inflater)?)
            } else {
                self.gather(frame, chunk, config, inflater)?
            };
            if event.is_some() {
                return Ok(Step {
                    consumed: total - rest.len(),
                    event,
                });
            }
        }
        Ok(Step {
            consumed: total,
            event: None,
        })
    }

    /// Bytes of memory held for an incomplete frame or message; 0 between messages.
    #[inline]
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.partial.as_deref().map_or(0, |partial| {
            let message = partial.message.as_ref().map_or(0, Message::capacity);
            size_of::<Partial>() + partial.control.capacity() + message
        })
    }

    /// The frame that the next bytes belong to, and how many of them were its header.
    #[inline]
    fn next_frame(
        &mut self,
        bytes: &[u8],
        config: &ReaderConfig,
    ) -> Result<Option<(OpenFrame, usize)>, WsError> {
        if let Some(frame) = self
            .partial
            .as_deref_mut()
            .and_then(|partial| partial.frame.take())
        {
            return Ok(Some((frame, 0)));
        }
        let message = self
            .partial
            .as_deref()
            .and_then(|partial| partial.message.as_ref());
        let place = Place {
            role: config.role,
            deflate: config.deflate,
            message_open: message.is_some(),
        };
        let head_len = self.partial.as_deref().map_or(0, |partial| partial.head_len);
        let parsed = if head_len == 0 {
            parse_header(bytes, place)?
        } else {
            self.join_head(bytes, place)?
        };
        let Some((header, used)) = parsed else {
            self.keep_head(bytes);
            return Ok(None);
        };
        self.check_size(&header, config)?;
        Ok(Some((OpenFrame { header, received: 0 }, used)))
    }

    /// Parses a header whose first bytes came with an earlier read; says how many of `bytes` it took.
    fn join_head(&mut self, bytes: &[u8], place: Place) -> Result<Option<(Header, usize)>, WsError> {
        let partial = self.partial.get_or_insert_default();
        let (mut head, kept) = (partial.head, partial.head_len);
        let joined = bytes.len().min(HEADER_BYTES_MAX - kept);
        head[kept..kept + joined].copy_from_slice(&bytes[..joined]);
        let parsed = parse_header(&head[..kept + joined], place)?;
        Ok(parsed.map(|(header, header_len)| {
            partial.head_len = 0;
            (header, header_len - kept)
        }))
    }

    /// Keeps the bytes of an incomplete header; they fit, else the header would be complete.
    fn keep_head(&mut self, bytes: &[u8]) {
        let partial = self.partial.get_or_insert_default();
        partial.head[partial.head_len..partial.head_len + bytes.len()].copy_from_slice(bytes);
        partial.head_len += bytes.len();
    }

    /// Refuses a message that would grow above the limit, before any of its bytes is kept.
    #[inline]
    fn check_size(&self, header: &Header, config: &ReaderConfig) -> Result<(), WsError> {
        if header.op.is_control() {
            return Ok(());
        }
        let message = self
            .partial
            .as_deref()
            .and_then(|partial| partial.message.as_ref());
        let bytes = header
            .payload_len
            .saturating_add(message.map_or(0, |message| message.len() as u64));
        let max = config.message_bytes_max;
        let compressed = header.rsv1 || message.is_some_and(Message::is_compressed);
        let allowed = if compressed {
            max.saturating_add(max / 16).saturating_add(64)
        } else {
            max
        };
        if bytes > allowed as u64 {
            return Err(WsError::TooBig { bytes, max });
        }
        Ok(())
    }

    /// Adds `chunk` to the frame and message it belongs to; an event if that completes one.
    fn gather<'b>(
        &mut self,
        mut frame: OpenFrame,
        chunk: &[u8],
        config: &ReaderConfig,
        inflater: &mut Inflater,
    ) -> Result<Option<WsEvent<'b>>, WsError> {
        let partial = self.partial.get_or_insert_default();
        let header = frame.header;
        if chunk.is_empty() && frame.missing() > 0 {
            // Nothing of it came but the header: it may still turn out to be a single, borrowed event.
            partial.frame = Some(frame);
            return Ok(None);
        }
        if header.op.is_control() {
            partial.control.extend_from_slice(chunk);
        } else {
            partial
                .message
                .get_or_insert_with(|| Message::new(&header))
                .push(chunk)?;
        }
        frame.received += chunk.len();
        if frame.missing() > 0 {
            partial.frame = Some(frame);
            return Ok(None);
        }
        if header.op.is_control() {
            let payload = mem::take(&mut partial.control);
            self.release();
            return control(header.op, Cow::Owned(payload)).map(Some);
        }
        if !header.fin {
            return Ok(None);
        }
        let message = partial.message.take().expect("a data frame was just added to it");
        self.release();
        message.finish(config.message_bytes_max, inflater).map(Some)
    }

    /// Gives the memory back as soon as nothing is incomplete. No frame and no header is open here.
    #[inline]
    fn release(&mut self) {
        if self
            .partial
            .as_ref()
            .is_some_and(|partial| partial.message.is_none())
        {
            self.partial = None;
        }
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("buffered", &self.buffered())
            .finish()
    }
}

// === impl OpenFrame ===

impl OpenFrame {
    /// Payload bytes still to come. The limits keep a payload within `usize`.
    #[inline]
    const fn missing(&self) -> usize {
        self.header.payload_len as usize - self.received
    }

    /// The mask as it applies to the next byte (RFC 6455, 5.3: it repeats every four bytes).
    #[inline]
    const fn mask_here(&self) -> [u8; 4] {
        u32::from_le_bytes(self.header.mask)
            .rotate_right(8 * (self.received as u32 & 3))
            .to_le_bytes()
    }

    /// Whether `chunk_len` bytes are its whole payload and the frame is an event by itself.
    #[inline]
    fn is_single(&self, chunk_len: usize) -> bool {
        let whole = self.received == 0 && chunk_len as u64 == self.header.payload_len;
        whole && self.header.fin && self.header.op != OpCode::Continuation
    }
}

// === events ===

#[inline]
fn whole<'b>(
    header: &Header,
    payload: &'b [u8],
    config: &ReaderConfig,
    inflater: &mut Inflater,
) -> Result<WsEvent<'b>, WsError> {
    if header.op.is_control() {
        control(header.op, Cow::Borrowed(payload))
    } else {
        single(header, payload, config.message_bytes_max, inflater)
    }
}

fn control(op: OpCode, payload: Cow<'_, [u8]>) -> Result<WsEvent<'_>, WsError> {
    match op {
        OpCode::Ping => Ok(WsEvent::Ping(payload)),
        OpCode::Pong => Ok(WsEvent::Pong(payload)),
        _ => parse_close(payload),
    }
}
