//! NTP packets (RFC 5905 section 7.3): 48 bytes each way.

use bytes::Bytes;

const LENGTH: usize = 48;
/// No leap warning, version 4, client.
const CLIENT: u8 = 4 << 3 | 3;
const MODE_SERVER: u8 = 4;
/// Seconds from 1900 to 1970.
const UNIX_EPOCH: i64 = 2_208_988_800;
const SECOND: i64 = 1_000_000_000;
/// A server farther away from its reference than this is not synchronised (MAXDIST is 1 s).
const MAX_ROOT_DISTANCE: i64 = SECOND;
/// Highest stratum: 16 is unsynchronised (section 7.3).
const MAX_STRATUM: u8 = 15;

/// Builds a request that says nothing but a random number, which the answer repeats.
pub(super) fn request(cookie: u64) -> Bytes {
    let mut bytes = [0; LENGTH];
    bytes[0] = CLIENT;
    bytes[40..].copy_from_slice(&cookie.to_be_bytes());
    Bytes::copy_from_slice(&bytes)
}

/// Answer of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Answer {
    /// The request's transmit timestamp.
    pub(super) origin: u64,
    /// Nanoseconds since the Unix epoch, as all that follows.
    pub(super) receive: i64,
    pub(super) transmit: i64,
    /// The server's own error: half its root delay, its root dispersion and its precision.
    pub(super) root_distance: i64,
    pub(super) kiss: Option<Kiss>,
    alarm: bool,
    stratum: u8,
}

impl Answer {
    pub(super) fn is_synchronised(&self) -> bool {
        !self.alarm && (1..=MAX_STRATUM).contains(&self.stratum) && self.root_distance <= MAX_ROOT_DISTANCE
    }
}

/// A kiss of death (section 7.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kiss {
    /// RATE: ask less often.
    Rate,
    /// DENY, RSTR: do not ask any more.
    Deny,
    /// A reason without consequence for us.
    Other,
}

/// Reads an answer, with or without extensions and MAC; `None` for bytes that are none.
pub(super) fn parse(data: &[u8]) -> Option<Answer> {
    let body: &[u8; LENGTH] = data.first_chunk()?;
    let u32_at = |at: usize| u32::from_be_bytes([body[at], body[at + 1], body[at + 2], body[at + 3]]);
    let (leap, version, mode) = (body[0] >> 6, body[0] >> 3 & 7, body[0] & 7);
    if mode != MODE_SERVER || !(3..=4).contains(&version) {
        return None;
    }
    let (stratum, precision) = (body[1], body[3] as i8);
    let kiss = (stratum == 0).then(|| match &body[12..16] {
        b"RATE" => Kiss::Rate,
        b"DENY" | b"RSTR" => Kiss::Deny,
        _ => Kiss::Other,
    });
    let (receive, transmit) = (time(u32_at(32), u32_at(36)), time(u32_at(40), u32_at(44)));
    // A timestamp of zero is none at all; a kiss needs none.
    if kiss.is_none() && (body[32..40] == [0; 8] || body[40..48] == [0; 8]) {
        return None;
    }
    // Seconds in 16.16 bits, rounded up.
    let short = |raw: u32| ((i64::from(raw) * SECOND) >> 16) + 1;
    let precision = match precision {
        ..=-30 => 1,
        -29..=0 => SECOND >> -precision,
        1.. => MAX_ROOT_DISTANCE,
    };
    Some(Answer {
        origin: u64::from(u32_at(24)) << 32 | u64::from(u32_at(28)),
        receive,
        transmit,
        root_distance: short(u32_at(4)) / 2 + short(u32_at(8)) + precision,
        kiss,
        alarm: leap == 3,
        stratum,
    })
}

/// Reads a timestamp of 32.32 bits. The highest bit tells 1968 to 2036 from 2036 to 2104 (RFC 4330 section 3).
fn time(seconds: u32, fraction: u32) -> i64 {
    let era = if seconds & 1 << 31 == 0 { 1_i64 << 32 } else { 0 };
    (era + i64::from(seconds) - UNIX_EPOCH) * SECOND + ((i64::from(fraction) * SECOND) >> 32)
}

/// Builds a server's answer, for tests. Times are nanoseconds since the Unix epoch.
#[cfg(test)]
pub(super) fn answer(request: &[u8], receive: i64, transmit: i64, dispersion: i64) -> [u8; LENGTH] {
    let stamp = |t: i64| {
        let seconds = (t.div_euclid(SECOND) + UNIX_EPOCH) as u32;
        let fraction = (t.rem_euclid(SECOND) as i128 * (1_i128 << 32) / i128::from(SECOND)) as u32;
        (u64::from(seconds) << 32 | u64::from(fraction)).to_be_bytes()
    };
    let mut bytes = [0; LENGTH];
    bytes[..4].copy_from_slice(&[4 << 3 | MODE_SERVER, 2, 6, -25_i8 as u8]);
    bytes[8..12].copy_from_slice(&((dispersion << 16) / SECOND).to_be_bytes()[4..]);
    bytes[24..32].copy_from_slice(&request[40..48]);
    bytes[32..40].copy_from_slice(&stamp(receive));
    bytes[40..48].copy_from_slice(&stamp(transmit));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_and_every_cut_refused() {
        let now = 1_700_000_000 * SECOND + 250_000_000;
        let bytes = answer(&request(77), now, now + 1000, 3 * SECOND / 2);
        let read = parse(&bytes).unwrap();
        // 2^-32 s is 0.23 ns: what is written and read may lose a nanosecond.
        assert!((0..=1).contains(&(now - read.receive)) && (0..=1).contains(&(now + 1000 - read.transmit)));
        assert_eq!((read.origin, read.root_distance), (77, 1_500_000_000 + 1 + SECOND / (1 << 25)));
        assert!(!read.is_synchronised(), "1.5 s off");
        for n in 0..LENGTH {
            assert_eq!(parse(&bytes[..n]), None, "{n}");
        }
        assert_eq!(parse(&[&bytes[..], &[9; 20]].concat()), Some(read), "a MAC follows");
        assert_eq!(parse(&request(77)), None, "our own request");
        assert_eq!(parse(&[0xff; 48]), None);
    }

    #[test]
    fn eras_meet_in_2036() {
        let (last, first) = (time(u32::MAX, 0), time(0, 0));
        assert_eq!((last / SECOND, first / SECOND), (2_085_978_495, 2_085_978_496));
    }

    #[test]
    fn servers_without_time_say_so() {
        let now = 1_700_000_000 * SECOND;
        let good = answer(&request(77), now, now, 0);
        assert!(parse(&good).unwrap().is_synchronised());
        for (at, byte) in [(0, 0xe4), (1, 16), (3, 1)] {
            let mut bytes = good;
            bytes[at] = byte;
            assert!(!parse(&bytes).unwrap().is_synchronised(), "{at}");
        }
        for (code, kiss) in
            [(b"RATE", Kiss::Rate), (b"DENY", Kiss::Deny), (b"RSTR", Kiss::Deny), (b"INIT", Kiss::Other)]
        {
            let mut bytes = good;
            bytes[1] = 0;
            bytes[12..16].copy_from_slice(code);
            bytes[32..].fill(0);
            assert_eq!(parse(&bytes).unwrap().kiss, Some(kiss));
        }
        let mut zero = good;
        zero[40..].fill(0);
        assert_eq!(parse(&zero), None);
    }
}
