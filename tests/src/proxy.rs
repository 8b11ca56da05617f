//! A small proxy of our own, on blocking sockets: HTTP CONNECT and SOCKS5 on one port, as many proxies do.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use data_encoding::BASE64;

/// A running proxy; it ends with the process.
#[derive(Debug)]
pub struct Proxy {
    at: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
}

/// What it is told at its start.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// User name and password that it asks for.
    pub login: Option<(String, String)>,
    /// Names that it knows, and nobody else.
    pub names: BTreeMap<String, String>,
}

impl Proxy {
    /// Serves at this address, by threads that stay in the caller's network namespace.
    ///
    /// # Errors
    /// The address cannot be had.
    pub fn start(at: SocketAddr, setup: Setup) -> io::Result<Self> {
        let listener = TcpListener::bind(at)?;
        let proxy = Proxy { at: listener.local_addr()?, asked: Arc::default() };
        let (asked, setup) = (proxy.asked.clone(), Arc::new(setup));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (asked, setup) = (asked.clone(), setup.clone());
                // What fails here fails the client, which says so.
                thread::spawn(move || serve(stream, &setup, &asked));
            }
        });
        Ok(proxy)
    }

    /// Where it listens.
    pub fn at(&self) -> SocketAddr {
        self.at
    }

    /// The servers that it was asked for, by those who may.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn serve(mut client: TcpStream, setup: &Setup, asked: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut first = [0];
    client.read_exact(&mut first)?;
    let place = match first[0] {
        5 => socks(&mut client, setup)?,
        _ => http(&mut client, setup)?,
    };
    let Some((host, port)) = place else { return Ok(()) };
    asked.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{host}:{port}"));
    let ip = setup.names.get(&host).unwrap_or(&host);
    let server = match (TcpStream::connect((ip.as_str(), port)), first[0]) {
        (Ok(server), 5) => {
            client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
            server
        }
        (Ok(server), _) => {
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
            server
        }
        (Err(_), 5) => return client.write_all(&[5, 4, 0, 1, 0, 0, 0, 0, 0, 0]),
        (Err(_), _) => return client.write_all(b"HTTP/1.1 502 Bad gateway\r\n\r\n"),
    };
    let (from, to) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || copy(from, to));
    copy(server, client);
    Ok(())
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    // However a direction ends, the other end hears of it.
    let _ = io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

/// Reads CONNECT, whose first byte is read already. `None`: it was refused.
fn http(client: &mut TcpStream, setup: &Setup) -> io::Result<Option<(String, u16)>> {
    let (mut head, mut byte) = (vec![b'C'], [0]);
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let login = setup.login.as_ref().map(|(user, password)| {
        format!("Proxy-Authorization: Basic {}", BASE64.encode(format!("{user}:{password}").as_bytes()))
    });
    if login.is_some_and(|login| !head.lines().any(|line| line == login)) {
        client.write_all(b"HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm=\"test\"\r\n\r\n")?;
        return Ok(None);
    }
    let place = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next()?.rsplit_once(':'));
    let place =
        place.and_then(|(host, port)| Some((host.trim_matches(['[', ']']).into(), port.parse().ok()?)));
    if place.is_none() {
        client.write_all(b"HTTP/1.1 405 CONNECT only\r\n\r\n")?;
    }
    Ok(place)
}

/// The same for SOCKS5.
fn socks(client: &mut TcpStream, setup: &Setup) -> io::Result<Option<(String, u16)>> {
    let methods = counted(client)?;
    let wanted = if setup.login.is_some() { 2 } else { 0 };
    if !methods.contains(&wanted) {
        client.write_all(&[5, 0xff])?;
        return Ok(None);
    }
    client.write_all(&[5, wanted])?;
    if let Some((user, password)) = &setup.login {
        exactly::<1>(client)?;
        let given = (counted(client)?, counted(client)?);
        let right = given == (user.clone().into_bytes(), password.clone().into_bytes());
        client.write_all(&[1, u8::from(!right)])?;
        if !right {
            return Ok(None);
        }
    }
    let host = match exactly::<4>(client)?[3] {
        1 => Ipv4Addr::from(exactly::<4>(client)?).to_string(),
        4 => Ipv6Addr::from(exactly::<16>(client)?).to_string(),
        _ => String::from_utf8_lossy(&counted(client)?).into_owned(),
    };
    Ok(Some((host, u16::from_be_bytes(exactly(client)?))))
}

fn exactly<const N: usize>(client: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    client.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Bytes with their number before them.
fn counted(client: &mut TcpStream) -> io::Result<Vec<u8>> {
    let [len] = exactly(client)?;
    let mut bytes = vec![0; len.into()];
    client.read_exact(&mut bytes)?;
    Ok(bytes)
}
