//! What the subcommands do.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use p2pd_core::{Accept, Config, PeerAddress, PipeMode, Plan, SecretKey, Strategy};
use p2pd_tokio::{Node, Pipe};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::USAGE;
use crate::options::{Command, Common, Options};
use crate::say::Say;
use crate::{demo, server, trace};
use p2pd::servers::Servers;

/// Bytes copied at a time.
const CHUNK: usize = 64 * 1024;

pub(crate) async fn run(options: Options) -> ExitCode {
    let say = Say::new(options.common.json);
    // Everything that can be wrong with the usage is, before anything is opened.
    let address = match &options.command {
        Command::Connect { address } => match address.parse::<PeerAddress>() {
            Ok(address) => Some(address),
            Err(why) => return usage(say, &format!("address: {why}")),
        },
        Command::Serve(serve) => return server::run(serve, &options.common, say).await,
        Command::Demo { size } => return demo::run(*size, say).await,
        Command::Replay { file } => return trace::replay(file, say),
        Command::Listen { .. } | Command::Addr | Command::Nat => None,
    };
    let config = match config(&options.common) {
        Ok(config) => config,
        Err(why) => return usage(say, &why),
    };
    let mut builder = Node::builder(config);
    if let Some(path) = &options.common.trace {
        match trace::create(path, say) {
            Ok(write) => builder = builder.trace(write),
            Err(why) => return usage(say, &why),
        }
    }
    let node = match builder.bind().await {
        Ok(node) => node,
        Err(why) => {
            say.error(&why.to_string());
            return ExitCode::FAILURE;
        }
    };
    let mut notices = node.notices();
    let following = tokio::spawn(async move {
        loop {
            match notices.recv().await {
                Ok(notice) => say.notice(&notice),
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
            }
        }
    });
    let code = match (&options.command, address) {
        (Command::Connect { .. }, Some(address)) => connect(&node, &address, &options.common, say).await,
        (Command::Listen { echo }, _) => listen(&node, *echo, say).await,
        (Command::Nat, _) => nat(&node, say).await,
        _ => {
            say.waiting("asking for the outside address");
            let address = node.address().await;
            say.still();
            println!("{address}");
            ExitCode::SUCCESS
        }
    };
    node.shutdown().await;
    drop(node);
    let _ = following.await;
    code
}

pub(crate) fn usage(say: Say, why: &str) -> ExitCode {
    say.error(why);
    ExitCode::from(USAGE)
}

fn config(common: &Common) -> Result<Config, String> {
    let key = match &common.identity {
        Some(path) => p2pd_tokio::load_or_create_key(path).map_err(|e| e.to_string())?,
        None => SecretKey::from_bytes(p2pd_tokio::random_seed().map_err(|e| e.to_string())?),
    };
    let mut config = Config::new(key);
    let servers = match &common.config {
        Some(path) => Servers::read(path)?,
        None if common.no_servers => Servers::default(),
        None => Servers::shipped()?,
    };
    (config.brokers, config.stun) = (servers.brokers, servers.stun);
    if !common.accept.is_empty() {
        config.accept = Accept::Only(common.accept.iter().copied().collect());
    }
    config.bind = common.bind;
    config.port = common.port;
    config.allow_plain = common.plain;
    Ok(config)
}

async fn connect(node: &Node, to: &PeerAddress, common: &Common, say: Say) -> ExitCode {
    let plan = Plan {
        strategies: common.strategies.iter().map(|s| Strategy::from(*s)).collect(),
        mode: if common.plain { PipeMode::Plain } else { PipeMode::Encrypted },
        timeout: common.timeout,
    };
    say.waiting("connecting");
    match node.connect_with(to, plan).await {
        Ok(pipe) => {
            say.opened("connected", &pipe);
            match talk(pipe).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(why) => {
                    say.error(&format!("the pipe broke: {why}"));
                    ExitCode::FAILURE
                }
            }
        }
        Err(why) => {
            say.failed(&why);
            match why {
                p2pd_tokio::ConnectError::NotBegun(_) => ExitCode::from(USAGE),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

async fn nat(node: &Node, say: Say) -> ExitCode {
    say.waiting("measuring");
    let reports = node.nats().await;
    say.nats(&reports);
    if reports.iter().any(|r| r.mapped.is_some()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn listen(node: &Node, echo: bool, say: Say) -> ExitCode {
    say.waiting("asking for the outside address");
    say.ready(&node.address().await, node.node_id());
    while let Some(pipe) = node.accept().await {
        say.opened("incoming", &pipe);
        if echo {
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(pipe);
                if let Err(why) = copy(&mut read, &mut write).await {
                    say.error(&format!("a pipe broke: {why}"));
                }
            });
        } else if let Err(why) = talk(pipe).await {
            say.error(&format!("the pipe broke: {why}"));
        }
    }
    ExitCode::SUCCESS
}

/// Both directions to their ends. Only at a terminal, where nobody may ever end the input, the peer's end is
/// the end.
async fn talk(pipe: Pipe) -> io::Result<()> {
    let (mut read, mut write) = tokio::io::split(pipe);
    let sending = tokio::spawn(async move { copy(&mut tokio::io::stdin(), &mut write).await });
    let received = copy_without_end(&mut read, &mut tokio::io::stdout()).await;
    if received.is_err() || (io::stdin().is_terminal() && !sending.is_finished()) {
        sending.abort();
        return received;
    }
    sending.await.map_err(io::Error::other)?
}

/// Copies to the end and ends the other side too.
async fn copy(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    copy_without_end(from, to).await?;
    to.shutdown().await
}

async fn copy_without_end(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let n = from.read(&mut buffer).await?;
        if n == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..n]).await?;
        to.flush().await?;
    }
}
