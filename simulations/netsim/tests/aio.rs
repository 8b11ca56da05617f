//! Async programs on simulated hosts. Exact, in virtual time.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use p2pd_netsim::aio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use p2pd_netsim::aio::time::{Instant, interval, now, sleep, timeout};
use p2pd_netsim::aio::{Process, Sim, fill_random, spawn, yield_now};
use p2pd_netsim::engine::{MILLI, Nanos, SECOND};
use p2pd_netsim::host::Profile;
use p2pd_netsim::net::LinkSpec;
use p2pd_netsim::world::{HostId, Site, SiteSpec, World};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ONE: &str = "203.0.113.1";
const TWO: &str = "203.0.113.2";

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// The time since the world began, in milliseconds.
fn at() -> u128 {
    now().since_start().as_millis()
}

/// Two hosts in the internet, 10 ms from each other.
fn two(seed: u64) -> (Sim, [HostId; 2]) {
    let mut world: World<Process> = World::new(seed);
    let link = LinkSpec::with_delay(5 * MILLI);
    let hosts =
        [ONE, TWO].map(|ip| world.add_host(world.internet(), ip.parse().unwrap(), link, Process::default()));
    (Sim::over(world), hosts)
}

/// Two hosts behind NATs of their own, 40 ms from each other.
fn homes(seed: u64, chains: [&str; 2]) -> (Sim, [HostId; 2], [Site; 2]) {
    let mut world: World<Process> = World::new(seed);
    let link = LinkSpec::with_delay(20 * MILLI);
    let mut sites = [1, 2].map(|number| {
        let chain = chains[usize::from(number) - 1].parse().unwrap();
        world.add_site(&SiteSpec { number, chain, link })
    });
    let hosts = sites.each_mut().map(|site| world.add_host_at(site, Process::default()));
    (Sim::over(world), hosts, sites)
}

#[test]
fn sleeps_end_in_their_order_to_the_nanosecond() {
    let (mut sim, [one, other]) = two(1);
    let log = Rc::new(RefCell::new(Vec::new()));
    // The same time at two hosts: by the order in which the timers were set; at one host by the task's number.
    for (host, name, wait) in
        [(other, "a", 30), (one, "b", 10), (one, "c", 20), (one, "d", 10), (other, "e", 10), (one, "f", 0)]
    {
        let log = log.clone();
        sim.spawn(host, async move {
            sleep(ms(wait)).await;
            log.borrow_mut().push((at(), name));
        });
    }
    let late = sim.block_on(one, async {
        let begin = Instant::now();
        sleep(Duration::from_nanos(30_000_001)).await;
        begin.elapsed()
    });
    assert_eq!(late, Duration::from_nanos(30_000_001));
    assert_eq!(*log.borrow(), [(0, "f"), (10, "b"), (10, "d"), (10, "e"), (20, "c"), (30, "a")]);
}

#[test]
fn timeouts_and_intervals_keep_time() {
    let (mut sim, [one, _]) = two(1);
    sim.block_on(one, async {
        assert!(timeout(ms(10), sleep(ms(11))).await.is_err());
        assert_eq!(at(), 10);
        assert_eq!(timeout(ms(10), sleep(ms(10))).await, Ok(()), "the future comes first");
        assert_eq!(at(), 20);
        let mut ticks = interval(ms(7));
        let mut seen = Vec::new();
        for _ in 0..3 {
            ticks.tick().await;
            seen.push(at());
        }
        sleep(ms(20)).await;
        // Two were missed and come at once.
        for _ in 0..3 {
            ticks.tick().await;
            seen.push(at());
        }
        assert_eq!(seen, [20, 27, 34, 54, 54, 55]);
        let error: io::Error = timeout(ms(1), std::future::pending::<()>()).await.unwrap_err().into();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    });
    // A cancelled timer leaves nothing to happen but the wake that was asked for.
    assert!(sim.world().next_at().is_none_or(|next| next <= 56 * MILLI));
}

#[test]
fn dials_fail_as_kernels_do() {
    let (mut sim, [one, _]) = two(1);
    sim.block_on(one, async {
        let refused = TcpStream::connect((TWO, 81)).await.unwrap_err();
        assert_eq!((refused.kind(), at()), (io::ErrorKind::ConnectionRefused, 20), "one round trip");
        let begin = Instant::now();
        let silent = TcpStream::connect("192.0.2.77:80").await.unwrap_err();
        assert_eq!(silent.kind(), io::ErrorKind::TimedOut);
        assert_eq!(begin.elapsed(), Duration::from_nanos(Profile::LINUX.syn_gaps.iter().sum()));
        let first = TcpListener::bind("0.0.0.0:80").await.unwrap();
        let second = TcpListener::bind("0.0.0.0:80").await.unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        TcpListener::bind("0.0.0.0:80").await.unwrap();
        let strange = UdpSocket::bind("198.51.100.9:80").await.unwrap_err();
        assert_eq!(strange.kind(), io::ErrorKind::AddrNotAvailable);
        let name = TcpStream::connect("example.org:80").await.unwrap_err();
        assert_eq!(name.kind(), io::ErrorKind::InvalidInput);
    });
}

