//! SOCKS5 (RFC 1928) for clients of this machine: CONNECT without a login, by name or address.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::link::NotOpen;
use super::wire::{Answer, Destination, Host};

/// Longest time for a client's two requests.
const REQUESTS: Duration = Duration::from_secs(10);

/// Reads a client's requests up to the destination. A client that wants what there is not is told so.
///
/// # Errors
/// The client's; `InvalidData` if it speaks no SOCKS5, `Unsupported` for what there is not.
pub(super) async fn destination(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
) -> io::Result<Destination> {
    let requests = async {
        let [version, methods] = read(client).await?;
        if version != 5 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut offered = vec![0; methods.into()];
        client.read_exact(&mut offered).await?;
        if !offered.contains(&0) {
            client.write_all(&[5, 0xff]).await?;
            return Err(io::ErrorKind::Unsupported.into());
        }
        client.write_all(&[5, 0]).await?;
        let [version, command, _, kind] = read(client).await?;
        if version != 5 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let host = match kind {
            1 => Some(Host::Ip(Ipv4Addr::from(read::<4>(client).await?).into())),
            4 => Some(Host::Ip(Ipv6Addr::from(read::<16>(client).await?).to_canonical())),
            3 => {
                let [length] = read(client).await?;
                let mut name = vec![0; length.into()];
                client.read_exact(&mut name).await?;
                std::str::from_utf8(&name).ok().and_then(Host::new)
            }
            _ => {
                reply(client, 8).await?;
                return Err(io::ErrorKind::Unsupported.into());
            }
        };
        let port = u16::from_be_bytes(read(client).await?);
        match host {
            _ if command != 1 => reply(client, 7).await?,
            Some(host) => return Ok(Destination { host, port }),
            None => reply(client, 4).await?,
        }
        Err(io::ErrorKind::Unsupported.into())
    };
    timeout(REQUESTS, requests).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// Tells the client what came of it.
///
/// # Errors
/// The client's.
pub(super) async fn told(
    client: &mut (impl AsyncWrite + Unpin),
    came: Result<(), &NotOpen>,
) -> io::Result<()> {
    let code = match came {
        Ok(()) => 0,
        Err(NotOpen::Answered(Answer::NotAllowed)) => 2,
        Err(NotOpen::Answered(Answer::Refused)) => 5,
        Err(NotOpen::Answered(Answer::TimedOut | Answer::Unreachable)) => 4,
        Err(NotOpen::NoSession | NotOpen::Broke(_)) => 3,
        Err(NotOpen::Answered(_) | NotOpen::Left) => 1,
    };
    reply(client, code).await
}

/// The address that it is reached from is the exposer's matter, so it is all zeros.
async fn reply(client: &mut (impl AsyncWrite + Unpin), code: u8) -> io::Result<()> {
    client.write_all(&[5, code, 0, 1, 0, 0, 0, 0, 0, 0]).await
}

async fn read<const N: usize>(client: &mut (impl AsyncRead + Unpin)) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    client.read_exact(&mut bytes).await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a client's bytes. Returns the destination, and the answers to the client.
    async fn asks(bytes: &[u8]) -> (Result<String, io::ErrorKind>, Vec<u8>) {
        let (mut near, mut far) = tokio::io::duplex(1024);
        near.write_all(bytes).await.unwrap();
        near.shutdown().await.unwrap();
        let came = destination(&mut far).await.map(|to| to.to_string()).map_err(|why| why.kind());
        drop(far);
        let mut told = Vec::new();
        near.read_to_end(&mut told).await.unwrap();
        (came, told)
    }

    #[tokio::test]
    async fn names_and_addresses_are_read_and_all_else_is_refused_by_its_code() {
        let ok = |text: &str| Ok(text.to_owned());
        let name = [&[5, 1, 0, 5, 1, 0, 3, 9][..], b"a.Example", &[0, 80]].concat();
        let odd = [&[5, 1, 0, 5, 1, 0, 3, 3][..], b"a/b", &[0, 80]].concat();
        let v6 = [&[5, 2, 2, 0, 5, 1, 0, 4][..], &Ipv6Addr::LOCALHOST.octets(), &[1, 187]].concat();
        let unsupported = Err(io::ErrorKind::Unsupported);
        let code = |code| [&[5, 0, 5, code, 0, 1][..], &[0; 6]].concat();
        for (bytes, came, told) in [
            (&name[..], ok("a.example:80"), vec![5, 0]),
            (&v6, ok("[::1]:443"), vec![5, 0]),
            (&[5, 1, 0, 5, 1, 0, 1, 192, 0, 2, 1, 0, 22], ok("192.0.2.1:22"), vec![5, 0]),
            (&odd, unsupported.clone(), code(4)),
            // BIND and UDP ASSOCIATE.
            (&[5, 1, 0, 5, 2, 0, 1, 192, 0, 2, 1, 0, 22], unsupported.clone(), code(7)),
            (&[5, 1, 0, 5, 3, 0, 1, 192, 0, 2, 1, 0, 22], unsupported.clone(), code(7)),
            (&[5, 1, 0, 5, 1, 0, 9], unsupported.clone(), code(8)),
            // A login alone.
            (&[5, 1, 2], unsupported, vec![5, 0xff]),
            // SOCKS4, HTTP, and an end too soon.
            (&[4, 1], Err(io::ErrorKind::InvalidData), vec![]),
            (b"GET / HTTP/1.1\r\n", Err(io::ErrorKind::InvalidData), vec![]),
            (&[5, 1, 0, 5, 1], Err(io::ErrorKind::UnexpectedEof), vec![5, 0]),
        ] {
            assert_eq!(asks(bytes).await, (came, told), "{}", bytes.escape_ascii());
        }
    }

    #[tokio::test]
    async fn each_refusal_has_its_code() {
        for (came, code) in [
            (None, 0),
            (Some(NotOpen::Answered(Answer::NotAllowed)), 2),
            (Some(NotOpen::Answered(Answer::Refused)), 5),
            (Some(NotOpen::Answered(Answer::Unreachable)), 4),
            (Some(NotOpen::Answered(Answer::Busy)), 1),
            (Some(NotOpen::NoSession), 3),
        ] {
            let mut said = Vec::new();
            told(&mut said, came.as_ref().map_or(Ok(()), Err)).await.unwrap();
            assert_eq!(said, [5, code, 0, 1, 0, 0, 0, 0, 0, 0]);
        }
    }
}
