//! The internet between the homes: a thread that carries packets from one TUN device to another. They come late, in
//! another order or not at all, by the lines' delay, jitter and loss. NATs in userspace are at the ends of their lines.

use std::cmp::Ordering as Order;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, PipeWriter, Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::dice::Dice;
use super::userspace::{Inbound, Translator};
use super::{LabError, Result, sys};

/// Bytes that may be under way at once; more are dropped, as by any router.
const MAX_UNDER_WAY: usize = 64 << 20;
/// Packets taken from one port before the others get their turn.
const BURST: usize = 64;

/// A line into the internet.
pub(super) struct Port {
    pub(super) tun: File,
    pub(super) delay: Duration,
    pub(super) jitter: Duration,
    pub(super) loss: f64,
    /// Networks that live behind the port, as address and prefix length.
    pub(super) networks: Vec<(Ipv4Addr, u32)>,
    /// The NAT at this end of the line.
    pub(super) nat: Option<Translator>,
}

/// Counts of packets so far, by their fate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets handed to the device they were meant for.
    pub delivered: u64,
    /// Packets dropped because the line loses packets.
    pub lost: u64,
    /// Packets dropped because too much was under way.
    pub overflowed: u64,
    /// Packets dropped because the destination is not in the lab: they would have gone to the real internet.
    pub unroutable: u64,
    /// Packets dropped because the source does not belong to the line, as providers do (BCP 38).
    pub spoofed: u64,
    /// Packets that NATs in userspace did not let in or out.
    pub refused: u64,
}

#[derive(Default)]
struct Counters {
    delivered: AtomicU64,
    lost: AtomicU64,
    overflowed: AtomicU64,
    unroutable: AtomicU64,
    spoofed: AtomicU64,
    refused: AtomicU64,
}

/// The running internet. Dropping it closes all TUN devices.
pub(super) struct Internet {
    counters: Arc<Counters>,
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Internet {
    pub(super) fn start(ports: Vec<Port>, seed: u64) -> Result<Self> {
        let failed = |e: io::Error| LabError::new(format!("starting the lab's internet: {e}"));
        let (stopped, stop) = io::pipe().map_err(failed)?;
        let counters = Arc::new(Counters::default());
        let mut core = Core {
            ports,
            under_way: BinaryHeap::new(),
            bytes: 0,
            next: 0,
            dice: Dice::new(seed),
            began: Instant::now(),
            counters: Arc::clone(&counters),
        };
        let thread = std::thread::Builder::new().name("internet".into());
        let thread = thread.spawn(move || {
            if let Err(e) = core.run(&stopped) {
                // The lab's tests will time out; this is the line that says why.
                eprintln!("lab: the internet stopped: {e}");
            }
        });
        Ok(Self { counters, stop: Some(stop), thread: Some(thread.map_err(failed)?) })
    }

    pub(super) fn traffic(&self) -> Traffic {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            delivered: read(&self.counters.delivered),
            lost: read(&self.counters.lost),
            overflowed: read(&self.counters.overflowed),
            unroutable: read(&self.counters.unroutable),
            spoofed: read(&self.counters.spoofed),
            refused: read(&self.counters.refused),
        }
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        // The thread sees the end of the pipe.
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was printed by the thread itself.
            let _ = thread.join();
        }
    }
}

/// A packet with its time of arrival. The heap's greatest is the one due first.
struct Packet {
    due: Instant,
    number: u64,
    to: usize,
    data: Box<[u8]>,
}

