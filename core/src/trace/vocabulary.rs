//! The forms of everything that goes into a node and comes out of it.
//!
//! Long: a table of every input and output, with their fields.

use core::time::Duration;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::address::PeerAddress;
use crate::call::{ConnectId, Refusal, Strategy};
use crate::config::{Accept, Broker, Liveness, NtpServer, Plan, StunServer, TurnAuth, TurnServer};
use crate::event::{
    Advice, BrokerLoss, BrokerState, Event, FailReason, Outcome, PortState, Report, Stage, StrategyReport,
};
use crate::failure::{IoFailure, ProxyFailure, TlsFailure};
use crate::identity::{NodeId, NodeIdError};
use crate::io::{CloseHow, Input, Interface, LinkKind, Output, QueryId, Reuse, SockId, SockOpts};
use crate::login::{Login, ServerRef};
use crate::meeting::{Code, MeetingError, MeetingId, MeetingNews};
use crate::name::{Name, NameError, NameNews, NamePin};
use crate::nat::{NatMemory, Network};
use crate::node::{Allocate, ConnectError};
use crate::pipe::{PipeEnd, PipeId, PipeMode, PipeNews, PipeStart, ProtocolTag};
use crate::portmap::{MapError, Scope, Truth, Way};
use crate::proxy::{Proxy, ProxyKind};
use crate::time::{ClockFix, Instant};
use crate::turn::{Credentials, Family, Lifetimes};
use crate::wire::Transport;
use crate::wrap::{ClientKey, Header, Tls, Trust, Wrap};

use super::LineError;
use super::form::{Put, Take, Words, enum_form, put_all, struct_form, word};

/// A line after the header.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Record<I, O> {
    Input(Instant, I),
    Call(Instant, Call),
    /// Result of a call of `connect`.
    Begun(Result<ConnectId, ConnectError>),
    Output(O),
    /// No output was left, and this was the next deadline.
    Idle(Option<Instant>),
}

/// A line as it is read.
pub(super) type Line = Record<InputView, OutputView>;

enum_form! { Record<&Input<'_>, &Output>, Line => Line {
    "event" Input(now, input),
    "call" Call(now, call),
    "begun" Begun(outcome),
    "action" Output(output),
    "idle" Idle(deadline),
}}

/// Call of the user to a node.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Call {
    Connect { to: Box<PeerAddress>, plan: Plan },
    ConnectName { name: Name, plan: Plan },
    Resolve { name: Name },
    Register { name: Name },
    Release { name: Name },
    NamePin { pin: NamePin },
    Meet { code: Option<Code>, purpose: ProtocolTag, within: Duration },
    EndMeeting { meeting: MeetingId },
    Cancel { connect: ConnectId },
    Answer { peer: NodeId, accept: bool },
    Busy { busy: bool },
    RenewLogin { server: ServerRef, login: Option<Login> },
    Shutdown,
    PipeWrite { pipe: PipeId, data: Bytes },
    PipeRead { pipe: PipeId, most: u32 },
    PipeSendMessage { pipe: PipeId, message: Bytes },
    PipeReadMessage { pipe: PipeId },
    PipeFinish { pipe: PipeId },
    PipeClose { pipe: PipeId },
    Ping { to: Box<PeerAddress>, number: u32 },
    Allocate { wish: Allocate },
    PipeSendTo { pipe: PipeId, to: SocketAddr, data: Bytes },
    PipeRecvFrom { pipe: PipeId },
}

