//! Test of the process's sockets, alone in its file and so in its process.
#![cfg(target_os = "linux")]

mod common;

use common::{LONG, config, moved, node, plan, until};
use p2pd_tokio::{ConnectError, Node, PipeMode, StunServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

fn sockets() -> usize {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    let is_socket = |e: std::io::Result<std::fs::DirEntry>| {
        let target = std::fs::read_link(e.unwrap().path());
        target.is_ok_and(|t| t.to_string_lossy().starts_with("socket:"))
    };
    open.map(is_socket).filter(|s| *s).count()
}

#[test]
fn shutdown_leaves_nothing_behind() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let unheard = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (tasks_before, sockets_before) = (tasks(), sockets());
        for by_drop in [false, true] {
            let mut config = config();
            let port = unheard.local_addr().unwrap().port();
            config.stun = vec![StunServer { host: "127.0.0.1".into(), port }];
            let (a, b) = (Node::bind(config).await.unwrap(), node().await);
            let to = b.address().await;
            let (ours, theirs) = tokio::join!(a.connect(&to), b.accept());
            let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
            let nowhere = moved(&to, silent.local_addr().unwrap().port());
            let under_way = a.start_connect(&nowhere, plan(PipeMode::Encrypted, LONG)).await.unwrap();
            let (_held, _) = silent.accept().await.unwrap();
            assert!(sockets() > sockets_before + 4 && tasks() > tasks_before);
            if by_drop {
                drop(under_way);
                drop((a, b));
            } else {
                tokio::join!(a.shutdown(), b.shutdown());
                // The runtime forgets an ended task a moment after whoever waited for it is told.
                until("tasks end with shutdown", || tasks() == tasks_before).await;
                let failed = under_way.await.unwrap_err();
                assert!(failed.to_string().contains("shut down"), "{failed}");
                assert!(a.accept().await.is_none() && b.accept().await.is_none());
                assert!(matches!(a.connect(&to).await, Err(ConnectError::NodeGone)));
                // Pipes live on, and end as ever.
                let (mut ours, mut theirs) = (ours, theirs);
                ours.write_all(b"still").await.unwrap();
                ours.shutdown().await.unwrap();
                let mut text = String::new();
                theirs.read_to_string(&mut text).await.unwrap();
                assert_eq!(text, "still");
            }
            until("tasks end", || tasks() == tasks_before).await;
        }
        until("sockets close", || sockets() == sockets_before).await;
    });
}