impl Ord for Packet {
    fn cmp(&self, other: &Self) -> Order {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

impl PartialOrd for Packet {
    fn partial_cmp(&self, other: &Self) -> Option<Order> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Packet {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Order::Equal
    }
}

impl Eq for Packet {}

struct Core {
    ports: Vec<Port>,
    under_way: BinaryHeap<Packet>,
    bytes: usize,
    next: u64,
    dice: Dice,
    /// Begin of the time by which NATs forget.
    began: Instant,
    counters: Arc<Counters>,
}

impl Core {
    fn run(&mut self, stopped: &impl AsFd) -> io::Result<()> {
        sys::precise_timers()?;
        // What is late here loses packets in the devices' queues, and that is not the line that was asked for.
        sys::run_first();
        let fds = self.ports.iter().map(|p| p.tun.as_fd()).chain([stopped.as_fd()]);
        let mut poll = sys::PollSet::new(fds);
        let mut buffer = vec![0; 65_536];
        loop {
            let wait = self.under_way.peek().map(|p| p.due.saturating_duration_since(Instant::now()));
            if poll.wait(wait)? {
                if poll.ready(self.ports.len()) {
                    return Ok(());
                }
                for from in (0..self.ports.len()).filter(|&i| poll.ready(i)) {
                    self.take(from, &mut buffer)?;
                }
            }
            let now = Instant::now();
            while self.under_way.peek().is_some_and(|p| p.due <= now) {
                let Some(packet) = self.under_way.pop() else { break };
                self.bytes -= packet.data.len();
                self.deliver(packet.to, packet.data);
            }
        }
    }

    /// Takes the packets that a router has sent.
    fn take(&mut self, from: usize, buffer: &mut [u8]) -> io::Result<()> {
        for _ in 0..BURST {
            match (&self.ports[from].tun).read(buffer) {
                Ok(length) => self.leave(from, &mut buffer[..length]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // A device that is not up yet.
                Err(e) if e.raw_os_error() == Some(libc::EIO) => return Ok(()),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Lets a packet out through the NAT of its line, if there is one.
    fn leave(&mut self, from: usize, data: &mut [u8]) {
        let now = self.began.elapsed();
        let nat = self.ports[from].nat.as_mut();
        if nat.is_none_or(|nat| nat.outbound(data, now)) {
            self.accept(from, data);
        } else {
            count(&self.counters.refused);
        }
    }

    fn accept(&mut self, from: usize, data: &[u8]) {
        let address = |at: usize| data.get(at..at + 4).and_then(|a| <[u8; 4]>::try_from(a).ok());
        let (Some(source), Some(target), Some(4)) = (address(12), address(16), data.first().map(|b| b >> 4))
        else {
            return count(&self.counters.unroutable);
        };
        if self.owner(source.into()) != Some(from) {
            return count(&self.counters.spoofed);
        }
        let Some(to) = self.owner(target.into()) else { return count(&self.counters.unroutable) };
        let (a, b) = (&self.ports[from], &self.ports[to]);
        let kept = (1.0 - a.loss) * (1.0 - b.loss);
        if from == to {
            // A hairpin, which does not take the line.
            return self.deliver(to, data.into());
        }
        let (mut delay, jitter) = (a.delay + b.delay, a.jitter + b.jitter);
        if kept < 1.0 && self.dice.roll() >= kept {
            return count(&self.counters.lost);
        }
        if !jitter.is_zero() {
            delay += jitter.mul_f64(self.dice.roll());
        }
        if delay.is_zero() {
            return self.deliver(to, data.into());
        }
        if self.bytes + data.len() > MAX_UNDER_WAY {
            return count(&self.counters.overflowed);
        }
        self.bytes += data.len();
        self.next += 1;
        self.under_way.push(Packet { due: Instant::now() + delay, number: self.next, to, data: data.into() });
    }

    /// The port behind which an address lives.
    fn owner(&self, address: Ipv4Addr) -> Option<usize> {
        let within = |&(network, length): &(Ipv4Addr, u32)| {
            (address.to_bits() ^ network.to_bits()).checked_shr(32 - length).unwrap_or(0) == 0
        };
        self.ports.iter().position(|port| port.networks.iter().any(within))
    }

    fn deliver(&mut self, to: usize, mut data: Box<[u8]>) {
        let now = self.began.elapsed();
        if let Some(nat) = &mut self.ports[to].nat {
            match nat.inbound(&mut data, now) {
                Inbound::Inside => {}
                Inbound::Refused => return count(&self.counters.refused),
                Inbound::Answered(answer) => {
                    count(&self.counters.refused);
                    return self.accept(to, &answer);
                }
            }
        }
        // Only a device that is going down refuses, and then nobody waits for the packet.
        if (&self.ports[to].tun).write(&data).is_ok() {
            count(&self.counters.delivered);
        }
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
