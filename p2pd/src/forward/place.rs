//! Places of services and of local doors, as they are written on the command line.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;

use super::wire::ServiceName;
#[cfg(unix)]
use crate::socket_file::SocketFile;

/// Service that is exposed: its name and its place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Service {
    pub(crate) name: ServiceName,
    pub(crate) place: Place,
}

/// Place of a service, or of a door.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// Host and port over TCP.
    Tcp(String, u16),
    /// The same over UDP.
    Udp(String, u16),
    /// Path of a Unix socket.
    Unix(PathBuf),
}

impl FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, place) = text.split_once('=').ok_or("not NAME=PLACE, such as ssh=127.0.0.1:22")?;
        let place: Place = place.parse()?;
        match &place {
            Place::Tcp(_, 0) | Place::Udp(_, 0) => Err("a service has a port".into()),
            Place::Tcp(host, _) | Place::Udp(host, _) if host == ANY => Err("a service has a host".into()),
            _ => Ok(Service { name: name.parse()?, place }),
        }
    }
}

/// Look-ups of names at a time.
static LOOK_UPS: Semaphore = Semaphore::const_new(32);

/// Host of a door that all addresses of this machine lead to.
const ANY: &str = "*";

impl FromStr for Place {
    type Err = String;

    /// `22`, `127.0.0.1:22`, `[::1]:22`, `localhost:22`, `:22` for all addresses; `udp:` before it; `unix:PATH`. A port
    /// alone is loopback's.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.is_empty() {
                true => Err("unix: needs a path".into()),
                false => Ok(Place::Unix(path.into())),
            };
        }
        let (udp, rest) = match text.strip_prefix("udp:") {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix("tcp:").unwrap_or(text)),
        };
        let (host, port) = if let Ok(at) = rest.parse::<SocketAddr>() {
            (at.ip().to_string(), at.port())
        } else {
            let (host, port) = match rest.rsplit_once(':') {
                None => ("127.0.0.1", rest),
                Some(("", port)) => (ANY, port),
                Some((host, port)) => (host, port),
            };
            let name = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
            if host != ANY && !host.bytes().all(name) {
                return Err(format!("{text}: not a place: [udp:][HOST:]PORT or unix:PATH"));
            }
            (host.to_owned(), port.parse().map_err(|_| format!("{text}: no port"))?)
        };
        Ok(if udp { Place::Udp(host, port) } else { Place::Tcp(host, port) })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (prefix, host, port) = match self {
            Place::Unix(path) => return write!(f, "unix:{}", path.display()),
            Place::Tcp(host, port) => ("", host, port),
            Place::Udp(host, port) => ("udp:", host, port),
        };
        match host.parse::<IpAddr>() {
            Ok(ip) => write!(f, "{prefix}{}", SocketAddr::new(ip, *port)),
            Err(_) if host == ANY => write!(f, "{prefix}:{port}"),
            Err(_) => write!(f, "{prefix}{host}:{port}"),
        }
    }
}

/// Connected byte stream of this machine.
#[derive(Debug)]
pub(super) enum Local {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(tokio::net::UnixStream),
}

/// Listening socket of this machine.
#[derive(Debug)]
pub(super) enum Door {
    Tcp(TcpListener),
    Udp(UdpSocket),
    #[cfg(unix)]
    Unix(tokio::net::UnixListener, SocketFile),
}

