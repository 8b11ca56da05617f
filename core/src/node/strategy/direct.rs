//! Direct: dials to the addresses that the peer announces.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::{Contract, Ctx, End};
use crate::call::{ConnectId, Strategy};
use crate::event::Stage;
use crate::io::SockId;
use crate::node::call::facts::Call;
use crate::strategy::dialler::{DialEnd, Dialler};
use crate::strategy::ours::Trust;
use crate::time::Instant;

#[derive(Debug, Default)]
pub(in crate::node) struct Direct {
    diallers: BTreeMap<ConnectId, Box<Dialler>>,
}

impl Direct {
    /// Takes in that a stream of a call is gone.
    pub(in crate::node) fn lost_stream(
        &mut self,
        ctx: &mut Ctx<'_>,
        call: &Call,
        sock: SockId,
        remote: SocketAddr,
        why: DialEnd,
    ) {
        let Some(dialler) = self.diallers.get_mut(&call.connect) else { return };
        if dialler.ended(sock, why, ctx.cx.now)
            && let DialEnd::Io(why) = why
        {
            ctx.progress(call.connect, Strategy::Direct, Stage::DialFailed(remote, why));
        }
    }
}

impl Contract for Direct {
    fn begin(&mut self, ctx: &mut Ctx<'_>, call: &Arc<Call>) -> Result<(), String> {
        let paths = ctx.paths_to(call.peer, &call.address, Trust::Known);
        if paths.is_empty() {
            return Err(ctx.why_no_path(&call.address));
        }
        let dialler = Dialler::new(paths, ctx.cx.now).insisting();
        self.diallers.insert(call.connect, Box::new(dialler));
        Ok(())
    }

    fn drive(&mut self, ctx: &mut Ctx<'_>, call: &Arc<Call>) -> Option<End> {
        let dialler = self.diallers.get_mut(&call.connect)?;
        while let Some(path) = dialler.due(ctx.cx.now) {
            let sock = ctx.dial(path, call.key(), call.peer, call.terms());
            dialler.started(sock, path, ctx.cx.now);
            ctx.progress(call.connect, Strategy::Direct, Stage::Dialling(path.remote));
        }
        dialler.is_exhausted().then(|| End::failed(dialler.describe()))
    }

    fn next(&mut self, _: Instant, call: &Call) -> Option<Instant> {
        self.diallers.get(&call.connect)?.next()
    }

    fn describe(&self, _: &Ctx<'_>, call: &Call) -> String {
        self.diallers.get(&call.connect).map(|dialler| dialler.describe()).unwrap_or_default()
    }

    fn network_changed(&mut self, call: &Arc<Call>) -> bool {
        self.forget(call);
        true
    }

    fn forget(&mut self, call: &Call) {
        self.diallers.remove(&call.connect);
    }
}
