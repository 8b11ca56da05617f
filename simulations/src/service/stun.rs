//! A STUN server with two addresses and two ports (RFC 8489, RFC 5780), over UDP and TCP. It has the codec of our
//! servers and not the core's, so that a mistake there is not repeated here; unlike them it can lie.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use p2pd_core::stun::StunSplitter;
use p2pd_rendezvous::stun::{Request, Response};

use super::{ConnId, Input, Output, Service, ServiceCx};
use crate::domain;
use crate::engine::{MILLI, Nanos};
use crate::host::Close;

/// Address that a server tells of everybody where it lies.
pub const LIE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 77));

/// Faults of a STUN server, in a million answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StunFaults {
    /// No answer.
    pub silent_ppm: u32,
    /// A wrong port.
    pub wrong_port_ppm: u32,
    /// A wrong address.
    pub wrong_address_ppm: u32,
    /// The answer to another question.
    pub stale_ppm: u32,
    /// Every answer is later by up to this.
    pub late: Nanos,
}

/// A STUN server.
#[derive(Debug)]
pub struct StunServer {
    addresses: [IpAddr; 2],
    faults: StunFaults,
    streams: BTreeMap<ConnId, (SocketAddr, SocketAddr, StunSplitter)>,
    answers: u64,
}

pub(super) const PORTS: [u16; 2] = [3478, 3479];

impl StunServer {
    /// The server at these two addresses, on ports 3478 and 3479.
    pub fn new(addresses: [IpAddr; 2], faults: StunFaults) -> StunServer {
        StunServer { addresses, faults, streams: BTreeMap::new(), answers: 0 }
    }

    fn other(&self, local: SocketAddr, ip: bool, port: bool) -> SocketAddr {
        let pick = |here: bool, change: bool| usize::from(here != change);
        let (ip, port) = (pick(local.ip() == self.addresses[1], ip), pick(local.port() == PORTS[1], port));
        SocketAddr::new(self.addresses[ip], PORTS[port])
    }

    /// Returns the answer, and the address that it is to come from; `None` for a message that is no Binding request.
    fn answer(
        &mut self,
        cx: &ServiceCx,
        local: SocketAddr,
        from: SocketAddr,
        request: &[u8],
    ) -> Option<(Nanos, SocketAddr, Vec<u8>)> {
        let request = Request::read(request)?;
        let (ip, port) = request.change()?;
        self.answers += 1;
        let n = self.answers;
        let fault = |kind: u64, ppm| cx.rng.chance(domain::SERVICE, kind, n, ppm);
        if fault(1, self.faults.silent_ppm) {
            return None;
        }
        let mut mapped = from;
        if fault(2, self.faults.wrong_port_ppm) {
            mapped.set_port(from.port() ^ 0x0155 | 1);
        }
        if fault(3, self.faults.wrong_address_ppm) {
            mapped.set_ip(LIE);
        }
        let mut transaction = request.transaction();
        if fault(4, self.faults.stale_ppm) {
            transaction[0] ^= 0xff;
        }
        let origin = self.other(local, ip, port);
        let other = self.other(local, true, true);
        let message = Response::success(transaction, mapped, Some(origin), Some(other)).finish();
        let late = match self.faults.late {
            0 => 0,
            most => cx.rng.below(domain::SERVICE, 5, n, most / MILLI + 1) * MILLI,
        };
        Some((late, origin, message))
    }
}

impl Service for StunServer {
    fn udp_ports(&self) -> &[u16] {
        &PORTS
    }

    fn tcp_ports(&self) -> &[u16] {
        &PORTS
    }

    fn heal(&mut self) {
        self.faults = StunFaults::default();
    }

    fn handle(&mut self, cx: &mut ServiceCx, input: Input<'_>) {
        match input {
            Input::Datagram { local, from, data } => {
                if let Some((late, origin, answer)) = self.answer(cx, local, from, data) {
                    cx.put(late, Output::Datagram { local: origin, to: from, data: answer.into() });
                }
            }
            Input::Opened { conn, local, remote } => {
                self.streams.insert(conn, (local, remote, StunSplitter::new()));
            }
            Input::Stream { conn, data } => {
                let Some((local, remote, mut held)) = self.streams.remove(&conn) else { return };
                let mut whole = held.push(data);
                while whole.is_ok() {
                    match held.next_message() {
                        Ok(Some(request)) => {
                            if let Some((late, _, answer)) = self.answer(cx, local, remote, &request) {
                                cx.put(late, Output::Stream { conn, data: answer.into() });
                            }
                        }
                        Ok(None) => break,
                        Err(why) => whole = Err(why),
                    }
                }
                match whole {
                    Ok(()) => drop(self.streams.insert(conn, (local, remote, held))),
                    Err(_) => cx.put(0, Output::Close { conn, how: Close::Reset }),
                }
            }
            Input::Closed { conn } => {
                self.streams.remove(&conn);
            }
            Input::Timeout => {}
        }
    }
}
