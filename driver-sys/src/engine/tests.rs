//! The engine on the system's own sockets, its "event loop" being to ask each again.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};

use bytes::Bytes;
use p2pd_core::pipe::PipeKeys;
use p2pd_core::pipe::PipeStart;
use p2pd_core::{CloseHow, PipeMode, SecretKey, SockOpts, Strategy, Tls, Wrap};
use socket2::SockRef;

use super::*;
use crate::wrap::tests::{Authority, Secure};

#[derive(Debug)]
struct Asking;

impl Reactor for Asking {
    type Stream = TcpStream;
    type Listener = TcpListener;
    type Udp = UdpSocket;
    const EARLY: Duration = Duration::ZERO;

    fn stream(&mut self, _: SockId, socket: TcpStream) -> io::Result<TcpStream> {
        Ok(socket)
    }
    fn listener(&mut self, _: SockId, socket: TcpListener) -> io::Result<TcpListener> {
        Ok(socket)
    }
    fn udp(&mut self, _: SockId, socket: UdpSocket) -> io::Result<UdpSocket> {
        Ok(socket)
    }
    fn forget(&mut self, _: SockId) {}
    fn accept(&mut self, listener: &TcpListener, _: SockId) -> io::Result<(TcpStream, SocketAddr)> {
        let (stream, remote) = listener.accept()?;
        stream.set_nonblocking(true)?;
        Ok((stream, remote))
    }
    fn receive<T>(socket: &UdpSocket, mut by: impl FnMut(SockRef<'_>) -> io::Result<T>) -> io::Result<T> {
        by(SockRef::from(socket))
    }
    fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        stream.read(buffer)
    }
    fn write(stream: &mut TcpStream, data: &[u8]) -> io::Result<usize> {
        stream.write(data)
    }
    fn outcome(stream: &TcpStream) -> io::Result<SocketAddr> {
        socket::outcome(stream)
    }
    fn socket(stream: &TcpStream) -> SockRef<'_> {
        SockRef::from(stream)
    }
    fn udp_socket(socket: &UdpSocket) -> SockRef<'_> {
        SockRef::from(socket)
    }
    fn resolve(&mut self, _: QueryId, _: Box<str>) {}
    fn cancel(&mut self, _: QueryId) {}
}

const SOCK: SockId = SockId::accepted(77);

/// An engine with one open stream, and that stream's other end.
fn engine() -> (Engine<Asking>, TcpStream) {
    engine_with(None)
}

/// The same, which writes its trace.
fn engine_with(trace: Option<Sink>) -> (Engine<Asking>, TcpStream) {
    let mut config = Config::new(SecretKey::from_bytes([7; 32]));
    config.bind = Some(Ipv4Addr::LOCALHOST.into());
    let interfaces = crate::interfaces(config.bind, &config.interfaces).unwrap();
    let mut engine = Engine::new(config, trace, &interfaces, Asking).unwrap();
    while engine.take_news().is_some() {}
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    near.set_nonblocking(true).unwrap();
    engine.socks.insert(SOCK, Sock::Tcp(Tcp::open(near)));
    (engine, listener.accept().unwrap().0)
}

fn pipe(answers: &[ConnectId]) -> Box<PipeStart> {
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    Box::new(PipeStart {
        answers: answers.into(),
        peer: SecretKey::from_bytes([8; 32]).node_id(),
        named: true,
        strategy: Strategy::Direct,
        local: anywhere,
        remote: anywhere,
        elapsed: Duration::ZERO,
        protocol: None,
        mode: PipeMode::Plain,
        keys: PipeKeys::Plain,
    })
}

/// A call of the engine's, which nobody answers.
fn call(engine: &mut Engine<Asking>) -> ConnectId {
    let peer = SecretKey::from_bytes([9; 32]).node_id();
    let to = format!("None-[0,127.0.0.1,127.0.0.1,9,1,1,0]-0-{peer}").parse().unwrap();
    engine.connect(&to, Plan::default()).unwrap()
}