enum_form! { Call => Call {
    "connect" Connect { to, plan },
    "connect-name" ConnectName { name, plan },
    "resolve-name" Resolve { name },
    "register-name" Register { name },
    "release-name" Release { name },
    "pin-name" NamePin { pin },
    "meet" Meet { code, purpose, within },
    "end-meeting" EndMeeting { meeting },
    "cancel" Cancel { connect },
    "answer" Answer { peer, accept },
    "busy" Busy { busy },
    "renew-login" RenewLogin { server, login },
    "shutdown" Shutdown,
    "pipe-write" PipeWrite { pipe, data },
    "pipe-read" PipeRead { pipe, most },
    "pipe-send-message" PipeSendMessage { pipe, message },
    "pipe-read-message" PipeReadMessage { pipe },
    "pipe-finish" PipeFinish { pipe },
    "pipe-close" PipeClose { pipe },
    "ping" Ping { to, number },
    "allocate" Allocate { wish },
    "pipe-send-to" PipeSendTo { pipe, to, data },
    "pipe-recv-from" PipeRecvFrom { pipe },
}}

/// An [`Input`] that borrows nothing.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum InputView {
    Bound { sock: SockId, local: SocketAddr },
    Connected { sock: SockId, local: SocketAddr, remote: SocketAddr },
    Accepted { listener: SockId, sock: SockId, local: SocketAddr, remote: SocketAddr },
    Released { sock: SockId },
    Failed { sock: SockId, cause: IoFailure },
    Datagram { sock: SockId, from: SocketAddr, data: Bytes },
    Stream { sock: SockId, data: Bytes },
    Eof { sock: SockId },
    Resolved { query: QueryId, result: Result<SmallVec<[IpAddr; 2]>, IoFailure> },
    Interfaces(Vec<Interface>),
    Clock(ClockFix),
    Woke,
    Timeout,
}

enum_form! { Input<'_>, InputView => InputView {
    "bound" Bound { sock, local },
    "connected" Connected { sock, local, remote },
    "accepted" Accepted { listener, sock, local, remote },
    "released" Released { sock },
    "failed" Failed { sock, cause },
    "datagram" Datagram { sock, from, data },
    "stream" Stream { sock, data },
    "eof" Eof { sock },
    "resolved" Resolved { query, result },
    "interfaces" Interfaces(list),
    "clock" Clock(fix),
    "woke" Woke,
    "timeout" Timeout,
}}

impl InputView {
    /// Returns the input.
    pub(super) fn input(&self) -> Input<'_> {
        match *self {
            InputView::Bound { sock, local } => Input::Bound { sock, local },
            InputView::Connected { sock, local, remote } => Input::Connected { sock, local, remote },
            InputView::Accepted { listener, sock, local, remote } => {
                Input::Accepted { listener, sock, local, remote }
            }
            InputView::Released { sock } => Input::Released { sock },
            InputView::Failed { sock, cause } => Input::Failed { sock, cause },
            InputView::Datagram { sock, from, ref data } => Input::Datagram { sock, from, data },
            InputView::Stream { sock, ref data } => Input::Stream { sock, data },
            InputView::Eof { sock } => Input::Eof { sock },
            InputView::Resolved { query, ref result } => Input::Resolved { query, result: result.clone() },
            InputView::Interfaces(ref list) => Input::Interfaces(list),
            InputView::Clock(fix) => Input::Clock(fix),
            InputView::Woke => Input::Woke,
            InputView::Timeout => Input::Timeout,
        }
    }
}

/// An [`Output`] whose `Detach` has no keys.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum OutputView {
    BindUdp {
        sock: SockId,
        local: SocketAddr,
        remote: Option<SocketAddr>,
        opts: SockOpts,
    },
    Listen {
        sock: SockId,
        local: SocketAddr,
        backlog: u16,
        opts: SockOpts,
    },
    Accept {
        sock: SockId,
        credit: u32,
    },
    Connect {
        sock: SockId,
        local: SocketAddr,
        remote: SocketAddr,
        opts: SockOpts,
        at: Instant,
        deadline: Instant,
        wrap: Option<Arc<Wrap>>,
    },
    SendDatagram {
        sock: SockId,
        to: SocketAddr,
        data: Bytes,
    },
    SendStream {
        sock: SockId,
        data: Bytes,
    },
    Read {
        sock: SockId,
        credit: u32,
    },
    Close {
        sock: SockId,
        how: CloseHow,
    },
    Detach {
        sock: SockId,
        pipe: PipeView,
    },
    EndPipe {
        sock: SockId,
        why: PipeEnd,
    },
    Resolve {
        query: QueryId,
        host: Box<str>,
        deadline: Instant,
    },
    Cancel {
        query: QueryId,
    },
    Event(Event),
    OpenRelayed {
        pipe: PipeId,
        start: PipeView,
    },
    OpenAllocation {
        pipe: PipeId,
        relayed: SocketAddr,
        other: Option<SocketAddr>,
    },
    Pipe {
        pipe: PipeId,
        news: PipeNews,
    },
}

