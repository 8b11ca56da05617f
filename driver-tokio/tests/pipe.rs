//! Pipes as byte streams: back-pressure, ends, damage on the way, and the echo service.

mod common;

use std::io::ErrorKind;
use std::time::Duration;

use common::{LONG, between, config, moved, node, pair, plan};
use p2pd_tokio::{Node, PipeMode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

const MIB: usize = 1024 * 1024;
const BOTH: [PipeMode; 2] = [PipeMode::Encrypted, PipeMode::Plain];

#[tokio::test]
async fn a_writer_waits_for_a_slow_reader_and_loses_nothing() {
    for mode in BOTH {
        let (_a, _b, mut ours, mut theirs) = pair(mode, false).await;
        let chunk: Vec<u8> = (0..65_536_u32).map(|n| (n % 251) as u8).collect();
        let mut sent = 0;
        // Nobody reads: the system's buffers fill, and then the writer stalls for good.
        while let Ok(n) = timeout(Duration::from_millis(500), ours.write(&chunk[sent % chunk.len()..])).await
        {
            sent += n.unwrap();
            assert!(sent < 64 * MIB, "{mode}: a writer that never waits");
        }
        let reader = tokio::spawn(async move {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).await.unwrap();
            all
        });
        ours.shutdown().await.unwrap();
        let all = timeout(LONG, reader).await.unwrap().unwrap();
        assert_eq!(all.len(), sent, "{mode}");
        assert!(all.chunks(chunk.len()).all(|c| c == &chunk[..c.len()]), "{mode}");
    }
}

/// A write that returned has taken its bytes. They must reach the peer while their writer waits for the
/// answer, as with a bare socket, or both wait for ever.
#[tokio::test]
async fn what_was_written_leaves_while_its_writer_only_reads() {
    for mode in BOTH {
        let (_a, _b, mut ours, mut theirs) = pair(mode, false).await;
        let mut sent = 0;
        // Until the system takes no more, so that the last records wait in the pipe.
        while let Ok(n) = timeout(Duration::from_millis(500), ours.write(&[7; 16_384])).await {
            sent += n.unwrap();
        }
        let answer = tokio::spawn(async move {
            theirs.read_exact(&mut vec![0; sent]).await.unwrap();
            theirs.write_all(b"got it").await.unwrap();
            theirs.flush().await.unwrap();
            theirs
        });
        let mut word = [0; 6];
        timeout(Duration::from_secs(20), ours.read_exact(&mut word)).await.expect("stuck").unwrap();
        assert_eq!(&word, b"got it", "{mode}");
        answer.await.unwrap();
    }
}

