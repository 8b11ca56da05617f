//! The lab's NATs in userspace measured from outside: each is what its name says, and does no harm to what passes.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;

use p2pd_tests::lab::{Allocation, Dependence, Home, Host, Lab, SERVER, UserNat};
use p2pd_tests::require_lab;
use p2pd_tests::vantage::{PATIENCE, SILENCE, Vantage, shared_tcp, udp};

fn homes(texts: &[&str]) -> Lab {
    let homes = texts.iter().map(|text| text.parse::<Home>().unwrap());
    Lab::builder().homes(homes).build().unwrap()
}

/// Checks the ports that three places saw: another port of the first's address, and another address.
fn check_mapping(kind: UserNat, port: u16, seen: [u16; 3]) {
    let context = || format!("{kind} from {port}: {seen:?}");
    let distinct = BTreeSet::from(seen).len();
    match kind.mapping {
        Dependence::EndpointIndependent => assert_eq!(distinct, 1, "{}", context()),
        Dependence::Address => assert!(distinct == 2 && seen[0] == seen[1], "{}", context()),
        Dependence::AddressAndPort => assert_eq!(distinct, 3, "{}", context()),
    }
    match kind.allocation {
        Allocation::Keep => assert_eq!(seen[0], port, "{}", context()),
        Allocation::Sequential(step) => {
            // Each kind's first three mappings: nothing else counts in between.
            let each: BTreeSet<u16> = seen.into();
            let steps: Vec<u16> = each.iter().zip(each.iter().skip(1)).map(|(a, b)| b - a).collect();
            assert!(steps.iter().all(|found| *found == step), "{}", context());
        }
        Allocation::Parity => assert!(seen.iter().all(|other| other % 2 == port % 2), "{}", context()),
        _ => assert_ne!(seen[0], port, "{}", context()),
    }
}

#[test]
fn each_of_the_45_kinds_is_what_its_name_says() {
    require_lab!();
    let kinds = UserNat::grid();
    let texts: Vec<String> = kinds.iter().map(|kind| format!("user:{kind}")).collect();
    let lab = homes(&texts.iter().map(String::as_str).collect::<Vec<_>>());
    thread::scope(|scope| {
        for (n, kind) in kinds.iter().enumerate() {
            let (lab, host) = (&lab, lab.host(n));
            scope.spawn(move || {
                let vantage = Vantage::at(lab.server(), 3000 + n as u16 * 2);
                let seen = vantage.see_udp(&udp(host, host.ip(), 6001));
                assert!(seen.iter().all(|end| *end.ip() == host.wan()), "{kind}: {seen:?}");
                check_mapping(*kind, 6001, seen.map(|end| end.port()));
                let (seen, _open) = vantage.see_tcp(host, 6002);
                check_mapping(*kind, 6002, seen.map(|end| end.port()));
                let may = match kind.filtering {
                    Dependence::EndpointIndependent => [true, true],
                    Dependence::Address => [true, false],
                    Dependence::AddressAndPort => [false, false],
                };
                assert_eq!(vantage.answers_udp(host, 6100), may, "{kind}: UDP");
                vantage.check_tcp(host, 6200, may, &kind.to_string());
            });
        }
    });
}

/// Returns the error of a connect to a home's public address, where nobody listens.
fn refused(from: &Host, lab: &Lab, home: usize) -> Option<i32> {
    let caller = shared_tcp(from, from.ip(), 0);
    caller.set_write_timeout(Some(SILENCE)).unwrap();
    caller.connect(&SocketAddr::from((lab.host(home).wan(), 7000)).into()).unwrap_err().raw_os_error()
}

#[test]
fn strangers_get_the_answer_that_was_chosen() {
    require_lab!();
    // EINPROGRESS is what Linux says when the send timeout ends a connect.
    let (silent, reset, unreachable) = (Some(115), Some(111), Some(113));
    let policies = [
        ("drop", silent),
        ("rst", reset),
        ("icmp-port", reset),
        ("icmp-host", unreachable),
        ("icmp-admin", unreachable),
        ("local", reset),
    ];
    let texts: Vec<String> = policies.iter().map(|(name, _)| format!("user:apdm.apdf.seq/{name}")).collect();
    let lab = homes(&texts.iter().map(String::as_str).collect::<Vec<_>>());
    for (n, (name, error)) in policies.into_iter().enumerate() {
        assert_eq!(refused(lab.server(), &lab, n), error, "{name}");
    }
}

#[test]
fn streams_pass_whole_also_behind_a_router_and_to_the_own_address() {
    require_lab!();
    let lab = homes(&["pr+user:adm.apdf.rand", "user:eim.eif.rand.hairpin", "user:eim.eif.rand"]);
    let data: Vec<u8> = (0..300_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let passes = |from: &Host, listener: &socket2::Socket, to: SocketAddr| -> io::Result<()> {
        let mut sender = from.enter(|| TcpStream::connect_timeout(&to, SILENCE))?;
        let mut receiver = TcpStream::from(listener.accept()?.0);
        thread::scope(|scope| {
            scope.spawn(|| {
                sender.write_all(&data).unwrap();
                sender.shutdown(std::net::Shutdown::Write).unwrap();
            });
            let mut came = Vec::new();
            receiver.set_read_timeout(Some(PATIENCE))?;
            receiver.read_to_end(&mut came)?;
            assert!(came == data, "{} of {} bytes came", came.len(), data.len());
            Ok(())
        })
    };
    let server = shared_tcp(lab.server(), SERVER[0], 5000);
    server.listen(4).unwrap();
    passes(lab.host(0), &server, (SERVER[0], 5000).into()).unwrap();
    for (home, hairpin) in [(1, true), (2, false)] {
        let host = lab.host(home);
        let listener = shared_tcp(host, host.ip(), 6200);
        listener.listen(4).unwrap();
        let opener = shared_tcp(host, host.ip(), 6200);
        opener.connect_timeout(&SocketAddr::from((SERVER[0], 5000)).into(), PATIENCE).unwrap();
        let outside = server.accept().unwrap().1.as_socket().unwrap();
        assert_eq!(passes(host, &listener, outside).is_ok(), hairpin, "home {home}");
        passes(lab.server(), &listener, outside).unwrap();
    }
}
