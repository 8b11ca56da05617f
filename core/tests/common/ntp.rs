//! An NTP server on raw bytes (RFC 5905 section 7.3), honest or not.

use std::net::SocketAddr;
use std::time::Duration;

use p2pd_core::{Instant, NtpServer, SockId};

use super::{Happening, LATENCY, NOON, World};

/// Seconds from 1900 to 1970.
const UNIX_EPOCH: i64 = 2_208_988_800;

pub struct Ntp {
    pub config: NtpServer,
    pub at: SocketAddr,
    /// Lead of the time that the server tells.
    pub ahead: Duration,
    pub silent: bool,
    pub asked: u32,
}

impl World {
    pub fn add_ntp(&mut self) -> usize {
        let n = self.ntps.len();
        let at: SocketAddr = ([198, 51, 100, 80 + n as u8], 123).into();
        let config = NtpServer { host: at.ip().to_string().into(), port: at.port() };
        self.ntps.push(Ntp { config, at, ahead: Duration::ZERO, silent: false, asked: 0 });
        n
    }

    pub(super) fn datagram_to_ntp(&mut self, n: usize, sock: SockId, to: SocketAddr, data: &[u8]) {
        let Some(server) = self.ntps.iter_mut().find(|s| s.at == to) else { return };
        assert_eq!((data.len(), data[0]), (48, 0x23), "a client's request, version 4");
        server.asked += 1;
        if server.silent {
            return;
        }
        let micros = NOON.as_micros()
            + i64::try_from((self.now.since(Instant::ZERO) + LATENCY + server.ahead).as_micros()).unwrap();
        let (seconds, part) = (micros.div_euclid(1_000_000) + UNIX_EPOCH, micros.rem_euclid(1_000_000));
        let mut time = [0; 8];
        time[..4].copy_from_slice(&(seconds as u32).to_be_bytes());
        time[4..].copy_from_slice(&(((part << 32) / 1_000_000) as u32).to_be_bytes());
        let mut answer = vec![0; 48];
        // A server of stratum 2 with a precision of a microsecond.
        (answer[0], answer[1], answer[3]) = (0x24, 2, -20_i8 as u8);
        answer[24..32].copy_from_slice(&data[40..48]);
        answer[32..40].copy_from_slice(&time);
        answer[40..48].copy_from_slice(&time);
        self.schedule(2 * LATENCY, Happening::Datagram { n, sock, from: to, data: answer });
    }
}