/// Lets the loop turn until this is so.
fn until(engine: &mut Engine<Asking>, mut is: impl FnMut(&mut Engine<Asking>) -> bool) {
    for _ in 0..1000 {
        if is(engine) {
            return;
        }
        engine.ready(SOCK);
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("never");
}

#[test]
fn a_stream_that_broke_before_it_was_handed_out_is_reported() {
    let (mut engine, far) = engine();
    let id = call(&mut engine);
    socket::reset_on_close(&far).unwrap();
    drop(far);
    // Whoever waits for this pipe must hear of it, or waits for ever.
    engine.act(Output::SendStream { sock: SOCK, data: Bytes::from_static(b"confirm") });
    engine.act(Output::Detach { sock: SOCK, pipe: pipe(&[id]) });
    until(&mut engine, |engine| {
        std::iter::from_fn(|| engine.take_news())
            .any(|news| matches!(news, News::NotOpened(of, ConnectError::Lost(IoFailure::Reset)) if of == id))
    });
    assert!(!engine.socks.contains_key(&SOCK));
}

#[test]
fn not_one_byte_is_read_beyond_the_credit() {
    let (mut engine, mut far) = engine();
    far.write_all(b"0123456789").unwrap();
    let left = |engine: &Engine<Asking>| match &engine.socks[&SOCK] {
        Sock::Tcp(tcp) => tcp.credit,
        _ => unreachable!("it is a stream"),
    };
    engine.act(Output::Read { sock: SOCK, credit: 3 });
    until(&mut engine, |engine| left(engine) == 0);
    for _ in 0..10 {
        engine.ready(SOCK);
    }
    engine.act(Output::Detach { sock: SOCK, pipe: pipe(&[]) });
    engine.settle();
    let handed_out = std::iter::from_fn(|| engine.take_news()).find_map(|news| match news {
        News::Incoming(stream, _) => Some(stream),
        _ => None,
    });
    let mut stream = handed_out.unwrap();
    let mut rest = [0; 20];
    let n = stream.read(&mut rest).unwrap();
    assert_eq!(&rest[..n], b"3456789");
}

#[test]
fn a_graceful_end_sends_everything_and_a_reset_nothing() {
    let (mut engine_one, mut far) = engine();
    let data = Bytes::from(vec![7; 4 << 20]);
    engine_one.act(Output::SendStream { sock: SOCK, data });
    engine_one.act(Output::Close { sock: SOCK, how: CloseHow::Graceful });
    let reader = std::thread::spawn(move || {
        // Bytes that nobody reads must not turn the end into a reset.
        far.write_all(b"unread").unwrap();
        let mut all = Vec::new();
        far.read_to_end(&mut all).map(|_| all.len())
    });
    until(&mut engine_one, |engine| !engine.socks.contains_key(&SOCK));
    assert_eq!(reader.join().unwrap().unwrap(), 4 << 20);
    let (mut engine, mut far) = engine();
    engine.act(Output::Close { sock: SOCK, how: CloseHow::Reset });
    assert_eq!(far.read(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn after_a_close_there_is_silence_also_for_what_failed_at_once() {
    let (mut engine, _far) = engine();
    let unknown = engine.node().stats().unknown_ids;
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let _listener = TcpListener::bind(taken).unwrap();
    let sock = SockId::accepted(78);
    let opts = p2pd_core::SockOpts::default();
    engine.act(Output::Listen { sock, local: taken, backlog: 1, opts });
    engine.act(Output::Close { sock, how: CloseHow::Drop });
    engine.settle();
    assert_eq!(engine.node().stats().unknown_ids, unknown, "nothing was told");
    engine.act(Output::Listen { sock, local: taken, backlog: 1, opts });
    engine.settle();
    assert_eq!(engine.node().stats().unknown_ids, unknown + 1, "the failure was told");
}

/// Has the engine open a stream to a server with TLS, which `far` has the other end of, within this time.
fn dial_tls<T: Send + 'static>(
    far: impl FnOnce(Secure) -> T + Send + 'static,
    within: Duration,
) -> (Engine<Asking>, std::thread::JoinHandle<T>) {
    let (mut engine, _) = engine();
    engine.socks.remove(&SOCK);
    let authority = Authority::new("one");
    let tls = Some(Tls { trust: authority.trust(), name: Some("server.test".into()), ..Tls::PUBLIC });
    let wrap = Some(
        Wrap { host: "127.0.0.1".into(), port: 1, proxy: None, tls, websocket: None, headers: Vec::new() }
            .into(),
    );
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let remote = listener.local_addr().unwrap();
    let far = std::thread::spawn(move || far(authority.serve(listener.accept().unwrap().0)));
    let (local, at) = ((Ipv4Addr::LOCALHOST, 0).into(), engine.clock.now());
    let opts = p2pd_core::SockOpts::default();
    engine.act(Output::Connect { sock: SOCK, local, remote, opts, at, deadline: at + within, wrap });
    engine.tick();
    (engine, far)
}

fn open_tcp(engine: &Engine<Asking>) -> Option<&Tcp<TcpStream>> {
    match engine.socks.get(&SOCK) {
        Some(Sock::Tcp(tcp)) if matches!(tcp.state, State::Open(_)) => Some(tcp),
        _ => None,
    }
}

#[test]
fn what_tls_holds_is_read_by_later_credit_though_the_socket_is_empty() {
    let (done, wait) = std::sync::mpsc::channel();
    let far = move |mut stream: Secure| {
        stream.write_all(b"0123456789").unwrap();
        wait.recv().unwrap();
    };
    let (mut engine, far) = dial_tls(far, Duration::from_secs(20));
    until(&mut engine, |engine| open_tcp(engine).is_some());
    engine.act(Output::Read { sock: SOCK, credit: 3 });
    until(&mut engine, |engine| open_tcp(engine).unwrap().credit == 0);
    // No loop would say that this socket is ready: what is left is inside.
    engine.act(Output::Read { sock: SOCK, credit: 20 });
    engine.settle();
    assert_eq!(open_tcp(&engine).unwrap().credit, 13, "all ten bytes, and no more");
    done.send(()).unwrap();
    far.join().unwrap();
}

#[test]
fn a_graceful_end_of_tls_sends_everything_and_says_that_it_was_all() {
    let far = |mut stream: Secure| {
        let mut all = Vec::new();
        // An end that was not said would be an error.
        stream.read_to_end(&mut all).map(|_| all.len())
    };
    let (mut engine, far) = dial_tls(far, Duration::from_secs(20));
    until(&mut engine, |engine| open_tcp(engine).is_some());
    engine.act(Output::SendStream { sock: SOCK, data: Bytes::from(vec![7; 4 << 20]) });
    engine.act(Output::Close { sock: SOCK, how: CloseHow::Graceful });
    until(&mut engine, |engine| !engine.socks.contains_key(&SOCK));
    assert_eq!(far.join().unwrap().unwrap(), 4 << 20);
}

#[test]
fn a_server_that_never_answers_in_tls_is_given_up_in_time() {
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let far = move |stream: Secure| {
        let _ = wait.recv();
        drop(stream);
    };
    let (mut engine, far) = dial_tls(far, Duration::from_millis(300));
    let began = std::time::Instant::now();
    while engine.socks.contains_key(&SOCK) {
        assert!(began.elapsed() < Duration::from_secs(10), "never");
        assert!(engine.deadline().is_some());
        engine.ready(SOCK);
        engine.tick();
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(began.elapsed() >= Duration::from_millis(250));
    assert!(engine.timers.iter().all(|(_, sock)| *sock != SOCK));
    drop(done);
    far.join().unwrap();
}

#[test]
fn what_tls_could_not_send_goes_when_the_socket_takes_more_though_nothing_new_is_sent() {
    let (tell, told) = std::sync::mpsc::channel();
    let far = move |mut stream: Secure| {
        stream.flush().unwrap();
        let total: usize = told.recv().unwrap();
        stream.read_exact(&mut vec![0; total]).unwrap();
    };
    let (mut engine, far) = dial_tls(far, Duration::from_secs(20));
    until(&mut engine, |engine| open_tcp(engine).is_some());
    let mut total = 0;
    loop {
        engine.act(Output::SendStream { sock: SOCK, data: Bytes::from_static(&[7; 1024]) });
        engine.settle();
        total += 1024;
        let Some(Sock::Tcp(tcp)) = engine.socks.get_mut(&SOCK) else { panic!("it is open") };
        let (State::Open(stream), Some(layers)) = (&mut tcp.state, &mut tcp.layers) else {
            panic!("as before")
        };
        if layers.flush(stream).is_err() {
            assert!(tcp.out.is_empty(), "what is left is inside of TLS");
            break;
        }
    }
    tell.send(total).unwrap();
    until(&mut engine, |_| far.is_finished());
    far.join().unwrap();
}

const DATAGRAMS: SockId = SockId::accepted(78);

/// Binds a UDP socket of the engine's that the core knows nothing of.
fn bind_udp(engine: &mut Engine<Asking>) -> SocketAddr {
    let (sock, local) = (DATAGRAMS, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    bind_udp_for(engine, sock, local, None)
}

fn bind_udp_for(
    engine: &mut Engine<Asking>,
    sock: SockId,
    local: SocketAddr,
    remote: Option<SocketAddr>,
) -> SocketAddr {
    engine.act(Output::BindUdp { sock, local, remote, opts: SockOpts::default() });
    let Some(Step::Bound(_, local)) = engine.steps.iter().find(|s| matches!(s, Step::Bound(DATAGRAMS, _)))
    else {
        panic!("not bound")
    };
    *local
}

#[cfg(target_os = "linux")]
#[test]
fn a_port_that_refuses_datagrams_is_told_unless_something_came_from_there() {
    let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    for (answers, aimed) in [(false, true), (true, true), (false, false)] {
        let (tell, told) = std::sync::mpsc::channel();
        let (mut engine, _) = engine_with(Some(Box::new(move |line| tell.send(line.to_owned()).unwrap())));
        let server = UdpSocket::bind(here).unwrap();
        let at = server.local_addr().unwrap();
        let local = bind_udp_for(&mut engine, DATAGRAMS, here, aimed.then_some(at));
        let send = |engine: &mut Engine<Asking>| {
            engine.act(Output::SendDatagram { sock: DATAGRAMS, to: at, data: Bytes::from_static(b"x") });
            engine.settle();
            // No loop says that the socket is ready.
            for _ in 0..10 {
                std::thread::sleep(Duration::from_millis(2));
                engine.tick();
            }
        };
        if answers {
            server.send_to(b"y", local).unwrap();
            engine.ready(DATAGRAMS);
            send(&mut engine);
        }
        drop(server);
        send(&mut engine);
        let failed = told.try_iter().any(|line| line.contains(" failed ") && line.contains("refused"));
        assert_eq!(failed, aimed && !answers, "answers: {answers}, aimed: {aimed}");
    }
}

#[test]
fn datagrams_that_were_sent_in_one_call_come_one_by_one_and_in_order() {
    let (tell, told) = std::sync::mpsc::channel();
    let (mut from, _) = engine();
    let (mut to, _) = engine_with(Some(Box::new(move |line| tell.send(line.to_owned()).unwrap())));
    let (there, other) = (bind_udp(&mut to), UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    bind_udp(&mut from);
    other.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut sent = Vec::new();
    let mut send = |to: SocketAddr, length: usize| {
        let data: Vec<u8> = (0..length).map(|n| (n + sent.len()) as u8).collect();
        from.act(Output::SendDatagram { sock: DATAGRAMS, to, data: data.clone().into() });
        sent.push(data);
    };
    // More than one call takes, one that is shorter and ends a row, a longer one, another address in between.
    (0..70).for_each(|_| send(there, 1_200));
    send(there, 300);
    send(there, 300);
    send(there, 301);
    send(other.local_addr().unwrap(), 301);
    send(there, 301);
    from.settle();
    let between = sent.remove(73);
    let mut buffer = [0; 2_000];
    assert_eq!(other.recv(&mut buffer).map(|n| buffer[..n].to_vec()).unwrap(), between);
    let mut came = Vec::new();
    for _ in 0..1_000 {
        to.ready(DATAGRAMS);
        to.tick();
        came.extend(told.try_iter().filter(|line| line.contains(" datagram ")));
        if came.len() >= sent.len() {
            break;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    for (line, data) in came.iter().zip(&sent) {
        let hex: String = data.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(line.trim_end().ends_with(&hex), "{line}\n{hex}");
    }
    assert_eq!(came.len(), sent.len());
}

#[test]
fn a_listener_takes_as_many_streams_as_it_may_and_the_others_wait() {
    let (mut engine, _far) = engine();
    let sock = SockId::accepted(79);
    let opts = SockOpts::default();
    let listener = socket::listener((Ipv4Addr::LOCALHOST, 0).into(), 8, &opts).unwrap();
    let at = listener.local_addr().unwrap();
    engine.socks.insert(sock, Sock::Listener { listener, nodelay: false, credit: 0 });
    let mut callers: Vec<TcpStream> = (0..5).map(|_| TcpStream::connect(at).unwrap()).collect();
    let taken = |engine: &mut Engine<Asking>| {
        for _ in 0..5 {
            engine.ready(sock);
        }
        engine.accepted
    };
    assert_eq!(taken(&mut engine), 0, "it starts with nothing");
    engine.act(Output::Accept { sock, credit: 2 });
    assert_eq!(taken(&mut engine), 2);
    engine.act(Output::Accept { sock, credit: 1 });
    engine.act(Output::Accept { sock, credit: 8 });
    assert_eq!(taken(&mut engine), 5, "who waited was not lost");
    callers.extend((0..9).map(|_| TcpStream::connect(at).unwrap()));
    assert_eq!(taken(&mut engine), 11, "six were left");
}

#[test]
fn a_pipe_is_released_once_when_its_user_has_dropped_it_or_never_got_it() {
    let text = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let lines = text.clone();
    let (mut engine, _far) = engine_with(Some(Box::new(move |line| lines.lock().unwrap().push_str(line))));
    let told = || text.lock().unwrap().matches(&format!("released {}\n", SOCK.number())).count();
    engine.act(Output::Detach { sock: SOCK, pipe: pipe(&[]) });
    let mut held = None;
    until(&mut engine, |engine| {
        held = std::iter::from_fn(|| engine.take_news()).find_map(|news| match news {
            News::Incoming(stream, start) => Some((stream, start)),
            _ => None,
        });
        held.is_some()
    });
    engine.ready(SOCK);
    assert_eq!(told(), 0);
    let (_stream, start) = held.unwrap();
    let layer = crate::Layer::new(*start, false);
    engine.ready(SOCK);
    assert_eq!(told(), 0, "the layer is the pipe's");
    drop(layer);
    engine.ready(SOCK);
    engine.ready(SOCK);
    assert_eq!(told(), 1);
    // One that is not open any more.
    engine.act(Output::Detach { sock: SOCK, pipe: pipe(&[]) });
    engine.ready(SOCK);
    assert_eq!(told(), 2);
}

#[cfg(feature = "tracing")]
mod spans {
    use core::fmt::{Debug, Write};

    use p2pd_core::{FailReason, Outcome, Report, Stage, StrategyReport};
    use tracing::field::{Field, Visit};
    use tracing::span::{Attributes, Record};
    use tracing::{Id, Subscriber};
    use tracing_subscriber::layer::Context;
    use tracing_subscriber::prelude::*;
    use tracing_subscriber::registry::LookupSpan;
    use tracing_subscriber::{Layer, registry};

    use super::*;

    /// Names of spans by their ids.
    type Names = HashMap<u64, String>;

    /// Spans, and a line for each value that became known: `strategy direct outcome=failed`.
    #[derive(Clone, Default)]
    struct Spans(Arc<Mutex<(Names, Vec<String>)>>);

    impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Spans {
        fn on_new_span(&self, of: &Attributes<'_>, id: &Id, cx: Context<'_, S>) {
            let parent = cx.span(id).unwrap().parent().map(|span| span.id().into_u64());
            let mut values = Values::default();
            of.record(&mut values);
            let mut inner = self.0.lock().unwrap();
            let above = parent.map_or(String::new(), |parent| format!("{} / ", inner.0[&parent]));
            inner.0.insert(id.into_u64(), format!("{above}{}{}", of.metadata().name(), values.0));
        }

        fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
            let mut said = Values::default();
            values.record(&mut said);
            let mut inner = self.0.lock().unwrap();
            let line = format!("{}:{}", inner.0[&id.into_u64()], said.0);
            inner.1.push(line);
        }

        fn on_event(&self, of: &tracing::Event<'_>, cx: Context<'_, S>) {
            let mut values = Values::default();
            of.record(&mut values);
            let mut inner = self.0.lock().unwrap();
            let inside =
                cx.event_span(of).map_or("nowhere".to_owned(), |span| inner.0[&span.id().into_u64()].clone());
            inner.1.push(format!("{inside}!{}", values.0));
        }

        fn on_close(&self, id: Id, _: Context<'_, S>) {
            let mut inner = self.0.lock().unwrap();
            let line = format!("{} ends", inner.0[&id.into_u64()]);
            inner.1.push(line);
        }
    }

    #[derive(Default)]
    struct Values(String);

    impl Visit for Values {
        fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
            // Ids of connects count on in the process's tests.
            if field.name() != "connect" {
                write!(self.0, " {field}={value:?}").unwrap();
            }
        }
    }

    #[test]
    fn a_call_is_a_span_and_its_strategies_are_spans_in_it() {
        let spans = Spans::default();
        let subscriber = registry().with(spans.clone());
        tracing::subscriber::with_default(subscriber, || {
            let (mut engine, _far) = engine();
            spans.0.lock().unwrap().1.clear();
            let id = call(&mut engine);
            engine.news.clear();
            let stage = Stage::Started;
            engine.news.push_back(News::Event(Event::Progress {
                connect: id,
                strategy: Strategy::Direct,
                stage,
            }));
            let report =
                |strategy, outcome, detail: &str| StrategyReport { strategy, outcome, detail: detail.into() };
            let strategies = [
                report(Strategy::Direct, Outcome::Failed, "refused"),
                report(Strategy::Punch, Outcome::Skipped, "no broker"),
            ];
            let report = Report { elapsed: Duration::ZERO, strategies: strategies.into(), advice: None };
            let why = ConnectError::Failed(FailReason::AllStrategiesFailed, Box::new(report));
            engine.news.push_back(News::NotOpened(id, why));
            while engine.take_news().is_some() {}
            let given_up = call(&mut engine);
            engine.news.clear();
            engine.cancel(given_up);
        });
        let said = std::mem::take(&mut spans.0.lock().unwrap().1);
        assert_eq!(
            said,
            [
                r#"connect / strategy strategy="direct"! message=progress strategy=direct stage=started"#,
                r#"connect: outcome="failed""#,
                "connect: detail=every strategy failed",
                r#"connect / strategy strategy="direct": outcome="failed""#,
                r#"connect / strategy strategy="direct": detail="refused""#,
                r#"connect / strategy strategy="punch": outcome="skipped""#,
                r#"connect / strategy strategy="punch": detail="no broker""#,
                r#"connect / strategy strategy="direct" ends"#,
                r#"connect / strategy strategy="punch" ends"#,
                "connect ends",
                r#"connect: outcome="cancelled""#,
                "connect ends",
            ]
        );
    }
}
