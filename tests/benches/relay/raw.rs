//! Bare datagrams through the relay: the highest rate without loss, and P2PD's scheme on the same way.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use p2pd_core::SockOpts;
use p2pd_core::Transport;
use p2pd_core::turn::{Client, Config, Credentials, Event};
use p2pd_simulations::scenario::relay::End;
use p2pd_simulations::scenario::relay::rudp::Rudp;
use p2pd_tests::lab::services::Coturn;
use p2pd_tests::world::World;

/// Payload of a datagram in bytes, the most of p2pd's own datagrams.
const PAYLOAD: usize = 1_200;
/// Duration of the trial of one rate.
const BLAST: Duration = Duration::from_millis(700);
/// Time of silence after which nothing more is under way.
const SILENCE: Duration = Duration::from_millis(400);
/// Number of trials with losses after which a rate is too fast.
const TRIES: u32 = 3;
/// The next rate tried is so much higher.
const STEP: f64 = 1.15;

/// An allocation of the second home's, and a socket in the first one that is permitted.
pub struct Raw {
    began: Instant,
    client: Client,
    near: UdpSocket,
    far: UdpSocket,
    relayed: SocketAddr,
    peer: SocketAddr,
}

impl Raw {
    pub fn open(world: &World) -> Raw {
        // Sockets like a node's own, with as large buffers.
        let bind = || p2pd_sys::socket::udp(([0, 0, 0, 0], 0).into(), &SockOpts::default()).unwrap();
        let [far, near] = [0, 1].map(|n| world.lab.host(n).enter(bind));
        for socket in [&far, &near] {
            socket.set_nonblocking(false).unwrap();
        }
        near.connect(world.stun.addr()).unwrap();
        let config = Config::new(Transport::Udp, Credentials::new(Coturn::USER, Coturn::PASSWORD));
        let client = Client::new(config, p2pd_sys::random_seed().unwrap(), p2pd_core::Instant::ZERO);
        let nowhere = far.local_addr().unwrap();
        let mut raw = Raw { began: Instant::now(), client, near, far, relayed: nowhere, peer: nowhere };
        raw.near.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        // Until the channel is bound and what was asked twice is answered.
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until {
            raw.flush();
            let mut buffer = [0; 2048];
            let now = raw.now();
            if let Ok(n) = raw.near.recv(&mut buffer) {
                raw.client.handle(now, &buffer[..n]);
            }
            raw.client.handle_timeout(now);
            while let Some(event) = raw.client.poll_event() {
                match event {
                    Event::Allocated { relayed, .. } => {
                        raw.relayed = relayed;
                        raw.client.permit(now, world.lab.host(0).wan().into()).unwrap();
                    }
                    Event::Permitted(_) => {
                        raw.far.send_to(b"here", raw.relayed).unwrap();
                    }
                    Event::Data { from, .. } => {
                        raw.peer = from;
                        raw.client.send(now, from, b"there").unwrap();
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        assert!(raw.peer != nowhere, "no relay");
        raw
    }

    /// Measures the bits of payload a second that come through whole. The result is the highest rate with no loss in
    /// one try of three, where the next higher one has a loss each time.
    pub fn most(&mut self) -> f64 {
        let (mut rate, mut most) = (10e6, 0.0);
        while (0..TRIES).any(|_| self.blast(rate)) {
            most = rate;
            rate *= STEP;
        }
        most
    }

    /// Sends at this rate for a while; whether all of it came, and the sender kept the rate.
    fn blast(&mut self, rate: f64) -> bool {
        let gap = Duration::from_secs_f64(PAYLOAD as f64 * 8.0 / rate);
        let count = (BLAST.as_secs_f64() / gap.as_secs_f64()) as u64;
        let far = self.far.try_clone().unwrap();
        far.set_read_timeout(Some(SILENCE)).unwrap();
        // What is left of the last try.
        far.set_nonblocking(true).unwrap();
        while far.recv(&mut [0; 1]).is_ok() {}
        far.set_nonblocking(false).unwrap();
        let receiver = thread::spawn(move || {
            let (mut buffer, mut came) = ([0; 2048], 0);
            while came < count && far.recv(&mut buffer).is_ok() {
                came += 1;
            }
            came
        });
        let data = [7; PAYLOAD];
        let began = Instant::now();
        let mut sent = 0;
        while sent < count {
            let due = ((began.elapsed().as_secs_f64() / gap.as_secs_f64()) as u64).min(count);
            while sent < due {
                self.send(&data);
                sent += 1;
            }
            thread::sleep(Duration::from_micros(100));
        }
        let kept = began.elapsed() < BLAST.mul_f64(1.1);
        receiver.join().unwrap() == count && kept
    }

    /// P2PD's messages; bits of content a second until the last that came, and the share that never did.
    pub fn p2pd(&mut self, bytes: usize, rate: Option<f64>) -> (f64, f64) {
        let began = self.began;
        let now = move || instant(began);
        let [mut sender, mut receiver] = [Rudp::new(bytes, rate.map(|r| r as u64)), Rudp::new(0, None)];
        let (far, relayed) = (self.far.try_clone().unwrap(), self.relayed);
        far.set_nonblocking(true).unwrap();
        self.near.set_nonblocking(true).unwrap();
        while far.recv(&mut [0; 1]).is_ok() {}
        let (done, is_done) = std::sync::mpsc::channel::<()>();
        let start = Instant::now();
        let answering = thread::spawn(move || {
            let (mut buffer, mut last) = ([0; 2048], start);
            while is_done.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                let before = receiver.got;
                while let Some(n) = take(&far, &mut buffer) {
                    receiver.datagram(now(), &buffer[..n]);
                    while let Some(ack) = receiver.transmit(now()) {
                        far.send_to(&ack, relayed).unwrap();
                    }
                }
                if receiver.got > before {
                    last = Instant::now();
                }
                thread::sleep(Duration::from_micros(100));
            }
            (receiver.got, last)
        });
        let mut buffer = [0; 2048];
        let mut look_again = Instant::now();
        while !sender.is_done() {
            if look_again <= Instant::now() {
                look_again += Duration::from_millis(10);
                sender.timeout(now());
            }
            for _ in 0..32 {
                let Some(message) = sender.transmit(now()) else { break };
                self.send(&message);
            }
            while let Some(n) = take(&self.near, &mut buffer) {
                self.client.handle(now(), &buffer[..n]);
                while let Some(event) = self.client.poll_event() {
                    if let Event::Data { data, .. } = event {
                        sender.datagram(now(), &data);
                    }
                }
            }
            thread::sleep(Duration::from_micros(100));
        }
        thread::sleep(SILENCE);
        drop(done);
        let (got, last) = answering.join().unwrap();
        self.far.set_nonblocking(false).unwrap();
        self.near.set_nonblocking(false).unwrap();
        let took = last.duration_since(start).as_secs_f64();
        (got as f64 * 8.0 / took, (bytes as f64 - got as f64) / bytes as f64)
    }

    fn send(&mut self, data: &[u8]) {
        self.client.send(self.now(), self.peer, data).unwrap();
        self.flush();
    }

    fn flush(&mut self) {
        while let Some(datagram) = self.client.poll_transmit() {
            while let Err(e) = self.near.send(&datagram) {
                assert_eq!(e.kind(), ErrorKind::WouldBlock, "{e}");
                thread::yield_now();
            }
        }
    }

    fn now(&self) -> p2pd_core::Instant {
        instant(self.began)
    }
}

fn take(socket: &UdpSocket, buffer: &mut [u8]) -> Option<usize> {
    socket.recv(buffer).ok()
}

fn instant(began: Instant) -> p2pd_core::Instant {
    p2pd_core::Instant::from_nanos(began.elapsed().as_nanos() as i64)
}
