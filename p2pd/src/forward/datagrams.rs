//! Datagrams of UDP on a stream, each behind its length. Nothing waits for a slow session: while the stream takes no
//! more, the socket is not read, and the system drops what comes.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use p2pd_tokio::{RecvStream, SendStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;

use super::copy::Stream;
use crate::quiet::Quiet;

/// Silence after which the datagrams of a client are over, as NATs have it (RFC 4787, REQ-5).
pub(super) const IDLE: Duration = Duration::from_secs(120);
/// The most bytes of a datagram over UDP and IPv4.
pub(super) const MOST: usize = 65_507;

/// Writes a datagram behind its length.
///
/// # Errors
/// The stream's; `InvalidInput` for more than 65,507 bytes.
pub(super) async fn write(to: &mut SendStream, data: &[u8]) -> io::Result<()> {
    let length = u16::try_from(data.len()).ok().filter(|_| data.len() <= MOST);
    let length = length.ok_or(io::ErrorKind::InvalidInput)?;
    let framed = [&length.to_be_bytes()[..], data].concat();
    to.write_all(&framed).await
}

/// Reads a datagram; `None` at the end.
///
/// # Errors
/// The stream's; `UnexpectedEof` for an end within a datagram.
pub(super) async fn read(from: &mut RecvStream) -> io::Result<Option<Bytes>> {
    let mut length = [0; 2];
    if from.read(&mut length[..1]).await? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut length[1..]).await?;
    let mut data = vec![0; u16::from_be_bytes(length).into()];
    from.read_exact(&mut data).await?;
    Ok(Some(data.into()))
}

/// Carries datagrams between a socket that is connected to a service and a stream, until either is silent or over.
pub(super) async fn serve(socket: UdpSocket, (send, recv): &mut Stream) {
    let quiet = Quiet::new();
    let up = async {
        let mut buffer = vec![0; MOST];
        loop {
            match socket.recv(&mut buffer).await {
                Ok(n) => {
                    quiet.now();
                    write(send, &buffer[..n]).await?;
                }
                // Nothing listened there when a datagram came; the next one may be answered.
                Err(why) if why.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(why) => return Err::<(), _>(why),
            }
        }
    };
    let down = async {
        while let Some(data) = read(recv).await? {
            quiet.now();
            // One that the system does not take is lost, as on any way.
            let _ = socket.send(&data).await;
        }
        io::Result::Ok(())
    };
    tokio::select! {
        _ = up => {}
        _ = down => {}
        () = quiet.over(IDLE) => {}
    }
}
