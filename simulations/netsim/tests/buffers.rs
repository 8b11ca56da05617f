//! Back-pressure: a send buffer that fills, a window that closes, and what opens them again. Exact, in virtual time.

use p2pd_netsim::engine::{MILLI, Nanos, SECOND};
use p2pd_netsim::host::{Buffers, Close, Failure, HostEvent, Reuse, Sock};
use p2pd_netsim::net::{Blackout, LinkSpec};
use p2pd_netsim::world::{App, Cx, HostId, World};

/// A program that keeps its events and does nothing by itself.
#[derive(Default)]
struct Log(Vec<(Nanos, HostEvent)>);

impl App for Log {
    fn event(&mut self, cx: &mut Cx<'_>, event: HostEvent) {
        self.0.push((cx.now, event));
    }
    fn wake(&mut self, _: &mut Cx<'_>, _: u64) {}
}

struct Bench {
    world: World<Log>,
    /// The writer and the reader, each with its end of one stream.
    ends: [(HostId, Sock); 2],
}

impl Bench {
    /// A stream over 10 ms each way, between two hosts with these buffers.
    fn new(buffers: Buffers) -> Bench {
        let mut world: World<Log> = World::new(1);
        let link = LinkSpec::with_delay(5 * MILLI);
        let hosts =
            [1, 2].map(|n| world.add_host(world.internet(), [203, 0, 113, n].into(), link, Log::default()));
        for host in hosts {
            world.with(host, |_, cx| cx.host.set_buffers(buffers));
        }
        let to = ([203, 0, 113, 2], 80).into();
        world.with(hosts[1], |_, cx| cx.host.listen(to, 8, Reuse::No).unwrap());
        let writer = world.with(hosts[0], |_, cx| {
            let sock = cx.host.bind_tcp(([0, 0, 0, 0], 0).into(), to, Reuse::No).unwrap();
            cx.host.connect(cx.now, sock, to).unwrap();
            sock
        });
        world.run_until(100 * MILLI);
        let HostEvent::Accepted { sock: reader, .. } = world.app(hosts[1]).0[0].1 else { panic!() };
        Bench { world, ends: [(hosts[0], writer), (hosts[1], reader)] }
    }

    fn send(&mut self, count: usize) -> usize {
        let (host, sock) = self.ends[0];
        self.world.with(host, |_, cx| cx.host.send(cx.now, sock, &vec![7; count]))
    }

    fn read(&mut self, most: usize) -> usize {
        let (host, sock) = self.ends[1];
        self.world.with(host, |_, cx| cx.host.read(sock, most)).len()
    }

    fn unread(&self) -> usize {
        self.world.host(self.ends[1].0).unread(self.ends[1].1)
    }

    /// Runs on for so many milliseconds.
    fn run(&mut self, ms: Nanos) {
        self.world.run_until(self.world.now() + ms * MILLI);
    }

    fn times_of(&self, end: usize, event: &HostEvent) -> Vec<Nanos> {
        let log = &self.world.app(self.ends[end].0).0;
        log.iter().filter(|(_, e)| e == event).map(|(at, _)| *at).collect()
    }
}

const BUFFERS: Buffers = Buffers { send: 30_000, receive: 20_000 };

#[test]
fn a_writer_stops_at_both_buffers_and_is_told_when_a_third_of_its_own_is_free() {
    let mut b = Bench::new(BUFFERS);
    assert_eq!((b.send(1 << 20), b.send(1)), (30_000, 0));
    b.run(1_000);
    // The reader's window is full, and what it holds is acknowledged: that much fits again.
    assert_eq!((b.unread(), b.send(1 << 20), b.send(1)), (20_000, 20_000, 0));
    b.run(1_000);
    assert_eq!((b.unread(), b.send(1)), (20_000, 0));
    let writable = HostEvent::Writable(b.ends[0].1);
    // 30,000 - 10,000 have to be left at most: 7.1 segments of 1,400 are acknowledged after one round trip.
    assert_eq!(b.times_of(0, &writable), [100 * MILLI + 20 * MILLI]);
    // The news of the window goes to the writer, its bytes come back.
    assert_eq!(b.read(1_399), 1_399);
    b.run(19);
    assert_eq!(b.unread(), 18_601, "no window is announced for less than a segment");
    assert_eq!(b.read(1), 1);
    b.run(19);
    assert_eq!(b.unread(), 18_600);
    b.run(1);
    assert_eq!(b.unread(), 20_000);
    let mut total = 1_400;
    while b.unread() > 0 {
        total += b.read(usize::MAX);
        b.run(20);
    }
    assert_eq!((total, b.send(1 << 20)), (50_000, 30_000));
    b.world.check().unwrap();
}

#[test]
fn a_send_buffer_has_no_limit_unless_it_is_set() {
    let mut b = Bench::new(Buffers::default());
    assert_eq!(b.send(1 << 20), 1 << 20);
    b.run(5_000);
    assert_eq!(b.unread(), 65_536);
    assert!(b.times_of(0, &HostEvent::Writable(b.ends[0].1)).is_empty());
}

#[test]
fn a_closed_window_is_probed_for_days_and_its_news_may_be_lost() {
    let mut b = Bench::new(BUFFERS);
    b.send(30_000);
    b.run(2 * 24 * 3_600_000);
    assert_eq!(
        (b.unread(), b.times_of(0, &HostEvent::Broken(b.ends[0].1, Failure::TimedOut)).len()),
        (20_000, 0)
    );
    // The acknowledgement that opens the window is lost: the next probe asks for it.
    let now = b.world.now();
    let blackout = Blackout { from: now, until: now + SECOND };
    let link = LinkSpec::with_delay(5 * MILLI);
    b.world.set_link(b.ends[1].0, LinkSpec { blackout, ..link });
    assert_eq!(b.read(usize::MAX), 20_000);
    b.run(1_500);
    assert_eq!(b.unread(), 0);
    b.run(120_000);
    assert_eq!(b.unread(), 10_000);
    // From then on repeats come as on a fresh stream.
    b.send(10_000);
    b.run(30);
    assert_eq!(b.unread(), 20_000);
}

#[test]
fn bytes_before_a_reset_can_be_read() {
    let mut b = Bench::new(BUFFERS);
    b.send(5_000);
    b.run(100);
    let [(writer, sock), (reader, theirs)] = b.ends;
    b.world.with(writer, |_, cx| cx.host.close(cx.now, sock, Close::Reset));
    b.run(100);
    assert_eq!(b.times_of(1, &HostEvent::Broken(theirs, Failure::Reset)).len(), 1);
    assert_eq!((b.read(4_000), b.read(4_000), b.read(4_000)), (4_000, 1_000, 0));
    // The ends are free already, and the socket is once it is closed.
    assert_eq!(b.world.host(reader).sockets(), 2);
    b.world.with(reader, |_, cx| cx.host.close(cx.now, theirs, Close::Drop));
    assert_eq!(b.world.host(reader).sockets(), 1);
}
