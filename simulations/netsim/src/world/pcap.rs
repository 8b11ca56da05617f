//! Recorded packets as a file for Wireshark: pcapng (draft-ietf-opsawg-pcapng), with an interface for each place.

use crate::engine::Nanos;

/// Link type (LINKTYPE_ETHERNET). libpcap reads no file in which several interfaces have packets without a link layer.
const ETHERNET: u16 = 1;
/// An Ethernet header up to its type: no addresses.
const NOBODY: [u8; 12] = [0; 12];
const INTERFACE_NAME: u16 = 2;
const TIME_RESOLUTION: u16 = 9;
/// Times are in units of 10^-9 s.
const NANOSECONDS: u8 = 9;

/// Returns the file. Each packet has its time, the number of its place in `places`, and its bytes.
pub(super) fn file<'a>(
    places: &[String],
    packets: impl Iterator<Item = (Nanos, usize, &'a [u8])>,
) -> Vec<u8> {
    let mut out = Vec::new();
    // Byte order, version 1.0, a length that is not said.
    let section = [&0x1a2b_3c4d_u32.to_le_bytes()[..], &[1, 0, 0, 0], &[0xff; 8]].concat();
    block(&mut out, 0x0a0d_0d0a, &section);
    for place in places {
        let mut body = ETHERNET.to_le_bytes().to_vec();
        // Reserved, and no bound on the bytes of a packet.
        body.extend([0; 6]);
        option(&mut body, INTERFACE_NAME, place.as_bytes());
        option(&mut body, TIME_RESOLUTION, &[NANOSECONDS]);
        option(&mut body, 0, &[]);
        block(&mut out, 1, &body);
    }
    for (at, place, bytes) in packets {
        let kind: [u8; 2] =
            if bytes.first().is_some_and(|first| first >> 4 == 6) { [0x86, 0xdd] } else { [8, 0] };
        let length = ((NOBODY.len() + kind.len() + bytes.len()) as u32).to_le_bytes();
        let [high, low] = [(at >> 32) as u32, at as u32].map(u32::to_le_bytes);
        let mut body = [(place as u32).to_le_bytes(), high, low, length, length].concat();
        body.extend(NOBODY);
        body.extend(kind);
        body.extend_from_slice(bytes);
        block(&mut out, 6, &body);
    }
    out
}

fn block(out: &mut Vec<u8>, kind: u32, body: &[u8]) {
    let padded = body.len().next_multiple_of(4);
    let length = (12 + padded as u32).to_le_bytes();
    out.extend(kind.to_le_bytes());
    out.extend(length);
    out.extend_from_slice(body);
    out.resize(out.len() + padded - body.len(), 0);
    out.extend(length);
}

fn option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    out.extend(code.to_le_bytes());
    out.extend((value.len() as u16).to_le_bytes());
    out.extend_from_slice(value);
    out.resize(out.len().next_multiple_of(4), 0);
}
