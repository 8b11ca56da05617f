//! `p2pd forward`: doors of this machine that lead to a peer's services.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::copy::both;
use super::datagrams::{self, IDLE};
use super::link::{Link, NotOpen};
use super::place::{Door, Local, Place};
use super::socks;
use super::wire::{ServiceName, Wish};
use crate::commands::not_opened;
use crate::quiet::Quiet;
use crate::say::Say;
use crate::signals::interrupted;

/// Most connections of one door at a time; a further one waits.
const MOST: usize = 1024;
/// Most clients of one door for datagrams; others' datagrams are dropped.
const CLIENTS: usize = 1024;
/// Datagrams of a client that wait for its stream; further ones are dropped.
const QUEUE: usize = 64;

/// Destination of a door.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Leads {
    /// The service of this name.
    To(ServiceName),
    /// The destination that each client asks for by SOCKS5.
    Socks,
}

/// Wish for a door.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Wanted {
    pub(crate) leads: Leads,
    pub(crate) at: Place,
}

impl Wanted {
    /// Returns the wishes of a command line: pairs of service and place.
    ///
    /// # Errors
    /// Says what is wrong with them.
    pub(crate) fn all(pairs: &[String], socks: Option<&Place>) -> Result<Vec<Self>, String> {
        let mut all = Vec::new();
        for pair in pairs.chunks(2) {
            let [service, at] = pair else {
                return Err(format!("the service {} has no place to listen at", pair[0]));
            };
            all.push(Wanted { leads: Leads::To(service.parse()?), at: at.parse()? });
        }
        if let Some(at) = socks {
            if at.is_datagrams() {
                return Err("--socks listens over TCP or at a Unix socket".into());
            }
            all.push(Wanted { leads: Leads::Socks, at: at.clone() });
        }
        if all.is_empty() {
            Err("nothing to forward: give SERVICE and PLACE, or --socks".into())
        } else {
            Ok(all)
        }
    }
}

impl Leads {
    /// Returns the name of where it leads, for people.
    pub(super) fn name(&self) -> String {
        match self {
            Leads::To(service) => service.to_string(),
            Leads::Socks => "SOCKS5".into(),
        }
    }
}

/// Opens the doors, and then the session, and serves until interrupted.
pub(super) async fn run(link: Arc<Link>, wanted: Vec<Wanted>, say: Say) -> ExitCode {
    let mut doors = Vec::new();
    for wanted in wanted {
        match wanted.at.listen().await {
            Ok(door) => doors.push((door, wanted)),
            Err(why) => {
                say.error(&format!("{}: {why}", wanted.at));
                return ExitCode::FAILURE;
            }
        }
    }
    say.waiting("connecting");
    if let Err(why) = link.session().await {
        return why.map_or(ExitCode::FAILURE, |why| not_opened(&why, say));
    }
    let mut serving = JoinSet::new();
    for (door, wanted) in doors {
        let (at, is_private) = (door.at(&wanted.at), wanted.at.is_private());
        let to = wanted.leads.name();
        say.line(
            || json!({"event": "forwards", "service": to, "at": at}),
            || format!("forwards: {at} to {to}"),
        );
        if !is_private {
            say.warning(&format!("other machines reach {at} too"));
        }
        serving.spawn(serve(door, wanted.leads, link.clone(), say));
    }
    interrupted().await;
    // Socket files are removed with their doors.
    serving.shutdown().await;
    link.close(false).await;
    ExitCode::SUCCESS
}

/// Serves a door until it is dropped.
pub(super) async fn serve(door: Door, leads: Leads, link: Arc<Link>, say: Say) {
    let places = Arc::new(Semaphore::new(MOST));
    let of = |local, held| {
        let (link, leads) = (link.clone(), leads.clone());
        tokio::spawn(async move {
            visitor(local, &leads, &link, say).await;
            drop(held);
        });
    };
    match (door, &leads) {
        (Door::Udp(socket), Leads::To(service)) => datagrams_of(Arc::new(socket), service, &link, say).await,
        (Door::Udp(_), Leads::Socks) => {}
        (Door::Tcp(listener), _) => loop {
            let Ok(held) = places.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    p2pd_sys::accepted(&stream);
                    of(Local::Tcp(stream), held);
                }
                // Of a client that left, or for want of descriptors, which others give back.
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        },
        #[cfg(unix)]
        (Door::Unix(listener, _file), _) => loop {
            let Ok(held) = places.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => of(Local::Unix(stream), held),
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        },
    }
}

/// Carries one connection of this machine.
async fn visitor(mut local: Local, leads: &Leads, link: &Link, say: Say) {
    let whole = match (&mut local, leads) {
        (Local::Tcp(socket), Leads::To(service)) => {
            let (from, to) = socket.split();
            to_service(from, to, service, link, say).await
        }
        (Local::Tcp(socket), Leads::Socks) => by_socks(socket, link).await,
        #[cfg(unix)]
        (Local::Unix(socket), Leads::To(service)) => {
            let (from, to) = socket.split();
            to_service(from, to, service, link, say).await
        }
        #[cfg(unix)]
        (Local::Unix(socket), Leads::Socks) => by_socks(socket, link).await,
    };
    if !whole {
        local.reset();
    }
}