impl Place {
    /// Connects to a place of streams.
    ///
    /// # Errors
    /// The system's; `Unsupported` for Unix sockets where there are none, and for UDP.
    pub(super) async fn connect(&self) -> io::Result<Local> {
        match self {
            Place::Tcp(host, port) => {
                let stream = TcpStream::connect(&*look_up(host, *port).await?).await?;
                p2pd_sys::accepted(&stream);
                Ok(Local::Tcp(stream))
            }
            #[cfg(unix)]
            Place::Unix(path) => Ok(Local::Unix(tokio::net::UnixStream::connect(path).await?)),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Opens a socket for datagrams to the place, from a port of its own.
    ///
    /// # Errors
    /// The system's.
    pub(super) async fn datagrams(&self) -> io::Result<UdpSocket> {
        let Place::Udp(host, port) = self else { return Err(io::ErrorKind::Unsupported.into()) };
        let mut failed = io::Error::from(io::ErrorKind::NotFound);
        for to in look_up(host, *port).await? {
            let any: IpAddr =
                if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            let socket = UdpSocket::bind((any, 0)).await?;
            match socket.connect(to).await {
                Ok(()) => return Ok(socket),
                Err(why) => failed = why,
            }
        }
        Err(failed)
    }

    /// Listens at the place. A socket file is for its owner alone.
    ///
    /// # Errors
    /// The system's.
    pub(super) async fn listen(&self) -> io::Result<Door> {
        match self {
            Place::Tcp(host, port) if host == ANY => {
                let socket = everywhere(*port, Type::STREAM)?;
                socket.listen(1024)?;
                Ok(Door::Tcp(TcpListener::from_std(socket.into())?))
            }
            Place::Tcp(host, port) => Ok(Door::Tcp(TcpListener::bind((host.as_str(), *port)).await?)),
            Place::Udp(host, port) if host == ANY => {
                Ok(Door::Udp(UdpSocket::from_std(everywhere(*port, Type::DGRAM)?.into())?))
            }
            Place::Udp(host, port) => Ok(Door::Udp(UdpSocket::bind((host.as_str(), *port)).await?)),
            #[cfg(unix)]
            Place::Unix(path) => crate::socket_file::bind(path).map(|(door, file)| Door::Unix(door, file)),
            #[cfg(not(unix))]
            Place::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Returns true if the place is no other machine's to reach.
    pub(super) fn is_private(&self) -> bool {
        match self {
            Place::Unix(_) => true,
            Place::Tcp(host, _) | Place::Udp(host, _) => {
                host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
        }
    }

    /// Returns true if the place is for datagrams.
    pub(crate) fn is_datagrams(&self) -> bool {
        matches!(self, Place::Udp(..))
    }
}

impl Door {
    /// Returns the place that the door has got, for people.
    pub(super) fn at(&self, wanted: &Place) -> String {
        let (prefix, at) = match self {
            Door::Tcp(door) => ("", door.local_addr()),
            Door::Udp(door) => ("udp:", door.local_addr()),
            #[cfg(unix)]
            Door::Unix(..) => return wanted.to_string(),
        };
        at.map_or_else(|_| wanted.to_string(), |at| format!("{prefix}{at}"))
    }
}

/// Looks a name up for a peer. The system's call cannot be ended: a look-up that nobody waits for any more has its place until then.
pub(super) async fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let place = LOOK_UPS.acquire().await.map_err(io::Error::other)?;
    let host = host.to_owned();
    let found = tokio::task::spawn_blocking(move || {
        let _place = place;
        (host.as_str(), port).to_socket_addrs().map(Vec::from_iter)
    });
    found.await.map_err(io::Error::other)?
}

/// A socket bound to all addresses of this machine, of both families where it has both.
fn everywhere(port: u16, kind: Type) -> io::Result<Socket> {
    let bind = |domain, ip: IpAddr| {
        let socket = Socket::new(domain, kind, None)?;
        if ip.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        #[cfg(unix)]
        if kind == Type::STREAM {
            socket.set_reuse_address(true)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::new(ip, port).into())?;
        Ok(socket)
    };
    let both: io::Result<Socket> = bind(Domain::IPV6, Ipv6Addr::UNSPECIFIED.into());
    both.or_else(|why| match why.kind() {
        io::ErrorKind::AddrInUse => Err(why),
        _ => bind(Domain::IPV4, Ipv4Addr::UNSPECIFIED.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_written_as_people_write_them() {
        for (text, place, shown) in [
            ("2222", Place::Tcp("127.0.0.1".into(), 2222), "127.0.0.1:2222"),
            (":8080", Place::Tcp("*".into(), 8080), ":8080"),
            ("[::1]:8080", Place::Tcp("::1".into(), 8080), "[::1]:8080"),
            ("localhost:80", Place::Tcp("localhost".into(), 80), "localhost:80"),
            ("tcp:10.0.0.1:5432", Place::Tcp("10.0.0.1".into(), 5432), "10.0.0.1:5432"),
            ("udp:53", Place::Udp("127.0.0.1".into(), 53), "udp:127.0.0.1:53"),
            ("udp::5353", Place::Udp("*".into(), 5353), "udp::5353"),
            ("udp:[::1]:53", Place::Udp("::1".into(), 53), "udp:[::1]:53"),
            ("unix:/run/x y.sock", Place::Unix("/run/x y.sock".into()), "unix:/run/x y.sock"),
        ] {
            assert_eq!(text.parse::<Place>(), Ok(place.clone()), "{text}");
            assert_eq!(place.to_string(), shown);
        }
        for bad in ["", "x", "unix:", "80:", "a b:80", "::1:80", "[::1]", "host:70000", "udp:", "*a:80"] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
        let service: Service = "ssh=127.0.0.1:22".parse().unwrap();
        assert_eq!(
            (service.name.to_string(), service.place.to_string()),
            ("ssh".into(), "127.0.0.1:22".into())
        );
        for bad in ["ssh", "=22", "ssh=", "s s=22", "ssh=:22", "ssh=0", "dns=udp:0", "dns=udp::53"] {
            assert!(bad.parse::<Service>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_place_of_this_machine_alone_is_told_from_others() {
        for (text, private) in [
            ("80", true),
            ("localhost:80", true),
            ("[::1]:80", true),
            ("unix:x", true),
            (":80", false),
            ("0.0.0.0:80", false),
            ("192.0.2.1:80", false),
        ] {
            assert_eq!(text.parse::<Place>().unwrap().is_private(), private, "{text}");
        }
    }
}