enum_form! { Output, OutputView => OutputView {
    "bind-udp" BindUdp { sock, local, remote, opts },
    "listen" Listen { sock, local, backlog, opts },
    "accept" Accept { sock, credit },
    "connect" Connect { sock, local, remote, opts, at, deadline, wrap },
    "send-datagram" SendDatagram { sock, to, data },
    "send-stream" SendStream { sock, data },
    "read" Read { sock, credit },
    "close" Close { sock, how },
    "detach" Detach { sock, pipe },
    "end-pipe" EndPipe { sock, why },
    "resolve" Resolve { query, host, deadline },
    "cancel" Cancel { query },
    "notify" Event(event),
    "open-relayed" OpenRelayed { pipe, start },
    "open-allocation" OpenAllocation { pipe, relayed, other },
    "pipe" Pipe { pipe, news },
}}

/// Parts of a [`PipeStart`] that are no secret.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct PipeView {
    answers: SmallVec<[ConnectId; 1]>,
    peer: NodeId,
    strategy: Strategy,
    local: SocketAddr,
    remote: SocketAddr,
    elapsed: Duration,
    protocol: Option<ProtocolTag>,
    mode: PipeMode,
}

struct_form! { PipeView { answers, peer, strategy, local, remote, elapsed, protocol, mode } }

impl Put for PipeStart {
    fn put(&self, line: &mut String) {
        let PipeStart { answers, peer, named: _, strategy, local, remote, elapsed, protocol, mode, keys: _ } =
            self;
        let view = PipeView {
            answers: answers.clone(),
            peer: *peer,
            strategy: *strategy,
            local: *local,
            remote: *remote,
            elapsed: *elapsed,
            protocol: *protocol,
            mode: *mode,
        };
        view.put(line);
    }
}

enum_form! { Event => Event {
    "listening" Listening { address },
    "ready" Ready { address },
    "listen-failed" ListenFailed { local, cause },
    "broker" Broker { id, state },
    "login-wanted" LoginWanted { server },
    "identity-in-use" IdentityInUse,
    "progress" Progress { connect, strategy, stage },
    "failed" Failed { connect, reason, report },
    "pipe-gone" PipeGone { peer, local, remote },
    "ask" Ask { peer, from },
    "ask-over" AskOver { peer },
    "port" Port { local, state },
    "time" Clock { ahead, error },
    "name" Name { name, news },
    "meeting" Meeting { meeting, news },
    "pong" Pong { peer, number, broker, took },
    "nat-memory" NatMemory(memory),
    "not-allocated" NotAllocated { pipe, why },
    "peer-refused" PeerRefused { pipe, peer, code },
    "closed" Closed,
}}

struct_form! { NatMemory { network, held, lost } }

struct_form! { Network { gateway, outside } }

enum_form! { PortState => PortState {
    "open" Open { way, external, truth },
    "failed" Failed { gateway, upnp },
    "lost" Lost,
    "removed" Removed { confirmed },
}}

enum_form! { Way => Way {
    "pcp" Pcp,
    "nat-pmp" NatPmp,
    "upnp" Upnp,
}}

enum_form! { Truth => Truth {
    "unchecked" Unchecked,
    "agrees" Agrees,
    "not-public" NotPublic(scope),
    "differs" Differs { seen },
}}

