//! The engine on an event loop that p2pd has no driver for: compio, whose own calls are about completion, by io_uring
//! where the kernel has it. docs/src/uses/reactor.md goes through it.
#![cfg(unix)]

use std::future::poll_fn;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use compio::runtime::fd::PollFd;
use p2pd_core::{Config, PipeMode, Plan, QueryId, SecretKey, SockId};
use p2pd_sys::{Engine, Layer, News, Reactor, Ready, SockWaker, random_seed, socket};
use socket2::SockRef;

// ANCHOR: reactor
#[derive(Default)]
struct Compio {
    ready: Ready,
    asked: Vec<(QueryId, Box<str>)>,
}

/// A socket, and who is woken for it.
#[derive(Debug)]
struct Watched<S: AsFd + 'static> {
    fd: PollFd<S>,
    waker: SockWaker,
}

impl Compio {
    fn watch<S: AsFd>(&self, sock: SockId, socket: S) -> io::Result<Watched<S>> {
        Ok(Watched { fd: PollFd::new(socket)?, waker: self.ready.waker(sock) })
    }
}

impl<S: AsFd> Watched<S> {
    /// Tries, and has the socket reported once it is worth another try.
    fn try_read<T>(&self, io: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        self.waker.retry(io, |cx| self.fd.poll_read_ready(cx))
    }

    fn try_write<T>(&self, io: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        self.waker.retry(io, |cx| self.fd.poll_write_ready(cx))
    }
}

impl Reactor for Compio {
    type Stream = Watched<TcpStream>;
    type Listener = Watched<TcpListener>;
    type Udp = Watched<UdpSocket>;

    const EARLY: Duration = Duration::from_micros(1300);

    fn stream(&mut self, sock: SockId, socket: TcpStream) -> io::Result<Self::Stream> {
        self.watch(sock, socket)
    }

    fn listener(&mut self, sock: SockId, socket: TcpListener) -> io::Result<Self::Listener> {
        self.watch(sock, socket)
    }

    fn udp(&mut self, sock: SockId, socket: UdpSocket) -> io::Result<Self::Udp> {
        self.watch(sock, socket)
    }

    /// Dropping a socket is enough.
    fn forget(&mut self, _: SockId) {}

    fn accept(&mut self, listener: &Self::Listener, sock: SockId) -> io::Result<(Self::Stream, SocketAddr)> {
        let (stream, remote) = listener.try_read(|| listener.fd.accept())?;
        stream.set_nonblocking(true)?;
        Ok((self.watch(sock, stream)?, remote))
    }

    fn receive<T>(udp: &Self::Udp, mut by: impl FnMut(SockRef<'_>) -> io::Result<T>) -> io::Result<T> {
        udp.try_read(|| by(SockRef::from(&*udp.fd)))
    }

    fn read(stream: &mut Self::Stream, buffer: &mut [u8]) -> io::Result<usize> {
        stream.try_read(|| (&*stream.fd).read(buffer))
    }

    fn write(stream: &mut Self::Stream, data: &[u8]) -> io::Result<usize> {
        stream.try_write(|| (&*stream.fd).write(data))
    }

    fn outcome(stream: &Self::Stream) -> io::Result<SocketAddr> {
        stream.try_write(|| socket::outcome(&*stream.fd))
    }

    fn socket(stream: &Self::Stream) -> SockRef<'_> {
        SockRef::from(&*stream.fd)
    }

    fn udp_socket(udp: &Self::Udp) -> SockRef<'_> {
        SockRef::from(&*udp.fd)
    }

    /// The loop looks these up, by `spawn_blocking` for example, and calls `Engine::resolved`.
    fn resolve(&mut self, query: QueryId, host: Box<str>) {
        self.asked.push((query, host));
    }

    fn cancel(&mut self, query: QueryId) {
        self.asked.retain(|(asked, _)| *asked != query);
    }
}
// ANCHOR_END: reactor

// ANCHOR: run
/// Turns the loop until there is a pipe.
async fn next_pipe(engine: &mut Engine<Compio>) -> io::Result<Pipe> {
    let ready = engine.reactor().ready.clone();
    loop {
        while let Some(news) = engine.take_news() {
            match news {
                News::Opened(_, stream, start) | News::Incoming(stream, start) => {
                    return Ok(Pipe { fd: stream.fd, layer: Layer::new(*start, false) });
                }
                News::NotOpened(_, why) => return Err(io::Error::other(why)),
                _ => {}
            }
        }
        let left = engine.timeout().unwrap_or(Duration::from_secs(3600));
        // A socket that is ready, or the deadline, whichever comes first.
        if let Ok(sock) = compio::time::timeout(left, poll_fn(|cx| ready.poll_next(cx))).await {
            engine.ready(sock);
        }
        engine.tick();
    }
}
// ANCHOR_END: run

// ANCHOR: pipe
struct Pipe {
    fd: PollFd<TcpStream>,
    layer: Layer,
}

impl Pipe {
    async fn receive_all(&mut self) -> io::Result<Vec<u8>> {
        let (mut all, mut buffer) = (Vec::new(), vec![0; 16 * 1024]);
        loop {
            match self.layer.read(&mut &*self.fd, &mut buffer) {
                Ok(0) => return Ok(all),
                Ok(n) => all.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.fd.read_ready().await?,
                Err(e) => return Err(e),
            }
        }
    }

    async fn send_all(&mut self, mut data: &[u8]) -> io::Result<()> {
        while !data.is_empty() {
            match self.layer.write(&mut &*self.fd, data) {
                Ok(n) => data = &data[n..],
                Err(e) if e.kind() == ErrorKind::WouldBlock => self.fd.write_ready().await?,
                Err(e) => return Err(e),
            }
        }
        while let Err(e) = self.layer.end(&mut &*self.fd) {
            match e.kind() {
                ErrorKind::WouldBlock => self.fd.write_ready().await?,
                _ => return Err(e),
            }
        }
        self.fd.shutdown(Shutdown::Write)
    }
}
// ANCHOR_END: pipe

fn node() -> Engine<Compio> {
    let mut config = Config::new(SecretKey::from_bytes(random_seed().unwrap()));
    config.bind = Some(Ipv4Addr::LOCALHOST.into());
    config.allow_plain = true;
    let interfaces = p2pd_sys::interfaces(config.bind, &config.interfaces).unwrap();
    Engine::new(config, None, &interfaces, Compio::default()).unwrap()
}

#[test]
fn two_nodes_on_compio_send_each_other_bytes() {
    let question: Vec<u8> = (0..1_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    compio::runtime::Runtime::new().unwrap().block_on(async {
        for mode in [PipeMode::Encrypted, PipeMode::Plain] {
            let (mut here, mut there) = (node(), node());
            let address = there.address().known().unwrap().clone();
            here.connect(&address, Plan::default().mode(mode)).unwrap();
            let answering = compio::runtime::spawn(async move {
                let mut pipe = next_pipe(&mut there).await?;
                let heard = pipe.receive_all().await?;
                pipe.send_all(&[&b"heard: "[..], &heard].concat()).await
            });
            let mut pipe = next_pipe(&mut here).await.unwrap();
            pipe.send_all(&question).await.unwrap();
            let answer = pipe.receive_all().await.unwrap();
            answering.await.unwrap().unwrap();
            assert!(answer == [&b"heard: "[..], &question].concat(), "{mode}: {} bytes", answer.len());
        }
    });
}
