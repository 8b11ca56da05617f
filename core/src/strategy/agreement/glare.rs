//! Two nodes that called each other, with the messages under way in every order.

use super::tests::{ENC, S1, S2, consistent, draws, ids, sock};
use super::*;

/// Runs two nodes that called each other, with `streams` streams between them. Every message in flight is delivered in
/// an order drawn from `seed`. Each end must end with the same stream, and each call answered by it.
fn glare(seed: u64, streams: u64) {
    let (low, high) = ids();
    let mut nodes = [Agreement::new(low), Agreement::new(high)];
    nodes[0].open((S1, Requester::Us), high, ENC);
    nodes[1].open((S2, Requester::Us), low, ENC);
    #[derive(Clone, Debug)]
    enum Msg {
        Candidate,
        Nominate(SmallVec<[SessionId; 2]>),
        Confirm(Option<SessionId>),
        Closed,
    }
    let mut draw = draws(seed);
    // Per stream and direction an ordered queue, as TCP is.
    let mut wires: BTreeMap<(u64, usize), VecDeque<Msg>> = BTreeMap::new();
    for n in 0..streams {
        for end in 0..2 {
            wires.insert((n, end), VecDeque::from([Msg::Candidate]));
        }
    }
    let session = |n: u64| if n.is_multiple_of(2) { S1 } else { S2 };
    let side = |n: u64, end: usize| {
        if (n.is_multiple_of(2)) == (end == 0) { Requester::Us } else { Requester::Them }
    };
    let mut pipes: [Vec<(u64, SmallVec<[Key; 2]>)>; 2] = [Vec::new(), Vec::new()];
    while let Some((n, end)) = {
        let ready: Vec<_> = wires.iter().filter(|(_, q)| !q.is_empty()).map(|(k, _)| *k).collect();
        (!ready.is_empty()).then(|| ready[draw(ready.len())])
    } {
        let msg = wires.get_mut(&(n, end)).unwrap().pop_front().unwrap();
        let (node, id) = (&mut nodes[end], sock(n));
        let mut decisions: VecDeque<Decision> = VecDeque::new();
        match msg {
            Msg::Candidate => {
                let key = (session(n), side(n, end));
                if key.1 == Requester::Them && !node.is_over(key) {
                    node.open(key, if end == 0 { high } else { low }, ENC);
                }
                decisions.extend(node.candidate(id, key, key.1 == Requester::Us, false));
            }
            Msg::Nominate(sessions) => match node.nominated(id, &sessions) {
                Some(d) => decisions.push_back(d),
                None => {
                    decisions.extend(node.lost(id));
                    wires.get_mut(&(n, 1 - end)).unwrap().push_back(Msg::Closed);
                }
            },
            Msg::Confirm(also) => {
                let decision = node.confirmed(id, also);
                assert!(decision.is_some(), "a confirmation nobody waited for");
                decisions.extend(decision);
            }
            Msg::Closed => decisions.extend(node.lost(id)),
        }
        let mut close: Vec<u64> = Vec::new();
        while let Some(decision) = decisions.pop_front() {
            match decision {
                Decision::Nominate { id: sock, sessions } => {
                    let n = sock.number();
                    wires.get_mut(&(n, 1 - end)).unwrap().push_back(Msg::Nominate(sessions));
                }
                Decision::Confirm { id: sock, also, settled } => {
                    let n = sock.number();
                    wires.get_mut(&(n, 1 - end)).unwrap().push_back(Msg::Confirm(also));
                    close.extend(settled.losers.iter().map(|s| s.number()));
                    pipes[end].push((n, settled.sessions));
                }
                Decision::Settle { id: sock, settled } => {
                    close.extend(settled.losers.iter().map(|s| s.number()));
                    pipes[end].push((sock.number(), settled.sessions));
                }
                Decision::Refuse { id: sock } => close.push(sock.number()),
                Decision::Commit { .. } => unreachable!("both called before any stream was there"),
            }
            let peer = if end == 0 { high } else { low };
            decisions.extend(nodes[end].nominate(peer));
        }
        nodes.iter().for_each(consistent);
        for n in close {
            wires.get_mut(&(n, 1 - end)).unwrap().push_back(Msg::Closed);
        }
    }
    assert_eq!(pipes[0].len(), 1, "seed {seed}: {pipes:?}");
    assert_eq!(pipes[1].len(), 1, "seed {seed}: {pipes:?}");
    assert_eq!(pipes[0][0].0, pipes[1][0].0, "seed {seed}: not the same stream");
    assert!(pipes[0][0].1.contains(&(S1, Requester::Us)), "seed {seed}: {pipes:?}");
    assert!(pipes[1][0].1.contains(&(S2, Requester::Us)), "seed {seed}: {pipes:?}");
}

#[test]
fn glare_gives_both_callers_the_same_pipe_in_every_order() {
    for seed in 0..20_000 {
        glare(seed, 1 + seed % 4);
    }
}
