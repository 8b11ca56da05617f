//! Behaviour of the lab's NATs, seen from outside: by a server with two addresses, one of them with two ports.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::lab::{Host, SERVER};

/// Longest time, on a busy machine, of an event that must happen.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Time of waiting for an event that must not happen. No line in these tests is longer than 20 ms.
pub const SILENCE: Duration = Duration::from_millis(400);

/// A UDP socket on a host.
///
/// # Panics
/// If it cannot be bound.
pub fn udp(host: &Host, ip: Ipv4Addr, port: u16) -> UdpSocket {
    let socket = host.enter(|| UdpSocket::bind((ip, port))).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// A TCP socket whose address may be shared with others, as a hole puncher's is.
///
/// # Panics
/// If it cannot be bound.
pub fn shared_tcp(host: &Host, ip: Ipv4Addr, port: u16) -> Socket {
    host.enter(|| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&SocketAddr::from((ip, port)).into())?;
        Ok::<_, io::Error>(socket)
    })
    .unwrap()
}

fn v4(addr: SocketAddr) -> SocketAddrV4 {
    match addr {
        SocketAddr::V4(addr) => addr,
        SocketAddr::V6(addr) => panic!("{addr} in a lab without IPv6"),
    }
}

/// Three places: the primary one, another port of its address, and another address.
#[derive(Debug)]
pub struct Vantage {
    server: Host,
    udp: [UdpSocket; 3],
    tcp: [TcpListener; 3],
}

impl Vantage {
    /// Places at STUN's ports.
    ///
    /// # Panics
    /// If these are taken.
    pub fn new(server: &Host) -> Self {
        Self::at(server, 3478)
    }

    /// Places at this port, and the one after it.
    ///
    /// # Panics
    /// If these are taken.
    pub fn at(server: &Host, port: u16) -> Self {
        let [a, b] = SERVER;
        let places = [(a, port), (a, port + 1), (b, port)];
        Self {
            server: server.clone(),
            udp: places.map(|(ip, port)| udp(server, ip, port)),
            tcp: places.map(|place| server.enter(|| TcpListener::bind(place)).unwrap()),
        }
    }

    /// Returns the addresses of `from` as each place sees them.
    ///
    /// # Panics
    /// If nothing comes.
    pub fn see_udp(&self, from: &UdpSocket) -> [SocketAddrV4; 3] {
        self.udp.each_ref().map(|place| {
            from.send_to(b"who am I", place.local_addr().unwrap()).unwrap();
            v4(place.recv_from(&mut [0; 64]).unwrap().1)
        })
    }

    /// Returns the addresses of connections from one port of `host` as each place sees them, with the open connections.
    ///
    /// # Panics
    /// If one is not opened.
    pub fn see_tcp(&self, host: &Host, port: u16) -> ([SocketAddrV4; 3], Vec<(Socket, TcpStream)>) {
        let mut open = Vec::new();
        let seen = self.tcp.each_ref().map(|place| {
            let socket = shared_tcp(host, host.ip(), port);
            socket.connect_timeout(&place.local_addr().unwrap().into(), PATIENCE).unwrap();
            let (accepted, from) = place.accept().unwrap();
            open.push((socket, accepted));
            v4(from)
        });
        (seen, open)
    }

    /// Returns whether the other port and the other address may answer a port of a host that has spoken to the
    /// primary place only, by UDP.
    ///
    /// # Panics
    /// If that may not answer.
    pub fn answers_udp(&self, host: &Host, port: u16) -> [bool; 2] {
        let socket = udp(host, host.ip(), port);
        let [primary, other_port, other_address] = &self.udp;
        socket.send_to(b"hello", primary.local_addr().unwrap()).unwrap();
        let (_, from) = primary.recv_from(&mut [0; 64]).unwrap();
        // The line keeps the order, so when the last has come the others have come or never will.
        other_address.send_to(b"address", from).unwrap();
        other_port.send_to(b"port", from).unwrap();
        primary.send_to(b"end", from).unwrap();
        let mut may = [false, false];
        loop {
            let mut buffer = [0; 64];
            let length = socket.recv(&mut buffer).unwrap();
            match &buffer[..length] {
                b"port" => may[0] = true,
                b"address" => may[1] = true,
                _ => return may,
            }
        }
    }

    /// Checks whether the other port and the other address may connect to a port of a host that listens there and
    /// has connected to the primary place only.
    ///
    /// # Panics
    /// If it is not as expected.
    pub fn check_tcp(&self, host: &Host, port: u16, expected: [bool; 2], name: &str) {
        let [primary, ..] = &self.tcp;
        let listener = shared_tcp(host, host.ip(), port);
        listener.listen(4).unwrap();
        let socket = shared_tcp(host, host.ip(), port);
        socket.connect_timeout(&primary.local_addr().unwrap().into(), PATIENCE).unwrap();
        let (_open, from) = primary.accept().unwrap();
        for (ip, may) in SERVER.into_iter().zip(expected) {
            let caller = shared_tcp(&self.server, ip, 0);
            let result = caller.connect_timeout(&from.into(), if may { PATIENCE } else { SILENCE });
            match (may, result) {
                (true, Ok(())) => drop(listener.accept().unwrap()),
                (false, Err(e)) if e.kind() == io::ErrorKind::TimedOut => {}
                (_, result) => panic!("{name}: connecting from {ip} to {from}, allowed: {may}: {result:?}"),
            }
        }
    }
}
