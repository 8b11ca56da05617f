//! `p2pd clock`.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use p2pd::servers::Servers;
use p2pd_core::NtpServer;
use p2pd_core::clock::Clock;
use serde_json::json;
use tokio::net::UdpSocket;

use crate::commands::usage;
use crate::say::Say;

pub(crate) async fn run(config: Option<&Path>, say: Say) -> ExitCode {
    let servers = match config.map_or_else(Servers::shipped, Servers::read) {
        Ok(servers) if servers.ntp.is_empty() => return usage(say, "there is no [[ntp]] in the server list"),
        Ok(servers) => servers.ntp,
        Err(why) => return usage(say, &why),
    };
    say.waiting("asking for the time");
    match ask(&servers).await {
        Ok(told) if say.clock(&told) => ExitCode::SUCCESS,
        // Nobody read it.
        Ok(_) => ExitCode::FAILURE,
        Err(why) => {
            say.error(&why);
            ExitCode::FAILURE
        }
    }
}

/// Answers of the time servers, combined.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    /// Lead of this machine's clock over the servers' time, in microseconds; negative if it is behind.
    offset: i64,
    /// Possible error of `offset`.
    error: Duration,
    answered: usize,
    asked: usize,
}

impl Told {
    /// Distance of this machine's clock from the servers' time.
    pub(crate) fn off(&self) -> Duration {
        Duration::from_micros(self.offset.unsigned_abs())
    }

    /// Lead of this machine's clock, in microseconds.
    pub(crate) fn ahead(&self) -> i64 {
        self.offset
    }

    pub(crate) fn event(&self) -> serde_json::Value {
        let mut event = event(self.offset, self.error);
        (event["answered"], event["asked"]) = (self.answered.into(), self.asked.into());
        event
    }

    pub(crate) fn text(&self) -> String {
        let Told { offset, error, answered, asked } = *self;
        let (ms, error) = (offset.unsigned_abs() as f64 / 1e3, error.as_secs_f64() * 1e3);
        let where_to = if offset < 0 { "behind" } else { "ahead" };
        format!(
            "this clock is {ms:.3} ms {where_to}, give or take {error:.3} ms ({answered} of {asked} servers answered)"
        )
    }
}

/// Makes the event about this machine's clock, which is `ahead` microseconds ahead of the time servers.
pub(crate) fn event(ahead: i64, error: Duration) -> serde_json::Value {
    json!({"event": "clock", "offset_ms": ahead as f64 / 1e3, "error_ms": error.as_secs_f64() * 1e3})
}

/// Asks time servers, and combines their answers.
///
/// # Errors
/// Says why there is no time that they agree on.
pub(crate) async fn ask(servers: &[NtpServer]) -> Result<Told, String> {
    let mut addresses: Vec<(usize, SocketAddr)> = Vec::new();
    for (of, server) in servers.iter().enumerate() {
        if let Ok(found) = tokio::net::lookup_host((&*server.host, server.port)).await {
            addresses.extend(found.take(ADDRESSES).map(|addr| (of, addr)));
        }
    }
    let seed = p2pd_tokio::random_seed().map_err(|why| format!("no random numbers: {why}"))?;
    let [v4, v6] = [bind("0.0.0.0").await, bind("::").await];
    let mono = p2pd_sys::Clock::start();
    let mut clock = Clock::new([], seed, mono.now());
    for (of, addr) in addresses {
        clock.add(mono.now(), of, addr);
    }
    let (mut buffer4, mut buffer6) = ([0; 256], [0; 256]);
    while !clock.is_settled(mono.now()) {
        while let Some((to, data)) = clock.poll_transmit() {
            if let Some(socket) = if to.is_ipv4() { &v4 } else { &v6 } {
                // What cannot be sent gets no answer.
                let _ = socket.send_to(&data, to).await;
            }
        }
        // The last answers are waited for in steps.
        let next = clock.poll_timeout().map_or(LOOK, |at| mono.until(at)).min(LOOK);
        tokio::select! {
            biased;
            got = receive(&v4, &mut buffer4) => clock.handle(mono.now(), got.1, &buffer4[..got.0]),
            got = receive(&v6, &mut buffer6) => clock.handle(mono.now(), got.1, &buffer6[..got.0]),
            () = tokio::time::sleep(next) => {}
        }
        if clock.poll_timeout().is_some_and(|at| at <= mono.now()) {
            clock.handle_timeout(mono.now());
        }
    }
    let now = mono.now();
    let fix = clock.time(now).map_err(|why| why.to_string())?;
    let offset = p2pd_sys::wall_clock(now).wall.micros_since(fix.wall);
    Ok(Told { offset, error: fix.error, answered: clock.answered(), asked: servers.len() })
}

/// Most addresses of a server that are asked.
const ADDRESSES: usize = 4;
/// Longest time between two checks whether the measurement is complete.
const LOOK: Duration = Duration::from_millis(100);

async fn bind(any: &str) -> Option<UdpSocket> {
    let any: IpAddr = any.parse().ok()?;
    UdpSocket::bind((any, 0)).await.ok()
}

/// Receives the next datagram; waits for ever where there is no such socket.
async fn receive(socket: &Option<UdpSocket>, buffer: &mut [u8]) -> (usize, SocketAddr) {
    let Some(socket) = socket else { return std::future::pending().await };
    loop {
        if let Ok(got) = socket.recv_from(buffer).await {
            return got;
        }
        // Errors are those of earlier sends; one that lasts must not keep the processor busy.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
