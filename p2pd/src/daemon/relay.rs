//! Clients that have a pipe for themselves: an HTTP connection that becomes it, and a WebSocket.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{self, WebSocket};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::Daemon;
use super::connection::Borrowed;
use crate::metrics::Count;
use crate::talk::Gather;

/// Bytes copied at a time.
const CHUNK: usize = 128 * 1024;
/// Time that a client that has ended its sending waits for a silent peer.
const SILENCE: Duration = Duration::from_secs(60);

/// The HTTP connection is the pipe from now on: bytes both ways, and the end of one is the end of the other. When both
/// directions have ended, or one broke, the connection is closed.
pub(super) async fn stream(
    daemon: &Daemon,
    mut borrowed: Borrowed,
    first: Bytes,
    client: impl AsyncRead + AsyncWrite,
) {
    let connection = borrowed.connection.clone();
    let waiting: Vec<Bytes> = std::iter::from_fn(|| borrowed.waiting()).collect();
    let Some((from_peer, to_peer)) = borrowed.halves() else { return };
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let up = async {
        to_peer.write_all(&first).await?;
        connection.sent.add(first.len());
        copy(&mut from_client, to_peer, &connection.sent).await
    };
    let down = async {
        for data in waiting {
            to_client.write_all(&data).await?;
        }
        copy(from_peer, &mut to_client, &connection.received).await
    };
    tokio::pin!(up, down);
    let whole = tokio::select! {
        ended = &mut up => ended.is_ok() && {
            // A client that has left looks the same from here, and needs its name no more.
            daemon.free(&connection);
            // What still comes is still for the client, which cannot be seen to leave if nothing comes.
            let mut before = connection.received.get();
            loop {
                match tokio::time::timeout(SILENCE, &mut down).await {
                    Ok(ended) => break ended.is_ok(),
                    Err(_) if connection.received.get() == before => break false,
                    Err(_) => before = connection.received.get(),
                }
            }
        },
        ended = &mut down => ended.is_ok() && up.await.is_ok(),
    };
    if !whole {
        connection.cut();
    }
    daemon.remove(&connection);
}

/// Copies to the end, which is passed on.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    count: &Count,
) -> std::io::Result<()> {
    let (mut from, mut buffer) = (Gather::new(from), vec![0; CHUNK]);
    to.flush().await?;
    loop {
        let n = from.read(&mut buffer).await?;
        if n == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..n]).await?;
        to.flush().await?;
        count.add(n);
    }
}

/// Messages both ways until either side ends. The connection is open afterwards, unless its peer ended it.
pub(super) async fn web_socket(daemon: Arc<Daemon>, mut borrowed: Borrowed, socket: WebSocket) {
    let connection = borrowed.connection.clone();
    let waiting: Vec<Bytes> = std::iter::from_fn(|| borrowed.waiting()).collect();
    let (mut to_client, mut from_client) = socket.split();
    let peer_ended = {
        let Some((from_peer, to_peer)) = borrowed.halves() else { return };
        let up = async {
            while let Some(Ok(message)) = from_client.next().await {
                let data = match message {
                    ws::Message::Binary(data) => data,
                    ws::Message::Text(text) => text.into(),
                    ws::Message::Close(_) => return false,
                    ws::Message::Ping(_) | ws::Message::Pong(_) => continue,
                };
                if to_peer.write_all(&data).await.is_err() || to_peer.flush().await.is_err() {
                    return true;
                }
                connection.sent.add(data.len());
            }
            false
        };
        let down = async {
            for data in waiting {
                if to_client.send(ws::Message::Binary(data)).await.is_err() {
                    return false;
                }
            }
            let mut buffer = vec![0; CHUNK];
            loop {
                let n = match from_peer.read(&mut buffer).await {
                    Ok(0) | Err(_) => return true,
                    Ok(n) => n,
                };
                connection.received.add(n);
                if to_client.send(ws::Message::Binary(Bytes::copy_from_slice(&buffer[..n]))).await.is_err() {
                    return false;
                }
            }
        };
        tokio::select! { ended = up => ended, ended = down => ended }
    };
    drop(borrowed);
    let _ = tokio::time::timeout(Duration::from_secs(5), to_client.close()).await;
    if peer_ended {
        daemon.remove(&connection);
    }
}