#[test]
fn a_mebibyte_waits_for_its_reader_at_exactly_both_buffers() {
    let (mut sim, [one, other]) = two(1);
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    let reader = sim.spawn(other, async {
        let listener = TcpListener::bind("0.0.0.0:80").await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        gone.await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        (all, at())
    });
    let (stopped, mut full) = tokio::sync::oneshot::channel();
    sim.spawn(one, async {
        let mut stream = TcpStream::connect((TWO, 80)).await.unwrap();
        let data: Vec<u8> = (0..1 << 20).map(|n: u32| (n >> 8) as u8 ^ n as u8).collect();
        let mut done = 0;
        while let Ok(wrote) = timeout(ms(1_000), stream.write(&data[done..])).await {
            done += wrote.unwrap();
        }
        assert_eq!(stream.try_write(&data[done..]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        stopped.send(done).unwrap();
        stream.write_all(&data[done..]).await.unwrap();
    });
    sim.run_until(1_000 * SECOND);
    assert_eq!(full.try_recv(), Ok(128 * 1024 + 64 * 1024));
    go.send(()).unwrap();
    let (all, end) = sim.join(reader).unwrap();
    assert_eq!(all.len(), 1 << 20);
    assert!(all.iter().enumerate().all(|(n, byte)| *byte == (n >> 8) as u8 ^ n as u8));
    // 64 KiB were there. The news is of a window of one segment, which takes a round trip of 20 ms; then come 64 KiB in each.
    assert_eq!(end, 1_000_000 + (1 + 16) * 20);
    sim.world().check().unwrap();
}

#[test]
fn a_full_backlog_drops_syns_until_somebody_accepts() {
    let (mut sim, [one, other]) = two(1);
    let accepted = sim.spawn(other, async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("0.0.0.0:80".parse().unwrap()).unwrap();
        let listener = socket.listen(2).unwrap();
        sleep(ms(500)).await;
        let mut streams = Vec::new();
        while streams.len() < 3 {
            streams.push(listener.accept().await.unwrap());
        }
        (at(), streams.len())
    });
    let dials: Vec<_> = (0..3)
        .map(|_| {
            sim.spawn(one, async {
                let stream = TcpStream::connect((TWO, 80)).await.unwrap();
                (at(), stream)
            })
        })
        .collect();
    let times: Vec<_> = dials.into_iter().map(|dial| sim.join(dial).unwrap().0).collect();
    // The third one's SYN finds no room, and its repeat after a second does.
    assert_eq!(times, [20, 20, 1_020]);
    assert_eq!(sim.join(accepted).unwrap(), (1_030, 3));
}

#[test]
fn streams_end_and_break_as_kernels_have_them() {
    let (mut sim, [one, other]) = two(1);
    let server = sim.spawn(other, async {
        let listener = TcpListener::bind("0.0.0.0:80").await.unwrap();
        // A half-closed stream.
        let (mut stream, from) = listener.accept().await.unwrap();
        assert_eq!((from.ip().to_string().as_str(), stream.peer_addr().unwrap()), (ONE, from));
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        stream.write_all(text.as_bytes()).await.unwrap();
        drop(stream);
        // Bytes, then RST.
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"last words").await.unwrap();
        sleep(ms(1)).await;
        stream.set_linger(Some(Duration::ZERO)).unwrap();
        drop(stream);
        // One that nobody accepts.
        sleep(ms(200)).await;
    });
    sim.block_on(one, async {
        let stream = TcpStream::connect((TWO, 80)).await.unwrap();
        let (mut reader, mut writer) = stream.into_split();
        writer.write_all(b"half").await.unwrap();
        writer.shutdown().await.unwrap();
        assert_eq!(writer.write(b"more").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        let mut text = String::new();
        reader.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "half");

        let mut stream = TcpStream::connect((TWO, 80)).await.unwrap();
        sleep(ms(50)).await;
        let (mut text, mut buf) = (Vec::new(), [0; 4]);
        let error = loop {
            match stream.read(&mut buf).await {
                Ok(count) => text.extend(&buf[..count]),
                Err(error) => break error,
            }
        };
        assert_eq!((&text[..], error.kind()), (&b"last words"[..], io::ErrorKind::ConnectionReset));
        assert_eq!(stream.read(&mut buf).await.unwrap(), 0);
        assert_eq!(stream.write(b"x").await.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        let mut ignored = TcpStream::connect((TWO, 80)).await.unwrap();
        assert_eq!(ignored.read(&mut buf).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let eof = ignored.read_exact(&mut buf).await.unwrap_err();
        assert_eq!(eof.kind(), io::ErrorKind::UnexpectedEof);
    });
    sim.join(server).unwrap();
    let now = sim.world().now();
    sim.run_until(now + 200 * SECOND);
    for host in [one, other] {
        assert_eq!(sim.world().host(host).sockets(), 0, "all are closed, TIME_WAIT is over");
    }
    sim.world().check().unwrap();
}

#[test]
fn two_hosts_behind_nats_open_one_connection_by_dialling_at_once() {
    let (mut sim, hosts, sites) = homes(7, ["openwrt", "linux"]);
    let outside = sites.each_ref().map(|site| SocketAddr::new(site.external[0], 5000));
    let ends = [(0, 1), (1, 0)].map(|(mine, other)| {
        let to = outside[other];
        sim.spawn(hosts[mine], async move {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind("0.0.0.0:5000".parse().unwrap()).unwrap();
            assert_eq!(socket.local_addr().unwrap().port(), 5000);
            let mut stream = socket.connect(to).await.unwrap();
            let opened = at();
            assert_eq!((stream.local_addr().unwrap().port(), stream.peer_addr().unwrap()), (5000, to));
            stream.write_all(format!("from {mine}").as_bytes()).await.unwrap();
            let mut heard = [0; 6];
            stream.read_exact(&mut heard).await.unwrap();
            (opened, String::from_utf8(heard.to_vec()).unwrap())
        })
    });
    let ends = ends.map(|end| sim.join(end).unwrap());
    // The SYNs cross, and are answered.
    assert_eq!(ends, [(80, "from 1".into()), (80, "from 0".into())]);
}

#[test]
fn datagrams_go_through_nats_and_a_full_buffer_loses_them() {
    let (mut sim, hosts, sites) = homes(7, ["openwrt", "openwrt"]);
    let outside = sites.each_ref().map(|site| SocketAddr::new(site.external[0], 6000));
    let [a, b] = [(0, 1), (1, 0)].map(|(mine, other)| {
        let to = outside[other];
        sim.spawn(hosts[mine], async move {
            let socket = UdpSocket::bind("0.0.0.0:6000").await.unwrap();
            assert_eq!(socket.peer_addr().unwrap_err().kind(), io::ErrorKind::NotConnected);
            socket.send_to(b"first", to).await.unwrap();
            sleep(ms(100)).await;
            socket.connect(to).await.unwrap();
            for n in 0..200_u32 {
                let mut data = [0; 1_200];
                data[..4].copy_from_slice(&n.to_be_bytes());
                assert_eq!(socket.send(&data).await.unwrap(), 1_200);
            }
            sleep(ms(100)).await;
            let (mut got, mut buf) = (Vec::new(), [0; 4]);
            // What has no room in the buffer is cut off.
            while let Ok((4, from)) = socket.try_recv_from(&mut buf) {
                assert_eq!(from, to);
                got.push(buf);
            }
            let error = socket.try_recv(&mut buf).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            let long = socket.send(&[0; 65_508]).await.unwrap_err();
            assert_eq!(long.kind(), io::ErrorKind::InvalidInput);
            let six = socket.send_to(b"x", "[2001:db8::1]:1").await.unwrap_err();
            assert_eq!(six.kind(), io::ErrorKind::NetworkUnreachable);
            got
        })
    });
    for end in [a, b] {
        let got = sim.join(end).unwrap();
        // "first", then as many as fit: 212,992 less 5 and 576, by 1,200 and 576.
        assert_eq!((got.len(), &got[0], &got[1]), (1 + 119, b"firs", &[0; 4]));
    }
}

#[test]
fn a_connected_udp_socket_is_told_of_a_closed_port() {
    let (mut sim, [one, _]) = two(1);
    sim.block_on(one, async {
        let free = UdpSocket::bind("0.0.0.0:0").await.unwrap();
        let connected = UdpSocket::bind("0.0.0.0:0").await.unwrap();
        connected.connect((TWO, 9)).await.unwrap();
        free.send_to(b"x", (TWO, 9)).await.unwrap();
        connected.send(b"x").await.unwrap();
        let error = connected.recv(&mut [0; 1]).await.unwrap_err();
        assert_eq!((error.kind(), at()), (io::ErrorKind::ConnectionRefused, 20), "one round trip");
        assert!(
            timeout(ms(100), free.readable()).await.is_err(),
            "whose socket is not connected is told nothing"
        );
        connected.send(b"x").await.unwrap();
        sleep(ms(50)).await;
        assert_eq!(connected.send(b"x").await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        connected.send(b"x").await.unwrap();
    });
}

#[test]
fn tasks_are_polled_by_host_and_number_and_yield_to_each_other() {
    let (mut sim, [one, other]) = two(1);
    let log = Rc::new(RefCell::new(String::new()));
    for (host, name) in [(other, 'x'), (one, 'a'), (one, 'b')] {
        let log = log.clone();
        sim.spawn(host, async move {
            for _ in 0..2 {
                log.borrow_mut().push(name);
                yield_now().await;
            }
            let inner = log.clone();
            let task = spawn(async move { inner.borrow_mut().push(name.to_ascii_uppercase()) });
            task.await.unwrap();
            log.borrow_mut().push('.');
        });
    }
    sim.run_until(1);
    assert_eq!(*log.borrow(), "ababAB..xxX.");
}

#[test]
fn tasks_of_two_hosts_wake_each_other_at_once() {
    let (mut sim, [one, other]) = two(1);
    let (ping, mut pings) = tokio::sync::mpsc::unbounded_channel::<u128>();
    let (pong, mut pongs) = tokio::sync::mpsc::unbounded_channel::<u128>();
    sim.spawn(other, async move {
        while let Some(time) = pings.recv().await {
            assert_eq!(time, at());
            pong.send(time).unwrap();
        }
    });
    sim.block_on(one, async move {
        for _ in 0..3 {
            sleep(ms(5)).await;
            ping.send(at()).unwrap();
            assert_eq!(pongs.recv().await, Some(at()));
        }
    });
    assert_eq!(sim.world().now(), 15 * MILLI);
}

#[test]
fn cancelled_tasks_give_their_sockets_free() {
    let (mut sim, [one, other]) = two(1);
    let listening = sim.spawn(one, async {
        let listener = TcpListener::bind("0.0.0.0:80").await.unwrap();
        let udp = UdpSocket::bind("0.0.0.0:53").await.unwrap();
        let streams = (listener.accept().await.unwrap(), udp);
        std::future::pending::<()>().await;
        drop(streams);
    });
    let dial = sim.spawn(other, async {
        let mut stream = TcpStream::connect((ONE, 80)).await.unwrap();
        stream.read(&mut [0; 1]).await.unwrap()
    });
    sim.run_until(100 * MILLI);
    assert_eq!((sim.world().host(one).sockets(), sim.world().app(one).tasks()), (3, 1));
    listening.abort();
    assert_eq!(sim.join(dial).unwrap(), 0, "the stream ended");
    assert_eq!(sim.world().now(), 110 * MILLI);
    assert!(sim.join(listening).unwrap_err().to_string().contains("cancelled"));
    // A dial that a timeout drops.
    sim.block_on(one, async {
        assert!(timeout(ms(500), TcpStream::connect("192.0.2.77:80")).await.is_err());
        UdpSocket::bind("0.0.0.0:53").await.unwrap();
    });
    let now = sim.world().now();
    sim.run_until(now + 100 * SECOND);
    assert_eq!(sim.world().host(one).sockets(), 0);
}

#[test]
fn sockets_dropped_elsewhere_are_closed_and_used_elsewhere_fail() {
    let (mut sim, [one, other]) = two(1);
    let kept = sim.block_on(one, async { UdpSocket::bind("0.0.0.0:53").await.unwrap() });
    assert_eq!(sim.world().host(one).sockets(), 1);
    assert_eq!(kept.try_recv(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::Other);
    sim.block_on(other, async move {
        let strange = kept.send_to(b"x", (ONE, 1)).await.unwrap_err();
        assert_eq!(strange.kind(), io::ErrorKind::Other);
    });
    assert_eq!(sim.world().host(one).sockets(), 0);
}

#[test]
fn a_paused_host_acknowledges_and_a_killed_one_closes() {
    let (mut sim, [one, other]) = two(1);
    let counted = Rc::new(RefCell::new(0));
    let counter = counted.clone();
    let reader = sim.spawn(one, async move {
        let listener = TcpListener::bind("0.0.0.0:80").await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buf = [0; 1_000];
        loop {
            *counter.borrow_mut() += stream.read(&mut buf).await.unwrap();
        }
    });
    let writer = sim.spawn(other, async {
        let mut stream = TcpStream::connect((ONE, 80)).await.unwrap();
        stream.write_all(&[1; 1_000]).await.unwrap();
        sleep(ms(100)).await;
        stream.write_all(&[2; 2_000]).await.unwrap();
        stream.read(&mut [0; 1]).await
    });
    sim.run_until(100 * MILLI);
    assert_eq!(*counted.borrow(), 1_000);
    sim.pause(one);
    sim.run_until(10 * SECOND);
    assert_eq!(*counted.borrow(), 1_000);
    sim.resume(one);
    assert_eq!(*counted.borrow(), 3_000);
    sim.kill(one);
    assert_eq!(sim.world().app(one).tasks(), 0);
    assert!(reader.is_finished());
    assert_eq!(sim.join(writer).unwrap().unwrap(), 0, "FIN: everything was read");
    sim.block_on(one, async { TcpListener::bind("0.0.0.0:80").await.map(drop) }).unwrap();
}

#[test]
fn what_a_simulation_drops_is_dropped_on_its_host() {
    struct Last(Rc<RefCell<Vec<Duration>>>);
    impl Drop for Last {
        fn drop(&mut self) {
            self.0.borrow_mut().push(now().since_start());
        }
    }
    let (mut sim, hosts) = two(1);
    let log = Rc::new(RefCell::new(Vec::new()));
    for host in hosts {
        let last = Last(log.clone());
        sim.spawn(host, async move {
            let _last = last;
            std::future::pending::<()>().await;
        });
    }
    sim.run_until(5 * MILLI);
    drop(sim);
    assert_eq!(*log.borrow(), [ms(5); 2]);
    assert_eq!(Instant::try_now(), None);
}

#[test]
#[should_panic(expected = "seed 41, host 1, 5 ms: a task panicked: five")]
fn a_panic_reaches_the_caller_with_the_seed() {
    let (mut sim, [_, other]) = two(41);
    sim.spawn(other, async {
        sleep(ms(5)).await;
        panic!("five");
    });
    sim.run_until(SECOND);
}

#[test]
#[should_panic(expected = "seed 42, 10 ms: a task is waited for, and nothing is left to happen")]
fn a_wait_without_end_is_found_out() {
    let (mut sim, [one, _]) = two(42);
    sim.block_on(one, async {
        sleep(ms(10)).await;
        std::future::pending::<()>().await;
    });
}

#[test]
#[should_panic(expected = "seed 43, host 0, 0 ms: tasks wake each other without end")]
fn tasks_that_only_yield_are_found_out() {
    let (mut sim, [one, _]) = two(43);
    sim.block_on(one, async {
        loop {
            yield_now().await;
        }
    });
}

/// A run with everything in it that could differ.
fn run(seed: u64) -> (u64, Nanos, Vec<u8>, [u8; 9]) {
    let (mut sim, hosts, sites) = homes(seed, ["linux-random", "openwrt"]);
    sim.world_mut().record();
    let rough = LinkSpec { loss_ppm: 50_000, jitter: 3 * MILLI, ..LinkSpec::with_delay(20 * MILLI) };
    sim.world_mut().set_link(hosts[0], rough);
    let public: std::net::IpAddr = TWO.parse().unwrap();
    let internet = sim.world().internet();
    let server = sim.world_mut().add_host(internet, public, rough, Process::default());
    sim.spawn(server, async {
        let listener = TcpListener::bind("0.0.0.0:80").await.unwrap();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            spawn(async move {
                let mut buf = [0; 700];
                while let Ok(count @ 1..) = stream.read(&mut buf).await {
                    if stream.write_all(&buf[..count]).await.is_err() {
                        break;
                    }
                }
            });
        }
    });
    let ends = hosts.map(|host| {
        sim.spawn(host, async {
            let mut stream = TcpStream::connect((TWO, 80)).await.unwrap();
            let mut word = [0; 9];
            fill_random(&mut word);
            for _ in 0..50 {
                stream.write_all(&word.repeat(100)).await.unwrap();
                stream.read_exact(&mut [0; 900]).await.unwrap();
            }
            word
        })
    });
    let [first, _] = ends.map(|end| sim.join(end).unwrap());
    drop(sites);
    sim.world().check().unwrap();
    (sim.world().digest(), sim.world().now(), sim.world().trace().unwrap().pcapng(), first)
}

#[test]
fn one_seed_gives_one_run() {
    let (first, second, other) = (run(5), run(5), run(6));
    assert!(first == second, "digest, time and every packet");
    assert_ne!(first.0, other.0);
    assert_ne!(first.3, other.3);
}
