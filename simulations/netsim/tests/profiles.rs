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

/// Linux 6.18 into a TUN device that answers nothing, with `tcp_syn_linear_timeouts` 4 (the default) and 0 (as before 6.5): the
/// seconds of the SYNs, and that of ETIMEDOUT. Timers of the kernel are up to 4 % late, and those over 4 s up to 7 %.
const MEASURED: [(Profile, &[f64], f64); 2] = [
    (Profile::LINUX, &[0.0, 1.02, 2.03, 3.06, 4.08, 5.11, 7.13, 11.26, 19.81, 35.57, 68.85], 134.42),
    (Profile::LINUX_OLD, &[0.0, 1.04, 3.03, 7.22, 15.4, 31.56, 64.57], 130.12),
];

#[test]
fn syns_are_repeated_and_given_up_as_measured() {
    for (profile, syns, failed) in MEASURED {
        let (model, at) = dial(profile);
        assert_eq!(model.len(), syns.len());
        for (model, kernel) in model.into_iter().zip(syns).chain([(at, &failed)]) {
            let late = kernel - model as f64;
            assert!((0.0..=0.07 * kernel).contains(&late), "kernel {kernel}, model {model}");
        }
    }
}
