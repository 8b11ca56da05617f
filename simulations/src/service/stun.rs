//! A STUN server with two addresses and two ports (RFC 8489, RFC 5780), over UDP and TCP. Written from the RFCs'
//! layouts and not with the core's codec, so that a mistake there is not repeated here.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{ConnId, Input, Output, Service, ServiceCx};
use crate::engine::{Domain, MILLI, Nanos};

/// Address that a server tells of everybody where it lies.
pub const LIE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 77));

const COOKIE: u32 = 0x2112_a442;
const HEADER: usize = 20;
const CHANGE_REQUEST: u16 = 0x0003;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const RESPONSE_ORIGIN: u16 = 0x802b;
const OTHER_ADDRESS: u16 = 0x802c;
/// Requests over TCP that are longer end the stream.
const MOST: usize = 2048;

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
    streams: BTreeMap<ConnId, (SocketAddr, SocketAddr, Vec<u8>)>,
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
        let header = request.first_chunk::<HEADER>()?;
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        if header[..2] != [0, 1] || header[4..8] != COOKIE.to_be_bytes() || request.len() < HEADER + length {
            return None;
        }
        let (mut ip, mut port, mut rest) = (false, false, &request[HEADER..HEADER + length]);
        while let [t0, t1, l0, l1, more @ ..] = rest {
            let size = usize::from(u16::from_be_bytes([*l0, *l1]));
            if u16::from_be_bytes([*t0, *t1]) == CHANGE_REQUEST {
                let bits = *more.get(3)?;
                (ip, port) = (bits & 4 != 0, bits & 2 != 0);
            }
            rest = more.get(size.next_multiple_of(4)..)?;
        }
        self.answers += 1;
        let n = self.answers;
        let fault = |kind: u64, ppm| cx.rng.chance(Domain::Service, kind, n, ppm);
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
        let mut transaction = [0; 12];
        transaction.copy_from_slice(&header[8..20]);
        if fault(4, self.faults.stale_ppm) {
            transaction[0] ^= 0xff;
        }
        let origin = self.other(local, ip, port);
        let mut body = Vec::with_capacity(64);
        attribute(&mut body, XOR_MAPPED_ADDRESS, mapped, Some(&transaction));
        attribute(&mut body, RESPONSE_ORIGIN, origin, None);
        attribute(&mut body, OTHER_ADDRESS, self.other(local, true, true), None);
        let mut message = vec![1, 1];
        message.extend_from_slice(&(body.len() as u16).to_be_bytes());
        message.extend_from_slice(&COOKIE.to_be_bytes());
        message.extend_from_slice(&transaction);
        message.extend_from_slice(&body);
        let late = match self.faults.late {
            0 => 0,
            most => cx.rng.below(Domain::Service, 5, n, most / MILLI + 1) * MILLI,
        };
        Some((late, origin, message))
    }
}

/// An address attribute (RFC 8489 sections 14.1 and 14.2).
fn attribute(out: &mut Vec<u8>, kind: u16, address: SocketAddr, xor: Option<&[u8; 12]>) {
    let mask: Vec<u8> = match xor {
        Some(transaction) => [&COOKIE.to_be_bytes()[..], transaction].concat(),
        None => vec![0; 16],
    };
    let (family, mut bytes) = match address.ip() {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (2, ip.octets().to_vec()),
    };
    bytes.iter_mut().zip(&mask).for_each(|(b, m)| *b ^= m);
    let port = address.port() ^ u16::from_be_bytes([mask[0], mask[1]]);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&(4 + bytes.len() as u16).to_be_bytes());
    out.extend_from_slice(&[0, family]);
    out.extend_from_slice(&port.to_be_bytes());
    out.extend_from_slice(&bytes);
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
                self.streams.insert(conn, (local, remote, Vec::new()));
            }
            Input::Stream { conn, data } => {
                let Some((local, remote, held)) = self.streams.get_mut(&conn) else { return };
                held.extend_from_slice(data);
                let (local, remote, mut held) = (*local, *remote, core::mem::take(held));
                while let Some(header) = held.first_chunk::<HEADER>() {
                    let whole = HEADER + usize::from(u16::from_be_bytes([header[2], header[3]]));
                    if whole > MOST {
                        cx.put(0, Output::Close { conn, how: p2pd_core::CloseHow::Reset });
                        return;
                    }
                    if held.len() < whole {
                        break;
                    }
                    let request: Vec<u8> = held.drain(..whole).collect();
                    if let Some((late, _, answer)) = self.answer(cx, local, remote, &request) {
                        cx.put(late, Output::Stream { conn, data: answer.into() });
                    }
                }
                if let Some(stream) = self.streams.get_mut(&conn) {
                    stream.2 = held;
                }
            }
            Input::Closed { conn } => {
                self.streams.remove(&conn);
            }
            Input::Timeout => {}
        }
    }
}
