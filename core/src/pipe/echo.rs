//! The echo service of the P2PD documents.

/// Returns the answer of the echo service to a message: for `ECHO ` and a payload, the payload; for anything else
/// nothing. On an encrypted pipe a message is a record; on a plain one it is the result of one read.
pub fn echo_reply(message: &[u8]) -> Option<&[u8]> {
    message.strip_prefix(b"ECHO ").filter(|payload| !payload.is_empty())
}

#[cfg(test)]
mod tests {
    use super::echo_reply;

    #[test]
    fn only_the_word_and_a_payload_are_answered() {
        assert_eq!(echo_reply(b"ECHO hello, world!"), Some(b"hello, world!".as_slice()));
        assert_eq!(echo_reply(b"ECHO  "), Some(b" ".as_slice()));
        for other in [b"".as_slice(), b"ECHO", b"ECHO ", b"echo x", b" ECHO x", b"ECHOx"] {
            assert_eq!(echo_reply(other), None);
        }
    }
}