/// Returns true if both directions came to their ends.
async fn to_service(
    mut from: impl AsyncRead + Unpin,
    to: impl AsyncWrite + Unpin,
    service: &ServiceName,
    link: &Link,
    say: Say,
) -> bool {
    match link.open(&Wish::Stream(service.clone()), Some(&mut from)).await {
        Ok((mut stream, ended)) => {
            both(from, to, &mut stream, ended, |way, n| link.count(way, n)).await.is_ok()
        }
        Err(why) => {
            if !matches!(why, NotOpen::NoSession | NotOpen::Left) {
                say.error(&format!("{service}: {why}"));
            }
            false
        }
    }
}

/// The same for a client that says where it wants to go.
async fn by_socks(mut client: impl AsyncRead + AsyncWrite + Unpin, link: &Link) -> bool {
    let Ok(to) = socks::destination(&mut client).await else { return true };
    let opened = link.open(&Wish::Connect(to), None::<&mut TcpStream>).await;
    let told = socks::told(&mut client, opened.as_ref().map(drop)).await;
    match (opened, told) {
        (Ok((mut stream, ended)), Ok(())) => {
            let (from, to) = tokio::io::split(client);
            both(from, to, &mut stream, ended, |way, n| link.count(way, n)).await.is_ok()
        }
        // The client has been told why.
        (Err(_), Ok(())) => true,
        (_, Err(_)) => false,
    }
}

/// Carries datagrams: a stream for each client, by its address.
async fn datagrams_of(door: Arc<UdpSocket>, service: &ServiceName, link: &Arc<Link>, say: Say) {
    let mut clients: HashMap<SocketAddr, mpsc::Sender<Bytes>> = HashMap::new();
    let mut buffer = vec![0; datagrams::MOST];
    loop {
        let (n, from) = match door.recv_from(&mut buffer).await {
            Ok(came) => came,
            // A client has left, and its system has said so.
            Err(_) => continue,
        };
        let data = Bytes::copy_from_slice(&buffer[..n]);
        let data = match clients.get(&from).map(|client| client.try_send(data.clone())) {
            Some(Ok(()) | Err(mpsc::error::TrySendError::Full(_))) => continue,
            Some(Err(mpsc::error::TrySendError::Closed(_))) | None => data,
        };
        if clients.len() >= CLIENTS {
            clients.retain(|_, client| !client.is_closed());
            if clients.len() >= CLIENTS {
                continue;
            }
        }
        let (to, queue) = mpsc::channel(QUEUE);
        let _ = to.try_send(data);
        clients.insert(from, to);
        let (door, link, wish) = (door.clone(), link.clone(), Wish::Datagrams(service.clone()));
        tokio::spawn(async move {
            if let Err(why) = client(&door, from, queue, &link, &wish).await
                && !matches!(why, NotOpen::NoSession)
            {
                say.error(&format!("{wish}: {why}"));
            }
        });
    }
}

/// Carries the datagrams of one client until it is silent for two minutes.
async fn client(
    door: &UdpSocket,
    at: SocketAddr,
    mut queue: mpsc::Receiver<Bytes>,
    link: &Link,
    wish: &Wish,
) -> Result<(), NotOpen> {
    let ((mut send, mut recv), _) = link.open(wish, None::<&mut TcpStream>).await?;
    let quiet = Quiet::new();
    let up = async {
        while let Some(data) = queue.recv().await {
            quiet.now();
            datagrams::write(&mut send, &data).await?;
        }
        io::Result::Ok(())
    };
    let down = async {
        while let Some(data) = datagrams::read(&mut recv).await? {
            quiet.now();
            let _ = door.send_to(&data, at).await;
        }
        io::Result::Ok(())
    };
    tokio::select! {
        _ = up => {}
        _ = down => {}
        () = quiet.over(IDLE) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_and_places_come_in_pairs() {
        let all =
            |words: &[&str]| Wanted::all(&words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>(), None);
        let two = all(&["ssh", "2222", "dns", "udp:5353"]).unwrap();
        assert_eq!(
            two[1],
            Wanted { leads: Leads::To("dns".parse().unwrap()), at: Place::Udp("127.0.0.1".into(), 5353) }
        );
        for bad in [&[][..], &["ssh"], &["ssh", "2222", "web"], &["s s", "1"], &["ssh", "x"]] {
            assert!(all(bad).is_err(), "{bad:?}");
        }
        let at = |text: &str| text.parse::<Place>().unwrap();
        assert_eq!(Wanted::all(&[], Some(&at("1080"))).unwrap()[0].leads, Leads::Socks);
        assert!(Wanted::all(&[], Some(&at("udp:1080"))).is_err());
    }
}
