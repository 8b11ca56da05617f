//! Decisions one by one.

use super::*;
use crate::identity::SecretKey;

pub(super) const S1: SessionId = SessionId([1; 16]);
pub(super) const S2: SessionId = SessionId([2; 16]);
pub(super) const ENC: Terms = Terms::ENCRYPTED;

/// Two node ids, the lower first.
pub(super) fn ids() -> (NodeId, NodeId) {
    let (a, b) = (SecretKey::from_bytes([1; 32]).node_id(), SecretKey::from_bytes([2; 32]).node_id());
    (a.min(b), a.max(b))
}

pub(super) fn sock(n: u64) -> Candidate {
    Candidate::Stream(SockId::from_number(n))
}

/// Draws numbers below the one asked for, the same ones for the same seed.
pub(super) fn draws(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move |n| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as usize % n
    }
}

#[test]
fn one_session_two_candidates_one_pipe() {
    let (low, high) = ids();
    let (mut a, mut b) = (Agreement::new(low), Agreement::new(high));
    a.open((S1, Requester::Us), high, ENC);
    b.open((S1, Requester::Them), low, ENC);
    let first = a.candidate(sock(1), (S1, Requester::Us), true, false);
    assert_eq!(first, Some(Decision::Nominate { id: sock(1), sessions: smallvec![S1] }));
    assert_eq!(a.candidate(sock(2), (S1, Requester::Us), true, false), None, "one nomination at a time");
    assert_eq!(b.candidate(sock(21), (S1, Requester::Them), false, false), None, "the higher id waits");
    assert_eq!(b.candidate(sock(22), (S1, Requester::Them), false, false), None);
    let settled = Settled { sessions: smallvec![(S1, Requester::Them)], losers: smallvec![sock(22)] };
    assert_eq!(b.nominated(sock(21), &[S1]), Some(Decision::Confirm { id: sock(21), also: None, settled }));
    let settled = Settled { sessions: smallvec![(S1, Requester::Us)], losers: smallvec![sock(2)] };
    assert_eq!(a.confirmed(sock(1), None), Some(Decision::Settle { id: sock(1), settled }));
    assert!(a.is_over((S1, Requester::Us)) && b.is_over((S1, Requester::Them)));
    assert_eq!(b.nominated(sock(22), &[S1]), None, "nothing more to confirm");
}

/// Checks that each index holds the entries it should and nothing else.
pub(super) fn consistent(a: &Agreement) {
    let sessions: BTreeSet<_> = a.sessions.iter().map(|(key, s)| (s.peer, *key)).collect();
    assert_eq!(sessions, a.by_peer);
    let of = |(key, s): (&Key, &Session)| s.candidates.iter().map(|sock| (*sock, *key)).collect::<Vec<_>>();
    let candidates: BTreeMap<_, _> = a.sessions.iter().flat_map(of).collect();
    assert_eq!(candidates, a.candidates.iter().map(|(sock, c)| (*sock, c.key)).collect());
    assert_eq!(a.over.iter().copied().collect::<BTreeSet<_>>(), a.all_over);
    assert_eq!(a.over.len(), a.all_over.len());
}

#[test]
fn what_is_over_is_remembered_up_to_a_cap() {
    let (low, high) = ids();
    let mut a = Agreement::new(low);
    let key = |n: u32| {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&n.to_be_bytes());
        (SessionId(id), Requester::Them)
    };
    for n in 0..2 * REMEMBERED as u32 {
        a.open(key(n), high, ENC);
        let _ = a.candidate(sock(u64::from(n)), key(n), false, false);
        a.abandon(key(n));
        a.abandon(key(n));
    }
    consistent(&a);
    assert_eq!((a.open_sessions(), a.over.len()), (0, REMEMBERED));
    assert!(!a.is_over(key(REMEMBERED as u32 - 1)) && a.is_over(key(REMEMBERED as u32)));
}

#[test]
fn a_session_that_was_paired_with_an_abandoned_one_waits_again() {
    let (low, high) = ids();
    let mut a = Agreement::new(low);
    a.open((S1, Requester::Us), high, ENC);
    a.open((S2, Requester::Them), high, ENC);
    let first = a.candidate(sock(1), (S1, Requester::Us), true, false);
    assert_eq!(first, Some(Decision::Nominate { id: sock(1), sessions: smallvec![S1, S2] }));
    a.abandon((S1, Requester::Us));
    consistent(&a);
    let second = a.candidate(sock(2), (S2, Requester::Them), false, false);
    assert_eq!(second, Some(Decision::Nominate { id: sock(2), sessions: smallvec![S2] }));
}

