//! A pipe on whichever executor the features chose; `tests/tests/conformance.rs` has the rest, on async-std's.

use std::net::Ipv4Addr;
use std::time::Duration;

use futures_lite::future::{block_on, zip};
use futures_lite::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use p2pd_async_std::{Config, Event, Node, Pipe, PipeMode, Plan, SecretKey};

/// The runtime's own stream.
fn bare(pipe: Pipe) -> std::io::Result<impl AsyncWrite + std::fmt::Debug> {
    #[cfg(feature = "async-std")]
    return pipe.into_async_std();
    #[cfg(not(feature = "async-std"))]
    pipe.into_smol()
}

fn config() -> Config {
    let mut config = Config::new(SecretKey::from_bytes(p2pd_async_std::random_seed().unwrap()));
    config.bind = Some(Ipv4Addr::LOCALHOST.into());
    config.allow_plain = true;
    config
}

#[test]
fn a_pipe_in_each_mode_and_the_runtimes_own_stream() {
    block_on(async {
        let (a, b) = (Node::bind(config()).await.unwrap(), Node::bind(config()).await.unwrap());
        let to = b.address().await;
        let mut events = a.events();
        for mode in [PipeMode::Encrypted, PipeMode::Plain] {
            let plan = Plan::new().mode(mode);
            let (ours, theirs) = zip(a.connect_with(&to, plan), b.accept()).await;
            let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
            ours.write_all(b"question").await.unwrap();
            ours.close().await.unwrap();
            let mut text = String::new();
            theirs.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, "question", "{mode}");
            if mode == PipeMode::Encrypted {
                let refused = bare(theirs).unwrap_err();
                assert_eq!(refused.kind(), std::io::ErrorKind::Unsupported);
            } else {
                let mut theirs = Box::pin(bare(theirs).unwrap());
                theirs.write_all(b"answer").await.unwrap();
                drop(theirs);
                let mut text = String::new();
                ours.read_to_string(&mut text).await.unwrap();
                assert_eq!(text, "answer");
            }
        }
        // That the node is ready may be said before.
        while !matches!(events.recv().await, Some(Ok(Event::Progress { .. }))) {}
        zip(a.shutdown(), b.shutdown()).await;
        assert!(b.accept().await.is_none() && b.stats().await.is_none());
    });
}

#[test]
fn each_pipe_is_served_by_a_task_of_its_own() {
    block_on(async {
        let (a, b) = (Node::bind(config()).await.unwrap(), Node::bind(config()).await.unwrap());
        let to = b.address().await;
        let serving = b.serve(|mut pipe| async move {
            let mut word = [0; 5];
            pipe.read_exact(&mut word).await.unwrap();
            pipe.write_all(&word).await.unwrap();
            pipe.close().await.unwrap();
        });
        let asking = async {
            // The first says nothing until the second has its answer.
            let silent = a.connect_with(&to, Plan::default()).await.unwrap();
            for mut pipe in [a.connect_with(&to, Plan::default()).await.unwrap(), silent] {
                let mut answer = Vec::new();
                pipe.write_all(b"hello").await.unwrap();
                pipe.flush().await.unwrap();
                pipe.read_to_end(&mut answer).await.unwrap();
                assert_eq!(answer, b"hello");
            }
            b.shutdown().await;
        };
        zip(serving, asking).await;
    });
}

#[test]
fn the_echo_service_answers_while_nobody_reads_and_keeps_what_it_heard() {
    block_on(async {
        let (a, b) =
            (Node::bind(config()).await.unwrap(), Node::builder(config()).echo(true).bind().await.unwrap());
        let to = b.address().await;
        for mode in [PipeMode::Encrypted, PipeMode::Plain] {
            let plan = Plan::new().mode(mode);
            let (ours, theirs) = zip(a.connect_with(&to, plan), b.accept()).await;
            let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
            ours.write_all(b"ECHO hello").await.unwrap();
            ours.flush().await.unwrap();
            let mut answer = [0; 5];
            ours.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"hello", "{mode}");
            ours.close().await.unwrap();
            let mut heard = String::new();
            theirs.read_to_string(&mut heard).await.unwrap();
            assert_eq!(heard, "ECHO hello", "{mode}");
            drop(theirs);
            assert_eq!(ours.read(&mut answer).await.unwrap_or_default(), 0, "{mode}");
        }
        zip(a.shutdown(), b.shutdown()).await;
    });
}

#[test]
fn a_reset_is_an_error_also_where_the_echo_service_has_read_ahead() {
    let pause = || async_io::Timer::after(Duration::from_millis(200));
    block_on(async {
        let (a, b) =
            (Node::bind(config()).await.unwrap(), Node::builder(config()).echo(true).bind().await.unwrap());
        let to = b.address().await;
        let plan = Plan::new().mode(PipeMode::Plain);
        let (ours, theirs) = zip(a.connect_with(&to, plan), b.accept()).await;
        let (mut ours, mut theirs) = (ours.unwrap(), theirs.unwrap());
        ours.write_all(b"half").await.unwrap();
        pause().await;
        let ours = ours.into_std().unwrap();
        p2pd_sys::socket::reset_on_close(&ours).unwrap();
        drop(ours);
        pause().await;
        let mut all = Vec::new();
        let why = theirs.read_to_end(&mut all).await.unwrap_err();
        assert_eq!((why.kind(), &all[..]), (std::io::ErrorKind::ConnectionReset, &b"half"[..]));
        assert!(theirs.read(&mut [0; 8]).await.is_err(), "an error is no end the next time");
        zip(a.shutdown(), b.shutdown()).await;
    });
}
