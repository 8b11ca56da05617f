//! Memory of a node, idle or in the middle of a call.

use p2pd_core::{Node, Plan};

use super::pair::{Pair, Program, READY_WITHIN, build};
use crate::engine::Nanos;
use crate::service::{Broker, BrokerFaults, ServerProgram};

/// Returns the bytes of the listener's and of the caller's node, its own and those it has allocated. They are measured
/// once both are ready, or this long after the call. `allocated` returns the bytes that the program has allocated and
/// not freed; a node's bytes are those that its end gives back.
pub fn node_bytes(pair: &Pair, after_call: Option<Nanos>, allocated: &dyn Fn() -> usize) -> [usize; 2] {
    let mut run = build(pair);
    let [listener, caller] = run.hosts;
    run.world.run_while(READY_WITHIN, |w| run.hosts.iter().all(|h| w.app(*h).node().address().is_some()));
    let address = run.world.app(listener).node().address().cloned();
    if let (Some(after), Some(address)) = (after_call, address) {
        let plan =
            Plan::new().strategies(pair.strategies.iter().copied()).mode(pair.mode).timeout(pair.timeout);
        // It is refused for a plan without strategies only, and then nothing is measured but two idle nodes.
        let _ = run
            .world
            .with(caller, |p, cx| p.node_mut().call(cx, |node, now| node.connect(now, &address, plan)));
        let until = run.world.now() + after;
        run.world.run_until(until);
    }
    run.hosts.map(|host| {
        let other = Program::Server(ServerProgram::new(Box::new(Broker::new(BrokerFaults::default()))));
        match run.world.with(host, |p, _| core::mem::replace(p, other)) {
            Program::Node(program) => {
                let node = program.into_node();
                let before = allocated();
                drop(node);
                size_of::<Node>() + before.saturating_sub(allocated())
            }
            Program::Server(_) | Program::Stranger(_) => size_of::<Node>(),
        }
    })
}