enum_form! { Scope => Scope {
    "public" Public,
    "private" Private,
    "carrier-grade" CarrierGrade,
    "special" Special,
}}

enum_form! { MapError => MapError {
    "no-answer" NoAnswer,
    "another-version" Version,
    "not-authorized" NotAuthorized,
    "no-network" NoNetwork,
    "no-resources" NoResources,
    "not-supported" NotSupported,
    "address-mismatch" AddressMismatch,
    "conflict" Conflict,
    "only-whole-address" OnlyWholeAddress,
    "bad-answer" BadAnswer,
    "error" Other(code),
}}

enum_form! { Stage => Stage {
    "started" Started,
    "dialling" Dialling(to),
    "dial-failed" DialFailed(to, cause),
    "hello" Hello(to),
    "authenticated" Authenticated(at),
    "awaiting-approval" AwaitingApproval,
    "awaiting-broker" AwaitingBroker,
    "requested" Requested { brokers },
    "peer-dials" PeerDials,
    "punching" Punching { rung, permille },
    "allocated" Allocated(at),
    "peer-comes" PeerComes,
    "peer-busy" PeerBusy,
}}

enum_form! { PipeNews => PipeNews {
    "readable" Readable,
    "writable" Writable,
    "message" Message,
    "message-room" MessageRoom,
    "delivered" Delivered,
    "ended" Ended(why),
}}

enum_form! { LinkKind => LinkKind {
    "real" Real,
    "tunnel" Tunnel,
    "virtual" Virtual,
    "dead" Dead,
}}

enum_form! { PipeEnd => PipeEnd {
    "closed-by-peer" ClosedByPeer,
    "silent" Silent,
    "broken" Broken(code),
    "server-forgot" ServerForgot,
    "server-gone" ServerGone,
    "no-path" NoPath,
    "shutdown" Shutdown,
    "vanished" Vanished,
    "address-gone" AddressGone,
}}

enum_form! { FailReason => FailReason {
    "deadline-passed" DeadlinePassed,
    "all-strategies-failed" AllStrategiesFailed,
    "refused-by-peer" RefusedByPeer(refusal),
    "name" Name(why),
    "shutdown" Shutdown,
}}

enum_form! { Refusal => Refusal {
    "not-accepted" NotAccepted,
    "unanswered" Unanswered,
    "busy" Busy,
    "plain-not-allowed" PlainNotAllowed,
    "no-search-for-strangers" NoSearchForStrangers,
    "no-search-in-silence" NoSearchInSilence,
    "protocol-not-taken" ProtocolNotTaken,
    "no-sessions" NoSessions,
    "private-for-strangers" PrivateForStrangers { asked },
    "no-such-session" NoSuchSession,
    "version" Version { ours },
    "unknown" Unknown(code),
}}

struct_form! { Report { elapsed, strategies, advice } }

enum_form! { Advice => Advice {
    "be-accepted" BeAccepted(node),
    "be-answered" BeAnswered,
    "try-all" TryAll,
    "be-encrypted" BeEncrypted,
    "try-later" TryLater,
    "same-version" SameVersion,
    "start-peer" StartPeer,
    "reach-broker" ReachBroker,
    "share-broker" ShareBroker,
    "add-relay" AddRelay,
}}

struct_form! { StrategyReport { strategy, outcome, detail } }

enum_form! { Strategy => Strategy {
    "direct" Direct,
    "reverse" Reverse,
    "punch" Punch,
    "udp" Udp,
    "relay" Relay,
}}

enum_form! { Outcome => Outcome {
    "won" Won,
    "failed" Failed,
    "skipped" Skipped,
    "unfinished" Unfinished,
}}

enum_form! { BrokerState => BrokerState {
    "ready" Ready,
    "swallows" Swallows,
    "ends-at-messages" EndsAtMessages,
    "lost" Lost(why),
}}

