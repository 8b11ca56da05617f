//! Pipes that are linked: relays, their back-pressure and their ends.

use std::io::ErrorKind;

use p2pd_tokio::messages::{End, MessagePipe, Overflow, Pattern, PipeOptions, Queue, RecvError, SendError};

use crate::pipes::read_ahead;
use crate::{LONG, WHILE, bytes, everything, patterned, rest, tcp, udp};

/// A client, the relay's two pipes, and the server behind it.
async fn chain() -> [MessagePipe; 4] {
    let ((client, near), (far, server)) = tokio::join!(tcp(), tcp());
    [client, near, far, server]
}

#[tokio::test]
async fn what_comes_on_one_pipe_goes_down_the_other_until_they_are_unlinked() {
    let [client, near, far, server] = chain().await;
    near.add_pipe(&far);
    near.add_pipe(&far);
    far.add_pipe(&near);
    let (at_client, at_server) = (everything(&client), everything(&server));
    client.send(b"question").await.unwrap();
    assert_eq!(bytes(&server, at_server, 8).await, b"question");
    server.send(b"answer").await.unwrap();
    assert_eq!(bytes(&client, at_client, 6).await, b"answer");
    assert!(near.del_pipe(&far) && !near.del_pipe(&far));
    client.send(b"unheard").await.unwrap();
    assert_eq!(server.recv(at_server, WHILE).await, Err(RecvError::TimedOut));
    // Nobody wanted it, so nobody has read it.
    let at_near = everything(&near);
    assert_eq!(bytes(&near, at_near, 7).await, b"unheard");
}

#[tokio::test]
async fn a_server_that_does_not_read_makes_the_client_wait_and_nothing_is_lost() {
    let [client, near, far, server] = chain().await;
    near.join(&far);
    // The link holds them.
    drop((near, far));
    // More than the system's buffers of two connections take.
    let data = patterned(48 << 20);
    let sending = tokio::spawn({
        let data = data.clone();
        async move {
            client.send(&data).await.unwrap();
            client.finish().await.unwrap();
            client
        }
    });
    tokio::time::sleep(WHILE * 3).await;
    assert!(!sending.is_finished());
    let queue = Queue { overflow: Overflow::StopReading, ..Queue::default() };
    let all = server.subscribe_with(Pattern::ANY, Pattern::ANY, queue).unwrap();
    let (came, why) = rest(&server, all).await;
    assert!(came == data, "{} of {} bytes", came.len(), data.len());
    assert_eq!(why, RecvError::Ended(End::Peer));
    // The other direction still is as it was.
    let client = sending.await.unwrap();
    let at_client = everything(&client);
    server.send(b"thanks").await.unwrap();
    server.close().await;
    assert_eq!(rest(&client, at_client).await, (b"thanks".to_vec(), RecvError::Ended(End::Peer)));
}

#[tokio::test]
async fn a_relay_of_messages_keeps_ends_to_itself_and_a_joined_one_passes_them_on() {
    let [client, near, far, server] = chain().await;
    near.add_pipe(&far);
    let at_server = everything(&server);
    client.send(b"x").await.unwrap();
    client.finish().await.unwrap();
    assert_eq!(near.ended().await, End::Peer);
    assert_eq!(bytes(&server, at_server, 1).await, b"x");
    assert_eq!(server.recv(at_server, WHILE).await, Err(RecvError::TimedOut));
    assert_eq!(far.send(b"y").await, Ok(()));

    // Also one that was there before they were joined.
    let [client, near, far, server] = chain().await;
    let (at_near, at_server) = (everything(&near), everything(&server));
    client.finish().await.unwrap();
    assert_eq!(near.ended().await, End::Peer);
    assert_eq!(near.waiting(at_near), Some(0));
    near.join(&far);
    assert_eq!(server.recv(at_server, LONG).await, Err(RecvError::Ended(End::Peer)));
}

#[tokio::test]
async fn what_was_read_ahead_of_an_end_goes_down_the_links_that_come_after_it() {
    for joined in [false, true] {
        let (client, near) = read_ahead(&["one", "two"]).await;
        let (far, server) = tcp().await;
        if joined {
            near.join(&far)
        } else {
            near.add_pipe(&far)
        }
        let at_server = everything(&server);
        assert_eq!(bytes(&server, at_server, 6).await, b"onetwo");
        if joined {
            assert_eq!(server.recv(at_server, LONG).await, Err(RecvError::Ended(End::Peer)));
            // The other direction goes on.
            let at_client = everything(&client);
            server.send(b"answer").await.unwrap();
            assert_eq!(bytes(&client, at_client, 6).await, b"answer");
        }
    }
}

#[tokio::test]
async fn a_relay_that_breaks_is_seen_to_at_its_other_end() {
    let [client, near, far, server] = chain().await;
    near.join(&far);
    everything(&client);
    server.abort().await;
    assert_eq!(client.ended().await, End::Failed(ErrorKind::ConnectionReset));
    assert_eq!(near.send(b"x").await, Err(SendError::Ended));
    assert_eq!(near.ended().await, End::Closed);
    // A link that cannot be sent to goes, and its pipe goes on.
    let [client, near, far, _server] = chain().await;
    near.add_pipe(&far);
    far.close().await;
    client.send(b"one").await.unwrap();
    crate::until(|| !near.del_pipe(&far)).await;
    let at_near = everything(&near);
    client.send(b"two").await.unwrap();
    let came = bytes(&near, at_near, 3).await;
    assert!(came == b"two" || came == b"onetwo", "{came:?}");
}

#[tokio::test]
async fn a_pipe_added_to_itself_is_an_echo_and_datagrams_go_to_streams() {
    let (ours, theirs) = tcp().await;
    theirs.add_pipe(&theirs);
    drop(theirs);
    let at_ours = everything(&ours);
    ours.send(b"echo").await.unwrap();
    assert_eq!(bytes(&ours, at_ours, 4).await, b"echo");

    let (server, client) = udp(&PipeOptions::default()).await;
    let (near, far) = tcp().await;
    server.add_pipe(&near);
    let at_far = everything(&far);
    client.send(b"by datagram").await.unwrap();
    assert_eq!(bytes(&far, at_far, 11).await, b"by datagram");
}
