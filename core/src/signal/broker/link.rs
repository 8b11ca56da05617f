//! A connection to a broker: what was read, asked and not yet answered on it.

use core::time::Duration;
use std::net::IpAddr;

use bytes::Bytes;

use super::ANSWER_WITHIN;
use crate::cx::Cx;
use crate::io::SockId;
use crate::time::Instant;
use crate::wire::mqtt::{self, MqttSplitter};

/// Credit given to the stream at a time.
const CREDIT: u32 = 16 * 1024;

#[derive(Debug)]
pub(super) struct Link {
    pub(super) sock: SockId,
    /// Local address.
    pub(super) local: IpAddr,
    /// The broker's.
    pub(super) remote: IpAddr,
    pub(super) splitter: MqttSplitter,
    /// Bytes read since credit was last given.
    read: u32,
    /// Time at which a byte last went either way.
    pub(super) used: Instant,
    pub(super) last_ping: Instant,
    pub(super) next_ping: Instant,
    /// Silence before the ping that is to be answered.
    pub(super) silent: Duration,
    /// Time until which an answer is due, if one is.
    pub(super) answer_by: Option<Instant>,
    /// Messages that were sent since the broker last sent anything.
    pub(super) unheard: usize,
    /// Something to be kept was sent, and no ping has been answered since.
    pub(super) kept: bool,
}

impl Link {
    /// Begins on a stream that is connected.
    pub(super) fn new(cx: &mut Cx, sock: SockId, local: IpAddr, remote: IpAddr) -> Self {
        cx.read(sock, CREDIT);
        Link {
            sock,
            local,
            remote,
            splitter: MqttSplitter::new(),
            read: 0,
            used: cx.now,
            last_ping: cx.now,
            next_ping: cx.now,
            silent: Duration::ZERO,
            answer_by: None,
            unheard: 0,
            kept: false,
        }
    }

    pub(super) fn send(&mut self, cx: &mut Cx, packet: Bytes) {
        cx.send(self.sock, packet);
        self.used = cx.now;
    }

    /// Sends what the broker has to answer within [`ANSWER_WITHIN`].
    pub(super) fn ask(&mut self, cx: &mut Cx, packet: Bytes) {
        self.send(cx, packet);
        self.answer_by = Some(cx.now + ANSWER_WITHIN);
    }

    pub(super) fn ping(&mut self, cx: &mut Cx) {
        self.silent = cx.now.since(self.used);
        self.ask(cx, mqtt::pingreq());
        self.last_ping = cx.now;
    }

    /// The broker has sent so many bytes.
    pub(super) fn heard(&mut self, cx: &mut Cx, bytes: usize) {
        (self.unheard, self.used) = (0, cx.now);
        self.read += bytes as u32;
        if self.read >= CREDIT / 2 {
            cx.read(self.sock, self.read);
            self.read = 0;
        }
    }
}