enum_form! { BrokerLoss => BrokerLoss {
    "io" Io(cause),
    "refused" Refused(code),
    "subscription-refused" SubscriptionRefused,
    "closed-by-broker" ClosedByBroker,
    "silent" Silent,
    "malformed" Malformed,
}}

enum_form! { IoFailure => IoFailure {
    "refused" Refused,
    "reset" Reset,
    "timed-out" TimedOut,
    "addr-in-use" AddrInUse,
    "addr-not-available" AddrNotAvailable,
    "unreachable" Unreachable,
    "not-permitted" NotPermitted,
    "no-such-name" NoSuchName,
    "resources" Resources,
    "tls" Tls(why),
    "no-websocket" NoWebSocket(status),
    "bad-frame" BadFrame,
    "proxy" Proxy(why),
    "other" Other(errno),
}}

enum_form! { TlsFailure => TlsFailure {
    "expired" Expired,
    "not-yet-valid" NotYetValid,
    "wrong-name" WrongName,
    "unknown-authority" UnknownAuthority,
    "pin-differs" PinDiffers,
    "bad-signature" BadSignature,
    "bad-certificate" BadCertificate,
    "settings" Settings,
    "not-tls" NotTls,
    "alert" Alert(code),
    "protocol" Protocol,
}}

enum_form! { ProxyFailure => ProxyFailure {
    "away" Away,
    "settings" Settings,
    "not-a-proxy" NotAProxy,
    "too-long" TooLong,
    "closed" Closed,
    "login-needed" LoginNeeded,
    "login-refused" LoginRefused,
    "other-login" OtherLogin,
    "http" Http(status),
    "socks" Socks(reply),
}}

enum_form! { ProxyKind => ProxyKind {
    "http" Http,
    "socks5" Socks5,
}}

enum_form! { Trust => Trust {
    "public" Public,
    "authorities" Authorities(pem),
    "pinned" Pinned(hash),
}}

enum_form! { ConnectError => ConnectError {
    "node-id" NodeId(why),
    "empty-plan" EmptyPlan,
    "no-strategy" NoStrategy,
    "no-names" NoNames,
    "too-many" TooMany,
    "shutdown" Shutdown,
}}

enum_form! { NodeIdError => NodeIdError {
    "length" Length(n),
    "character" Character(at),
    "not-canonical" NotCanonical,
    "small-order" SmallOrder,
}}

enum_form! { NameNews => NameNews {
    "resolved" Resolved(address),
    "not-resolved" NotResolved(why),
    "registered" Registered { brokers },
    "waiting" Waiting,
    "not-registered" NotRegistered(why),
    "contested" Contested { by },
    "released" Released { brokers },
    "pinned" Pinned { id, sequence },
}}

enum_form! { NameError => NameError {
    "not-found" NotFound,
    "no-broker" NoBroker,
    "released" Released,
    "other-key" OtherKey { pinned, found },
    "contested" Contested { one, other },
    "stale" Stale { found, known },
    "taken" Taken { by },
    "refused" Refused,
    "too-many" TooMany,
    "shutdown" Shutdown,
    "not-built" NotBuilt,
}}

enum_form! { MeetingNews => MeetingNews {
    "code" Code(code),
    "guessed" Guessed,
    "met" Met(address),
    "done" Done,
    "unconfirmed" Unconfirmed,
    "failed" Failed(why),
}}

enum_form! { MeetingError => MeetingError {
    "no-broker" NoBroker,
    "nobody" Nobody,
    "busy" Busy,
    "wrong-code" WrongCode,
    "guessed" Guessed,
    "taken" Taken,
    "silent" Silent,
    "too-many" TooMany,
    "shutdown" Shutdown,
    "not-built" NotBuilt,
}}

struct_form! { NamePin { name, id, sequence } }

enum_form! { CloseHow => CloseHow {
    "graceful" Graceful,
    "reset" Reset,
    "drop" Drop,
}}

enum_form! { Reuse => Reuse {
    "share-nothing" No,
    "share-address" Address,
    "share-port" AddressAndPort,
}}