/// The same with the halves in two tasks, of which the reader waited before the writer began.
#[tokio::test]
async fn what_a_finished_writer_left_is_sent_by_a_reader_that_waits() {
    let (_a, _b, ours, mut theirs) = pair(PipeMode::Encrypted, false).await;
    let (mut read, mut write) = tokio::io::split(ours);
    let reader = tokio::spawn(async move {
        let mut word = [0; 6];
        read.read_exact(&mut word).await.unwrap();
        word
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut sent = 0;
    while let Ok(n) = timeout(Duration::from_millis(500), write.write(&[7; 16_384])).await {
        sent += n.unwrap();
    }
    timeout(Duration::from_secs(20), theirs.read_exact(&mut vec![0; sent])).await.expect("stuck").unwrap();
    theirs.write_all(b"got it").await.unwrap();
    theirs.flush().await.unwrap();
    assert_eq!(&timeout(LONG, reader).await.unwrap().unwrap(), b"got it");
    drop(write);
}

#[tokio::test]
async fn a_cut_and_a_changed_byte_are_told_from_an_end() {
    let (a, b) = (node().await, node().await);
    let to = b.address().await;
    let here = ([127, 0, 0, 1], to.v4()[0].port).into();
    for damage in [false, true] {
        let (port, streams) = between(here).await;
        let way = tokio::spawn(async move {
            let (mut near, mut far) = streams.await.unwrap();
            let (mut near_read, mut near_write) = near.split();
            let (mut far_read, mut far_write) = far.split();
            let back = tokio::io::copy(&mut far_read, &mut near_write);
            let there = async {
                let (mut buffer, mut passed) = ([0; 4096], 0);
                loop {
                    let n = near_read.read(&mut buffer).await.unwrap();
                    passed += n;
                    // The hello takes some 200 bytes; the pipe's 10,000 come after it.
                    if n == 0 || passed > 9_000 {
                        if damage && n > 0 {
                            buffer[n - 1] ^= 1;
                            far_write.write_all(&buffer[..n]).await.unwrap();
                            tokio::time::sleep(Duration::from_millis(300)).await;
                        }
                        return;
                    }
                    far_write.write_all(&buffer[..n]).await.unwrap();
                }
            };
            tokio::select! { _ = back => {}, () = there => {} }
        });
        let by_the_proxy = moved(&to, port);
        let (ours, theirs) = tokio::join!(a.connect(&by_the_proxy), b.accept());
        let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
        for part in 0..10_u8 {
            let _ = ours.write_all(&[part; 1000]).await;
            let _ = ours.flush().await;
        }
        let mut got = Vec::new();
        let bad = timeout(LONG, theirs.read_to_end(&mut got)).await.unwrap().unwrap_err();
        let expected = if damage { ErrorKind::InvalidData } else { ErrorKind::UnexpectedEof };
        assert_eq!(bad.kind(), expected, "{bad}");
        assert!(got.len().is_multiple_of(1000) && got.len() < 10_000, "whole records only: {}", got.len());
        way.await.unwrap();
    }
}

#[tokio::test]
async fn the_echo_service_answers_and_delivers() {
    for mode in BOTH {
        let (_a, _b, mut ours, mut theirs) = pair(mode, true).await;
        let mut buffer = [0; 64];
        for small in [false, true] {
            ours.write_all(b"ECHO hello, world!").await.unwrap();
            let n = if small {
                // Less room than a record: the answer must be whole all the same.
                let n = theirs.read(&mut buffer[..5]).await.unwrap();
                n + theirs.read(&mut buffer[n..]).await.unwrap()
            } else {
                theirs.read(&mut buffer).await.unwrap()
            };
            assert_eq!(&buffer[..n], b"ECHO hello, world!", "{mode}");
            if mode == PipeMode::Encrypted || !small {
                let n = timeout(LONG, ours.read(&mut buffer)).await.unwrap().unwrap();
                assert_eq!(&buffer[..n], b"hello, world!", "{mode}");
            } else {
                // On a plain pipe what one read returns is the message.
                return;
            }
        }
        ours.write_all(b"echo no").await.unwrap();
        ours.shutdown().await.unwrap();
        let mut rest = Vec::new();
        theirs.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"echo no");
        theirs.shutdown().await.unwrap();
        let mut nothing = Vec::new();
        ours.read_to_end(&mut nothing).await.unwrap();
        assert_eq!(nothing, b"");
    }
}

#[tokio::test]
async fn the_echo_service_answers_while_nobody_reads_and_keeps_what_it_heard() {
    for mode in BOTH {
        let (_a, _b, mut ours, mut theirs) = pair(mode, true).await;
        let mut buffer = [0; 64];
        for text in ["ECHO one", "ECHO and another"] {
            ours.write_all(text.as_bytes()).await.unwrap();
            ours.flush().await.unwrap();
            let n = timeout(LONG, ours.read(&mut buffer)).await.unwrap().unwrap();
            assert_eq!(&buffer[..n], &text.as_bytes()[5..], "{mode}");
        }
        // The reader that comes late misses nothing, and is answered to as before.
        let mut heard = [0; 24];
        theirs.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard[..], b"ECHO oneECHO and another", "{mode}");
        let (sent, read) = tokio::join!(ours.write_all(b"ECHO again"), theirs.read(&mut buffer));
        sent.unwrap();
        assert_eq!(&buffer[..read.unwrap()], b"ECHO again", "{mode}");
        let n = timeout(LONG, ours.read(&mut buffer)).await.unwrap().unwrap();
        assert_eq!(&buffer[..n], b"again", "{mode}");
        ours.shutdown().await.unwrap();
        let mut rest = Vec::new();
        timeout(LONG, theirs.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert_eq!(rest, b"", "{mode}");
    }
}

#[tokio::test]
async fn nobody_is_read_without_end_for_the_echo_service_and_a_dropped_pipe_ends() {
    for mode in BOTH {
        let (_a, _b, mut ours, mut theirs) = pair(mode, true).await;
        // More than is read ahead and than sockets hold.
        let flood = vec![7; 32 << 20];
        let sent = timeout(Duration::from_secs(2), ours.write_all(&flood)).await;
        assert!(sent.is_err(), "{mode}: somebody has read 32 MiB for nobody");
        let mut buffer = vec![0; 1 << 20];
        let n = timeout(LONG, theirs.read(&mut buffer)).await.unwrap().unwrap();
        assert!(n > 0 && buffer[..n].iter().all(|byte| *byte == 7), "{mode}");
        drop(theirs);
        let ended = timeout(LONG, async { while ours.read(&mut buffer).await.is_ok_and(|n| n > 0) {} }).await;
        assert!(ended.is_ok(), "{mode}");
    }
}

#[tokio::test]
async fn a_pipe_with_echo_that_has_ended_its_own_direction_goes_on_reading() {
    for mode in BOTH {
        let (_a, _b, mut ours, mut theirs) = pair(mode, true).await;
        theirs.shutdown().await.unwrap();
        ours.write_all(b"ECHO too late").await.unwrap();
        ours.shutdown().await.unwrap();
        let mut all = Vec::new();
        timeout(LONG, theirs.read_to_end(&mut all)).await.unwrap().unwrap();
        assert_eq!(all, b"ECHO too late", "{mode}");
        let mut nothing = Vec::new();
        ours.read_to_end(&mut nothing).await.unwrap();
        assert_eq!(nothing, b"", "{mode}");
    }
}

/// Places for peers are reckoned by this number.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_pipe_with_echo_has_as_many_descriptors_as_are_reckoned() {
    use std::os::fd::{AsFd, AsRawFd};
    for mode in BOTH {
        let (_a, _b, ours, theirs) = pair(mode, true).await;
        for pipe in [ours, theirs] {
            let socket = |fd: &std::path::Path| std::fs::read_link(fd).ok();
            let open = std::fs::read_dir("/proc/self/fd").unwrap().map(|fd| socket(&fd.unwrap().path()));
            let open: Vec<_> = open.flatten().collect();
            let this = format!("/proc/self/fd/{}", pipe.as_fd().as_raw_fd());
            let this = socket(this.as_ref()).unwrap();
            let mine = open.iter().filter(|socket| **socket == this).count();
            assert_eq!(mine, p2pd_core::PIPE_DESCRIPTORS, "{mode}");
        }
    }
}

