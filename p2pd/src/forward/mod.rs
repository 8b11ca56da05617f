//! `p2pd expose`, `p2pd forward` and `p2pd connect --service`: services of one machine at another one, over one session
//! that goes on when its network changes.

mod allow;
mod ask;
mod copy;
mod datagrams;
mod door;
mod expose;
mod held;
mod link;
pub(crate) mod options;
mod place;
mod socks;
mod wire;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2pd_core::{Config, Plan, Target};
use p2pd_tokio::{Node, Session, SessionError};
use serde_json::json;
use tokio::net::TcpStream;

use crate::commands::not_opened;
use crate::metrics::Metrics;
use crate::say::Say;
use crate::talk::{self, Counted};
use allow::Rule;
pub(crate) use door::{Leads, Wanted};
pub(crate) use expose::{Exposing, Who, run as expose, serve as expose_to};
pub(crate) use held::{Held, NotBegun};
pub(crate) use link::close;
use link::{Link, NotOpen};
pub(crate) use place::{Place, Service};
use wire::Wish;
pub(crate) use wire::{ServiceName, protocol};

/// Most lines about the moves of one session in a minute.
const TOLD: u32 = 20;
const MINUTE: Duration = Duration::from_secs(60);

/// Prepares a node that exposes services: it takes callers that forward, and no others.
pub(crate) fn prepare(config: &mut Config, exposing: &Exposing) {
    config.protocols = wire::protocol().into_iter().collect();
    if exposing.who == Who::Asked {
        config.accept = p2pd_core::Accept::Ask;
    }
}

/// Returns the plan for calls to an exposer.
pub(crate) fn plan(mut plan: Plan) -> Plan {
    plan.protocol = wire::protocol();
    plan
}

/// Serves the doors until interrupted.
pub(crate) async fn forward(
    node: &Node,
    (to, plan): (&Target, Plan),
    wanted: Vec<Wanted>,
    say: Say,
) -> ExitCode {
    door::run(Arc::new(Link::new(node, (to, plan), Arc::default(), say)), wanted, say).await
}

/// Joins standard input and output with a service.
pub(crate) async fn connect(
    node: &Node,
    (to, plan): (&Target, Plan),
    service: ServiceName,
    metrics: Arc<Metrics>,
    say: Say,
) -> ExitCode {
    say.waiting("connecting");
    let link = Link::new(node, (to, plan), metrics.clone(), say);
    let session = match link.session().await {
        Ok(session) => session,
        Err(why) => return why.map_or(ExitCode::FAILURE, |why| not_opened(&why, say)),
    };
    let wish = Wish::Stream(service);
    let talked = match link.open(&wish, None::<&mut TcpStream>).await {
        Ok((stream, _)) => talk::on_stream(stream, Counted::of_session(&session, metrics), say)
            .await
            .map_err(|why| why.to_string()),
        Err(NotOpen::NoSession) => return ExitCode::FAILURE,
        Err(why) => Err(format!("{wish}: {why}")),
    };
    link.close(talked.is_ok()).await;
    match talked {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            say.error(&why);
            ExitCode::FAILURE
        }
    }
}

/// Says what becomes of a session that this end called.
pub(crate) async fn follow(session: Session, metrics: Arc<Metrics>, say: Say) {
    let why = moves(&session, &metrics, say).await;
    if session.closed().await != p2pd_tokio::SessionEnd::Closed {
        let peer = session.peer();
        say.line(
            || json!({"event": "ended", "peer": peer.to_string(), "reason": why.to_string()}),
            || format!("ended: {peer}: {why}"),
        );
    }
}

/// Says which connection a session goes on over, at most [`TOLD`] times a minute, and counts its moves, until its end, which is
/// returned.
pub(crate) async fn moves(session: &Session, metrics: &Metrics, say: Say) -> SessionError {
    let peer = session.peer();
    // A peer may have its end move as often as it likes.
    let (mut told, mut since) = (0, Instant::now());
    loop {
        let moved = match session.moved().await {
            Ok(moved) => moved,
            Err(why) => return why,
        };
        moved.iter().for_each(|carrier| metrics.moved(carrier.strategy()));
        if since.elapsed() >= MINUTE {
            (told, since) = (0, Instant::now());
        }
        told += 1;
        match moved {
            _ if told > TOLD => {}
            Some(carrier) => say.line(
                || {
                    json!({
                        "event": "moved", "strategy": carrier.strategy().name(), "peer": peer.to_string(),
                        "local": carrier.local_addr().to_string(), "remote": carrier.remote_addr().to_string(),
                    })
                },
                || format!("goes on: {peer} at {} by {}", carrier.remote_addr(), carrier.strategy()),
            ),
            None => say.line(
                || json!({"event": "stranded", "peer": peer.to_string()}),
                || format!("the connection to {peer} broke; another one is tried"),
            ),
        }
    }
}