enum_form! { PipeMode => PipeMode {
    "encrypted" Encrypted,
    "plain" Plain,
    "session" Session,
}}

enum_form! { Accept => Accept {
    "anyone" Anyone,
    "only" Only(peers),
    "ask" Ask,
}}

struct_form! { SockOpts { reuse, nodelay } }
struct_form! { Interface { index, ip, prefix, default_route, gateway, link, used } }
struct_form! { ClockFix { at, wall, error } }
struct_form! { Plan { strategies, mode, protocol, timeout, relay_first } }
struct_form! { Wrap { host, port, proxy, tls, websocket, headers } }
struct_form! { Tls { trust, name, client, alpn } }

// A word before them: where there may be none, an empty certificate would read as that.
impl Put for ClientKey {
    fn put(&self, line: &mut String) {
        word(line, "pem");
        self.certificates.put(line);
        self.key.put(line);
    }
}

impl Take for ClientKey {
    fn take(words: &mut Words<'_>) -> Result<Self, LineError> {
        match words.next()? {
            "pem" => Ok(ClientKey { certificates: Take::take(words)?, key: Take::take(words)? }),
            _ => Err(words.wrong()),
        }
    }
    #[cfg(test)]
    fn any(g: &mut quickcheck::Gen) -> Self {
        ClientKey { certificates: Take::any(g), key: Take::any(g) }
    }
}

struct_form! { Header { name, value } }
struct_form! { Broker { id, host, port, tls, websocket, headers, login, renews, proxy } }
struct_form! { Proxy { kind, host, port, login } }
struct_form! { Login { user, password } }
struct_form! { Liveness { interval, patience } }
struct_form! { StunServer { host, port } }
struct_form! { NtpServer { host, port } }
struct_form! { TurnServer { host, port, transport, tls, auth, lifetimes, alternates_anywhere, proxy } }
enum_form! { ServerRef => ServerRef {
    "broker" Broker(id),
    "turn" Turn(place),
}}
enum_form! { TurnAuth => TurnAuth {
    "nobody" Nobody,
    "fixed" Fixed(credentials),
    "renewed" Renewed(credentials),
    "secret" Secret(secret),
}}
struct_form! { Allocate { servers, family, timeout } }
enum_form! { Family => Family {
    "ipv4" V4,
    "both" Both,
    "ipv6" V6,
}}
struct_form! { Credentials { user, password, name_is_read } }
struct_form! { Lifetimes { allocation, permission, channel } }

enum_form! { Transport => Transport {
    "udp" Udp,
    "tcp" Tcp,
}}

impl Put for [Interface] {
    fn put(&self, line: &mut String) {
        put_all(self.iter(), line);
    }
}

#[cfg(test)]
mod tests {
    use super::super::form::whole;
    use super::*;
    use core::fmt::Debug;
    use quickcheck::Gen;

    /// Writes and reads values of each variant, many times, and each with every cut and many changed bytes.
    fn round_trip<T: Put + Take + PartialEq + Debug>() {
        let mut g = Gen::new(12);
        for round in 0..200 {
            for value in T::every(&mut g) {
                let mut line = String::new();
                value.put(&mut line);
                assert!(line.bytes().all(|b| b == b' ' || b.is_ascii_graphic()), "{line:?}");
                assert_eq!(whole::<T>(&line).as_ref(), Ok(&value), "{line}");
                if round < 5 {
                    mangle::<T>(&mut g, &line);
                }
            }
        }
    }

    /// Checks that every line that reads at all is spelled as it would be written.
    fn mangle<T: Put + Take>(g: &mut Gen, line: &str) {
        for at in 0..line.len() {
            let mut bytes = line.as_bytes().to_vec();
            match *g.choose(&[0, 1, 2]).unwrap() {
                0 => bytes.truncate(at),
                1 => bytes[at] = *g.choose(b" %+-0/9:a~@AF\0\x7f").unwrap(),
                _ => bytes.insert(at, *g.choose(b" %+-09af~").unwrap()),
            }
            let changed = String::from_utf8(bytes).unwrap();
            if let Ok(value) = whole::<T>(&changed) {
                let mut again = String::new();
                value.put(&mut again);
                assert_eq!(again, changed);
            }
        }
    }