#[tokio::test]
async fn a_reset_is_an_error_also_where_the_echo_service_has_read_ahead() {
    for mode in BOTH {
        let (_a, _b, mut ours, mut theirs) = pair(mode, true).await;
        ours.write_all(b"half").await.unwrap();
        ours.flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        p2pd_sys::socket::reset_on_close(&ours).unwrap();
        drop(ours);
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut all = Vec::new();
        let why = timeout(LONG, theirs.read_to_end(&mut all)).await.unwrap().unwrap_err();
        assert_eq!(why.kind(), ErrorKind::ConnectionReset, "{mode}: {why}");
        assert_eq!(all, b"half", "{mode}");
        assert!(theirs.read(&mut [0; 8]).await.is_err(), "{mode}: an error is no end the next time");
    }
}

/// A peer that reads no replies keeps nobody awake.
#[tokio::test]
async fn replies_that_cannot_be_sent_wake_nobody_until_they_can() {
    let (_a, _b, mut ours, mut theirs) = pair(PipeMode::Encrypted, true).await;
    let small = |pipe: &p2pd_tokio::Pipe| {
        let socket = socket2::SockRef::from(pipe);
        socket.set_send_buffer_size(4096).unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
    };
    small(&ours);
    small(&theirs);
    let message = [&b"ECHO "[..], &[7; 8000]].concat();
    let mut sent = 0;
    while let Ok(done) = timeout(Duration::from_millis(500), ours.write_all(&message)).await {
        done.unwrap();
        sent += 1;
    }
    assert!(sent > 4, "{sent}");
    let metrics = tokio::runtime::Handle::current().metrics();
    let before = metrics.worker_park_count(0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let woken = metrics.worker_park_count(0) - before;
    assert!(woken < 20, "woken {woken} times in a second");
    // Once it reads, it is answered.
    let reader = tokio::spawn(async move {
        let mut all = vec![0; 8000 * 4];
        ours.read_exact(&mut all).await.map(|_| (all, ours))
    });
    let mut heard = vec![0; 8005 * 4];
    timeout(LONG, theirs.read_exact(&mut heard)).await.unwrap().unwrap();
    let (all, _ours) = timeout(LONG, reader).await.unwrap().unwrap().unwrap();
    assert!(all.iter().all(|byte| *byte == 7));
}

#[tokio::test]
async fn who_has_read_what_was_kept_is_answered_again_while_not_reading() {
    let (_a, _b, mut ours, mut theirs) = pair(PipeMode::Encrypted, true).await;
    let filler = vec![7; 160 * 1024];
    ours.write_all(&filler).await.unwrap();
    ours.write_all(b"ECHO there").await.unwrap();
    ours.flush().await.unwrap();
    let mut buffer = vec![0; filler.len()];
    assert!(timeout(Duration::from_millis(300), ours.read(&mut buffer)).await.is_err(), "too much is kept");
    timeout(LONG, theirs.read_exact(&mut buffer[..100 * 1024])).await.unwrap().unwrap();
    let n = timeout(LONG, ours.read(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(&buffer[..n], b"there");
}

/// Two tasks hold the halves of a pipe whose reading half writes as well, for the echo service: neither may
/// take the other's wake-up away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn echo_replies_and_the_users_own_writes_do_not_starve_each_other() {
    let (_a, _b, ours, theirs) = pair(PipeMode::Encrypted, true).await;
    const ROUNDS: usize = 2000;
    let (mut our_read, mut our_write) = tokio::io::split(ours);
    let (mut their_read, mut their_write) = tokio::io::split(theirs);
    let asks = tokio::spawn(async move {
        let mut message = b"ECHO ".to_vec();
        message.resize(8_000, b'e');
        for _ in 0..ROUNDS {
            our_write.write_all(&message).await.unwrap();
        }
        our_write.flush().await.unwrap();
        our_write
    });
    let delivers = tokio::spawn(async move {
        let mut left = ROUNDS * 8_000;
        let mut buffer = vec![0; 32_768];
        while left > 0 {
            left -= their_read.read(&mut buffer).await.unwrap();
        }
        // Replies leave while somebody reads.
        let end = their_read.read(&mut buffer).await.unwrap();
        assert_eq!(end, 0);
    });
    let writes = tokio::spawn(async move {
        for _ in 0..ROUNDS {
            their_write.write_all(&[b'w'; 8_000]).await.unwrap();
        }
        their_write.flush().await.unwrap();
        their_write
    });
    let mut buffer = vec![0; 32_768];
    let (mut echoes, mut own) = (0, 0);
    while echoes < ROUNDS * 7_995 || own < ROUNDS * 8_000 {
        let n = timeout(Duration::from_secs(20), our_read.read(&mut buffer))
            .await
            .unwrap_or_else(|_| panic!("stuck at {echoes} echoed, {own} written"))
            .unwrap();
        assert!(n > 0);
        echoes += buffer[..n].iter().filter(|b| **b == b'e').count();
        own += buffer[..n].iter().filter(|b| **b == b'w').count();
    }
    assert_eq!((echoes, own), (ROUNDS * 7_995, ROUNDS * 8_000));
    asks.await.unwrap().shutdown().await.unwrap();
    delivers.await.unwrap();
    writes.await.unwrap();
}

/// Floods the echo service of an encrypted pipe. On a plain one a message is the content of one read, so that a flood
/// runs together and has no answers.
#[tokio::test]
async fn a_peer_that_never_reads_its_echoes_stops_being_read() {
    let (_a, _b, mut ours, mut theirs) = pair(PipeMode::Encrypted, true).await;
    let reads = tokio::spawn(async move {
        let mut buffer = vec![0; 32_768];
        while theirs.read(&mut buffer).await.unwrap() > 0 {}
    });
    let mut message = b"ECHO ".to_vec();
    message.resize(16_000, b'e');
    let mut sent = 0;
    while let Ok(written) = timeout(Duration::from_millis(1500), ours.write(&message)).await {
        sent += written.unwrap();
        assert!(sent < 64 * MIB, "nothing stopped it");
    }
    assert!(!reads.is_finished());
    reads.abort();
}

#[tokio::test]
async fn a_pipe_works_in_copy_bidirectional() {
    let (_a, _b, mut front, mut middle) = pair(PipeMode::Encrypted, false).await;
    let (_c, _d, mut onward, mut back) = pair(PipeMode::Plain, false).await;
    let relay = tokio::spawn(async move { tokio::io::copy_bidirectional(&mut middle, &mut onward).await });
    let far = tokio::spawn(async move {
        let mut all = Vec::new();
        back.read_to_end(&mut all).await.unwrap();
        back.write_all(&all).await.unwrap();
        back.shutdown().await.unwrap();
    });
    let data: Vec<u8> = (0..3 * MIB).map(|n| (n % 253) as u8).collect();
    front.write_all(&data).await.unwrap();
    front.shutdown().await.unwrap();
    let mut all = Vec::new();
    timeout(LONG, front.read_to_end(&mut all)).await.unwrap().unwrap();
    assert!(all == data);
    far.await.unwrap();
    relay.await.unwrap().unwrap();
}

/// The end that confirms may send at once; not a byte of it may go astray with the hello.
#[tokio::test]
async fn bytes_that_follow_the_hello_at_once_are_the_users() {
    for round in 0..20 {
        let (a, b) = (node().await, node().await);
        let to = b.address().await;
        let talk = async |pipe: p2pd_tokio::Pipe, word: &'static [u8]| {
            let mut raw = pipe.into_tcp_stream().unwrap();
            raw.write_all(word).await.unwrap();
            raw.shutdown().await.unwrap();
            let mut all = Vec::new();
            raw.read_to_end(&mut all).await.unwrap();
            all
        };
        let dials = async {
            let pipe = a.connect_with(&to, plan(PipeMode::Plain, LONG)).await.unwrap();
            talk(pipe, b"from the dialler").await
        };
        let answers = async { talk(b.accept().await.unwrap(), b"from the listener").await };
        let (at_a, at_b) = timeout(LONG, async { tokio::join!(dials, answers) }).await.unwrap();
        let heard = (at_a.as_slice(), at_b.as_slice());
        assert_eq!(heard, (&b"from the listener"[..], &b"from the dialler"[..]), "round {round}");
    }
}

#[tokio::test]
async fn a_plain_pipe_is_refused_unless_allowed() {
    let a = node().await;
    let b = Node::bind(config().allow_plain(false)).await.unwrap();
    let to = b.address().await;
    let refused = a.connect_with(&to, plan(PipeMode::Plain, LONG)).await.unwrap_err();
    assert!(refused.to_string().contains("encrypted pipes only"), "{refused}");
}

#[tokio::test]
async fn each_pipe_is_served_by_a_task_of_its_own() {
    let (a, b) = (node().await, node().await);
    let (server, to) = (b.clone(), b.address().await);
    let serving = tokio::spawn(async move {
        server
            .serve(|mut pipe| async move {
                let mut word = [0; 5];
                pipe.read_exact(&mut word).await.unwrap();
                pipe.write_all(&word).await.unwrap();
                pipe.shutdown().await.unwrap();
            })
            .await;
    });
    let silent = a.connect_with(&to, plan(PipeMode::Encrypted, LONG)).await.unwrap();
    for mut pipe in [a.connect_with(&to, plan(PipeMode::Encrypted, LONG)).await.unwrap(), silent] {
        let mut answer = Vec::new();
        pipe.write_all(b"hello").await.unwrap();
        pipe.flush().await.unwrap();
        pipe.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"hello");
    }
    b.shutdown().await;
    serving.await.unwrap();
}