#[test]
fn a_lost_nominee_is_replaced() {
    let (low, high) = ids();
    let mut a = Agreement::new(low);
    a.open((S1, Requester::Us), high, ENC);
    let _ = a.candidate(sock(1), (S1, Requester::Us), true, false);
    let _ = a.candidate(sock(2), (S1, Requester::Us), true, false);
    let next = a.lost(sock(1));
    assert_eq!(next, Some(Decision::Nominate { id: sock(2), sessions: smallvec![S1] }));
    assert_eq!(a.confirmed(sock(1), None), None);
}

#[test]
fn oneself_is_nominated_by_the_dialling_end() {
    let (low, _) = ids();
    let mut a = Agreement::new(low);
    a.open((S1, Requester::Us), low, ENC);
    a.open((S1, Requester::Them), low, ENC);
    assert_eq!(a.candidate(sock(2), (S1, Requester::Them), false, false), None);
    let nominate = a.candidate(sock(1), (S1, Requester::Us), true, false);
    assert_eq!(nominate, Some(Decision::Nominate { id: sock(1), sessions: smallvec![S1] }));
    let Some(Decision::Confirm { settled, also: None, .. }) = a.nominated(sock(2), &[S1]) else {
        panic!("not confirmed")
    };
    assert_eq!(settled.sessions.as_slice(), [(S1, Requester::Them)]);
    assert!(matches!(a.confirmed(sock(1), None), Some(Decision::Settle { .. })));
}

#[test]
fn pipes_of_different_modes_are_not_merged() {
    let (low, high) = ids();
    let mut b = Agreement::new(high);
    b.open((S2, Requester::Us), low, ENC);
    b.open((S1, Requester::Them), low, Terms::PLAIN);
    let _ = b.candidate(sock(1), (S1, Requester::Them), false, false);
    let Some(Decision::Confirm { also, settled, .. }) = b.nominated(sock(1), &[S1]) else { panic!() };
    assert_eq!((also, settled.sessions.len()), (None, 1));
    assert!(b.session((S2, Requester::Us)).is_some(), "the encrypted call goes on");
}

/// A third node, that was told the ids of sessions between two others, names them on a stream of its own.
#[test]
fn a_peer_settles_no_session_of_another_peer() {
    let (low, high) = ids();
    let third = SecretKey::from_bytes([3; 32]).node_id();
    let own = SessionId([3; 16]);
    // Confirmer: NOMINATE and COMMIT of the third, on a stream of its call that may commit.
    let (caller, ours) = if third < high { (third, high) } else { (high, third) };
    let mut a = Agreement::new(ours);
    a.open((S1, Requester::Us), low, ENC);
    a.open((S2, Requester::Them), low, ENC);
    a.open((own, Requester::Them), caller, ENC);
    assert_eq!(a.candidate(sock(1), (own, Requester::Them), false, true), None);
    let settled = Settled { sessions: smallvec![(own, Requester::Them)], losers: smallvec![] };
    for other in [S1, S2] {
        assert_eq!(a.clone().nominated(sock(1), &[other]), None, "not the stream's session");
        assert_eq!(a.clone().committed(sock(1), &[other]), None);
        let mut a = a.clone();
        let settled = settled.clone();
        let confirms = Decision::Confirm { id: sock(1), also: None, settled: settled.clone() };
        assert_eq!(a.clone().nominated(sock(1), &[own, other]), Some(confirms));
        assert_eq!(a.committed(sock(1), &[own, other]), Some(Decision::Settle { id: sock(1), settled }));
        assert!(a.session((S1, Requester::Us)).is_some() && a.session((S2, Requester::Them)).is_some());
    }
    // Nominator: CONFIRM of the third adds a session of the other peer.
    let mut a = Agreement::new(low);
    a.open((own, Requester::Us), high, ENC);
    a.open((S2, Requester::Them), third, ENC);
    let nominated = Decision::Nominate { id: sock(1), sessions: smallvec![own] };
    assert_eq!(a.candidate(sock(1), (own, Requester::Us), true, false), Some(nominated));
    let settled = Settled { sessions: smallvec![(own, Requester::Us)], losers: smallvec![] };
    assert_eq!(a.confirmed(sock(1), Some(S2)), Some(Decision::Settle { id: sock(1), settled }));
    assert_eq!(a.session((S2, Requester::Them)), Some((third, ENC)));
}