    #[test]
    fn every_variant_round_trips() {
        round_trip::<Line>();
        round_trip::<Call>();
        round_trip::<InputView>();
        round_trip::<OutputView>();
        round_trip::<Event>();
        round_trip::<Stage>();
        round_trip::<PortState>();
        round_trip::<Truth>();
        round_trip::<MapError>();
        round_trip::<FailReason>();
        round_trip::<NameNews>();
        round_trip::<NameError>();
        round_trip::<MeetingNews>();
        round_trip::<MeetingError>();
        round_trip::<Refusal>();
        round_trip::<Outcome>();
        round_trip::<Strategy>();
        round_trip::<BrokerState>();
        round_trip::<BrokerLoss>();
        round_trip::<IoFailure>();
        round_trip::<TlsFailure>();
        round_trip::<ProxyFailure>();
        round_trip::<Trust>();
        round_trip::<Wrap>();
        round_trip::<ConnectError>();
        round_trip::<NodeIdError>();
        round_trip::<CloseHow>();
        round_trip::<Reuse>();
        round_trip::<PipeMode>();
        round_trip::<Accept>();
        round_trip::<Broker>();
        round_trip::<StunServer>();
        round_trip::<NtpServer>();
    }

    #[test]
    fn an_event_is_written_and_read_as_the_same_one() {
        let mut g = Gen::new(12);
        for _ in 0..200 {
            for view in InputView::every(&mut g) {
                let (mut ours, mut theirs) = (String::new(), String::new());
                view.put(&mut ours);
                view.input().put(&mut theirs);
                assert_eq!(ours, theirs);
            }
        }
    }

    #[test]
    fn lines_look_like_this() {
        let at = Instant::from_nanos(5);
        let line = |record: Record<&Input<'_>, &Output>| {
            let mut line = String::new();
            record.put(&mut line);
            line
        };
        let data = &[0, 0xff][..];
        let input = Input::Stream { sock: SockId::accepted(1), data };
        assert_eq!(line(Record::Input(at, &input)), "event 5 stream 9223372036854775809 00ff");
        let input = Input::Resolved { query: QueryId(3), result: Err(IoFailure::Other(-7)) };
        assert_eq!(line(Record::Input(at, &input)), "event 5 resolved 3 error other -7");
        let to = Box::new("None-0-0-x".parse().unwrap());
        let call = Call::Connect { to, plan: Plan::default() };
        assert_eq!(
            line(Record::Call(at, call)),
            "call 5 connect None-0-0-x 5 direct reverse punch udp relay encrypted - 20000000000 no"
        );
        let host = "a b%\u{e9}".into();
        let output = Output::Resolve { query: QueryId(0), host, deadline: at };
        assert_eq!(line(Record::Output(&output)), "action resolve 0 a+b%25%c3%a9 5");
        assert_eq!(line(Record::Idle(None)), "idle -");
    }

    #[test]
    fn one_value_has_one_spelling() {
        for line in [
            "idle +5",
            "idle 05",
            "idle  5",
            "idle 5 ",
            " idle 5",
            "event 0 stream 1 00FF",
            "event 0 stream 1 ",
            "event 0 resolved 1 ok 1 ::0001",
            "event 0 resolved 1 ok 1 1.2.3.4 5.6.7.8",
            "event 0 bound 1 1.2.3.4:5~6",
            "action resolve 0 %61 5",
            "action resolve 0 \u{e9} 5",
            "action resolve 0 %ff 5",
            "action resolve 0 %1 5",
            "event 0 interfaces 18446744073709551615 1 ::1 128 no",
        ] {
            assert!(whole::<Line>(line).is_err(), "{line}");
        }
    }
}
