//! FINGERPRINT (RFC 8489 section 14.7): a checksum that tells STUN from what else comes to a port.

use crc::{CRC_32_ISO_HDLC, Crc};

use super::guard::{FINGERPRINT, STUN_HEADER, StunView};

/// CRC-32 of ITU V.42.
const CRC: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
/// "STUN" in ASCII.
const FINGERPRINT_XOR: u32 = 0x5354_554e;
const FINGERPRINT_SIZE: usize = 4 + 4;

/// Returns true if the message's FINGERPRINT is right. A message without one passes.
pub fn fingerprint_fits(message: StunView<'_>) -> bool {
    let bytes = message.bytes();
    let Some(at) = message.fingerprint() else { return true };
    let (Some(covered), Some(stated)) = (bytes.get(..at), bytes.get(at + 4..)) else { return false };
    stated == checksum(covered).to_be_bytes()
}

/// Appends FINGERPRINT, always last.
pub fn append_fingerprint(message: &mut Vec<u8>) {
    message.extend_from_slice(&[0; FINGERPRINT_SIZE]);
    set_length(message);
    let at = message.len() - FINGERPRINT_SIZE;
    let crc = checksum(&message[..at]);
    message.truncate(at);
    message.extend_from_slice(&FINGERPRINT.to_be_bytes());
    message.extend_from_slice(&4u16.to_be_bytes());
    message.extend_from_slice(&crc.to_be_bytes());
}

/// Writes a message's length into its header.
pub(super) fn set_length(message: &mut [u8]) {
    let length = message.len().saturating_sub(STUN_HEADER) as u16;
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

fn checksum(covered: &[u8]) -> u32 {
    CRC.checksum(covered) ^ FINGERPRINT_XOR
}
