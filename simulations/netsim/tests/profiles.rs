//! Operating systems of hosts, each as it was measured.

use p2pd_netsim::engine::{MILLI, Nanos, SECOND};
use p2pd_netsim::host::{Failure, HostEvent, Profile, Reuse};
use p2pd_netsim::net::LinkSpec;
use p2pd_netsim::world::{App, Cx, World};

/// Keeps the time and the reason of its dial's failure.
#[derive(Default)]
struct Dial(Option<(Nanos, Failure)>);

impl App for Dial {
    fn event(&mut self, cx: &mut Cx<'_>, event: HostEvent) {
        if let HostEvent::Failed(_, why) = event {
            self.0 = Some((cx.now, why));
        }
    }
    fn wake(&mut self, _: &mut Cx<'_>, _: u64) {}
}

/// A dial into silence: the seconds at which its SYNs leave, and that at which it fails.
fn dial(profile: Profile) -> (Vec<u64>, u64) {
    let mut world: World<Dial> = World::new(1);
    let net = world.internet();
    let host = world.add_host(net, [192, 0, 2, 1].into(), LinkSpec::with_delay(MILLI), Dial::default());
    world.set_profile(host, profile);
    world.with(host, |_, cx| {
        let to = ([192, 0, 2, 2], 1).into();
        let sock = cx.host.bind_tcp(([0, 0, 0, 0], 0).into(), to, Reuse::No).unwrap();
        cx.host.connect(cx.now, sock, to).unwrap();
    });
    let mut sent = Vec::new();
    for second in 0..200 {
        let before = world.host(host).syns_sent() - u64::from(second == 0);
        world.run_until(second * SECOND + SECOND / 2);
        sent.extend((before..world.host(host).syns_sent()).map(|_| second));
    }
    let (at, why) = world.app(host).0.expect("it fails");
    assert_eq!(why, Failure::TimedOut);
    (sent, at / SECOND)
}

/// On Linux 6.18 into a TUN device that answers nothing, `tcp_syn_retries` 6, with `tcp_syn_linear_timeouts` 4 (the default) and 0.
/// The kernel's own times are up to 7 % later, as its timers are.
#[test]
fn syns_are_repeated_and_given_up_as_measured() {
    assert_eq!(dial(Profile::LINUX), (vec![0, 1, 2, 3, 4, 5, 7], 11));
    assert_eq!(dial(Profile::LINUX_OLD), (vec![0, 1, 3, 7, 15, 31, 63], 127));
}
