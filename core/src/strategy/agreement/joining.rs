//! Streams that join a pipe which a relay has: the use that each end makes of each stream, when any of them breaks.

use super::tests::{ENC, S1, S2, consistent, draws, ids, sock};
use super::*;

/// Use that an end has made of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Made {
    Pipe,
    Joined,
}

/// Runs one session with four streams, of which the first is a relay. Each stream may break at any time, with the
/// messages under way on it. Returns the use that each end made of each stream.
fn breaking(seed: u64) -> BTreeMap<(u64, usize), Made> {
    #[derive(Clone, Debug)]
    enum Msg {
        Candidate,
        Nominate(SmallVec<[SessionId; 2]>),
        Commit(SmallVec<[SessionId; 2]>),
        Join,
        Confirm,
        Closed,
    }
    let (low, high) = ids();
    // Which of both called is as good as drawn.
    let called = (seed % 2) as usize;
    let side = |end: usize| if end == called { Requester::Us } else { Requester::Them };
    let mut nodes = [Agreement::new(low), Agreement::new(high)];
    for end in 0..2 {
        nodes[end].open((S1, side(end)), [high, low][end], ENC);
    }
    let mut draw = draws(seed);
    let mut wires: BTreeMap<(u64, usize), VecDeque<Msg>> = BTreeMap::new();
    let mut made = BTreeMap::new();
    for n in 0..4 {
        for end in 0..2 {
            wires.insert((n, end), VecDeque::from([Msg::Candidate]));
        }
    }
    let mut broken = BTreeSet::new();
    while let Some((n, end)) = {
        let ready: Vec<_> = wires.iter().filter(|(_, q)| !q.is_empty()).map(|(k, _)| *k).collect();
        (!ready.is_empty()).then(|| ready[draw(ready.len())])
    } {
        if draw(8) == 0 {
            let which = draw(4) as u64;
            if broken.insert(which) {
                (0..2).for_each(|end| drop(wires.insert((which, end), VecDeque::from([Msg::Closed]))));
            }
            continue;
        }
        let msg = wires.get_mut(&(n, end)).and_then(VecDeque::pop_front).unwrap();
        let (node, id, key) = (&mut nodes[end], sock(n), (S1, side(end)));
        let carried = node.is_carried(key);
        let decision = match msg {
            Msg::Candidate => {
                if n == 0 {
                    node.moves(key, id);
                }
                // The end that dialled nominates then, and may commit on streams.
                node.candidate(id, key, end == called, called == 0 && n > 0)
            }
            Msg::Nominate(sessions) => node.nominated(id, &sessions).or(Some(Decision::Refuse { id })),
            Msg::Commit(sessions) => node.committed(id, &sessions).or(Some(Decision::Refuse { id })),
            Msg::Join => node.joined(id).or(Some(Decision::Refuse { id })),
            Msg::Confirm => node.confirmed(id, None).or(Some(Decision::Refuse { id })),
            Msg::Closed => node.lost(id),
        };
        let mut decisions: VecDeque<Decision> = decision.into_iter().collect();
        while let Some(decision) = decisions.pop_front() {
            let n = decision.candidate().number();
            let mut tell = |n: u64, msg| {
                if !broken.contains(&n) {
                    wires.get_mut(&(n, 1 - end)).unwrap().push_back(msg);
                }
            };
            let mut settled = |settled: Settled, n: u64| {
                let kind = if carried { Made::Joined } else { Made::Pipe };
                assert_eq!(made.insert((n, end), kind), None, "seed {seed}");
                settled.losers
            };
            let losers = match decision {
                Decision::Nominate { sessions, .. } => {
                    tell(n, Msg::Nominate(sessions));
                    continue;
                }
                Decision::Commit { sessions, settled: how, .. } => {
                    tell(n, Msg::Commit(sessions));
                    settled(how, n)
                }
                Decision::Join { .. } => {
                    tell(n, Msg::Join);
                    continue;
                }
                Decision::Confirm { settled: how, .. } => {
                    tell(n, Msg::Confirm);
                    settled(how, n)
                }
                Decision::Settle { settled: how, .. } => settled(how, n),
                Decision::Refuse { id: sock } => {
                    decisions.extend(nodes[end].lost(sock));
                    smallvec![sock]
                }
            };
            losers.iter().for_each(|sock| tell(sock.number(), Msg::Closed));
            decisions.extend(nodes[end].nominate([high, low][end]));
        }
        nodes.iter().for_each(consistent);
    }
    made
}

#[test]
fn streams_that_break_are_never_two_things_at_two_ends() {
    let (mut moved, mut alone, mut back) = (0, 0, 0);
    for seed in 0..20_000 {
        let made = breaking(seed);
        for n in 0..4 {
            let ends = [0, 1].map(|end| made.get(&(n, end)));
            let [Some(a), Some(b)] = ends else {
                alone += u64::from(ends != [None; 2]);
                continue;
            };
            assert_eq!(a, b, "seed {seed}: stream {n}, {made:?}");
        }
        for end in 0..2 {
            let count = |kind| made.iter().filter(|((_, e), k)| *e == end && **k == kind).count();
            let (pipes, joined) = (count(Made::Pipe), count(Made::Joined));
            assert!(pipes <= 1 && joined <= pipes, "seed {seed}: {made:?}");
            moved += joined;
        }
        let kept = made.contains_key(&(0, 0)) != made.contains_key(&(0, 1));
        back += u64::from(kept && made.len() > 1);
    }
    // All of it happens.
    assert!(moved > 1_000 && alone > 1_000, "{moved} {alone} {back}");
    assert_eq!(back, 0, "an end that has the relay's pipe alone takes nothing else, and gives nothing else");
}

#[test]
fn who_does_not_know_of_the_pipe_cannot_have_a_stream_join_it_nor_take_one_for_another_pipe() {
    let (low, high) = ids();
    let key = (S1, Requester::Them);
    let carried = || {
        let mut b = Agreement::new(high);
        b.open(key, low, ENC);
        b.moves(key, sock(1));
        let _ = b.candidate(sock(1), key, false, false);
        let _ = b.candidate(sock(2), key, false, false);
        let Some(Decision::Confirm { settled, .. }) = b.nominated(sock(1), &[S1]) else { panic!() };
        assert_eq!((settled.kept, &settled.losers[..]), (Some(key), &[][..]));
        b
    };
    // The nominator lost the relay before our word came, and nominates another stream.
    let mut b = carried();
    assert_eq!(b.nominated(sock(2), &[S1]), None);
    b.forget(key);
    assert!(b.is_carried(key), "as long as there is the pipe");
    b.abandon(key);
    assert!(b.is_over(key));
    // A call of ours to the same peer stays what it is.
    let mut b = carried();
    b.open((S2, Requester::Us), low, ENC);
    let Some(Decision::Confirm { also: None, settled, .. }) = b.joined(sock(2)) else { panic!() };
    assert_eq!((&settled.sessions[..], settled.kept), (&[key][..], None));
    assert!(b.session((S2, Requester::Us)).is_some() && b.is_over(key));
    // Nothing joins what has no pipe.
    let mut b = Agreement::new(high);
    b.open(key, low, ENC);
    let _ = b.candidate(sock(2), key, false, false);
    assert_eq!(b.joined(sock(2)), None);
}
