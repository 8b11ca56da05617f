//! TLS to servers, by every driver: mosquitto and coturn with certificates of a test's own authority, good ones and bad
//! ones. One network lets nothing but TCP to port 443 out.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use p2pd_tests::drivers::Driver;
use p2pd_tests::lab::certificates::{Authority, Certificate};
use p2pd_tests::lab::services::{Coturn, Mosquitto};
use p2pd_tests::lab::{Child, Home, Lab, SERVER};
use p2pd_tests::require_lab;
use p2pd_tests::world::PATIENCE;
use sha2::{Digest, Sha256};
use tempfile::NamedTempFile;

/// A name that no resolver knows, only certificates.
const NAME: &str = "servers.test";

fn lab(homes: &[&str]) -> Lab {
    let homes = homes.iter().map(|home| home.parse::<Home>().unwrap().delay(Duration::from_millis(1)));
    Lab::builder().homes(homes).build().unwrap()
}

fn list(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn peer(lab: &Lab, host: usize, driver: Driver, command: &str, list: &NamedTempFile, more: &[&str]) -> Child {
    let args = [&[driver.name(), command, list.path().to_str().unwrap()], more].concat();
    lab.host(host).run(env!("CARGO_BIN_EXE_peer"), args).unwrap()
}

fn pin(certificate: &Certificate) -> String {
    Sha256::digest(&certificate.public).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The entry of coturn; `more` are lines of it.
fn turn(port: u16, more: &str) -> String {
    let (ip, user, password) = (SERVER[1], Coturn::USER, Coturn::PASSWORD);
    format!(
        "[[turn]]\nhost = \"{ip}\"\nport = {port}\nuser = \"{user}\"\npassword = \"{password}\"\n{more}\n"
    )
}

/// Calls from host 1 to host 0 over a relay, and returns the caller's output.
fn call(lab: &Lab, driver: Driver, theirs: &NamedTempFile, ours: &NamedTempFile) -> Vec<String> {
    let mut listener = peer(lab, 0, driver, "listen", theirs, &[]);
    let ready = listener.wait_for_line(|line| line.starts_with("ready "), PATIENCE).unwrap();
    let address = ready.strip_prefix("ready ").unwrap();
    let mut caller = peer(lab, 1, driver, "connect", ours, &[address, "relay"]);
    let ended = caller.wait(PATIENCE);
    let said = caller.lines().iter().map(|line| line.text.clone()).collect();
    assert!(ended.is_ok(), "{driver}: {said:?}");
    said
}

#[test]
fn where_only_port_443_is_let_out_a_relay_is_reached_and_everything_is_tls() {
    require_lab!(Mosquitto, Coturn);
    let lab = lab(&["symrand/drop", "symrand/drop"]);
    // mosquitto has port 443 of all addresses, so coturn's is 5349 in truth.
    let moved = format!("ip daddr {0} tcp dport 443 dnat ip to {0}:5349", SERVER[1]);
    for (host, hook, rule) in [
        (lab.host(1), "filter hook output priority 0; policy drop;", "tcp dport 443 accept"),
        (lab.server(), "nat hook prerouting priority -100;", &moved),
    ] {
        let rules = format!("table inet test {{ chain test {{ type {hook}\n{rule}\n}}\n}}");
        assert!(host.command("nft").arg(&rules).status().unwrap().success(), "{rules}");
    }
    let authority = Authority::new("ours").unwrap();
    let by_address = authority.certificate(&[&SERVER[0].to_string()], false).unwrap();
    let by_name = authority.certificate(&[NAME], false).unwrap();
    let _mosquitto = Mosquitto::start_with(&lab, &[(8883, &by_address), (443, &by_name)]).unwrap();
    let _coturn = Coturn::start_tls(&lab, 5349, &by_name).unwrap();
    let (ca, ip) = (format!("ca = '''{}'''", authority.pem), SERVER[0]);
    let tls = format!("tls = true\n{ca}\n");
    let theirs =
        list(&format!("[[mqtt]]\nid = 3\nhost = \"{ip}\"\n{tls}[[stun]]\nhost = \"{}\"\n", SERVER[1]));
    let named = format!("{tls}server_name = \"{NAME}\"\n");
    let ours = list(&format!(
        "[[mqtt]]\nid = 3\nhost = \"{ip}\"\nwebsocket = \"/mqtt\"\n{named}{}",
        turn(443, &named)
    ));
    for driver in Driver::ALL {
        let said = call(&lab, driver, &theirs, &ours);
        assert!(said.iter().any(|line| line.starts_with("connected relay ")), "{driver}: {said:?}");
        assert!(said.iter().any(|line| line == "there and back"), "{driver}: {said:?}");
    }
}

#[test]
fn brokers_with_bad_certificates_are_refused_with_the_reason() {
    require_lab!(Mosquitto);
    let lab = lab(&["none"]);
    let (ours, other) = (Authority::new("ours").unwrap(), Authority::new("other").unwrap());
    let (good, stale) = (ours.certificate(&[NAME], false).unwrap(), ours.certificate(&[NAME], true).unwrap());
    let elsewhere = ours.certificate(&["elsewhere.test"], false).unwrap();
    let strange = other.certificate(&[NAME], false).unwrap();
    let ports = [(8883, &good), (8884, &stale), (8885, &elsewhere), (8886, &strange), (443, &good)];
    let _mosquitto = Mosquitto::start_with(&lab, &ports).unwrap();
    let ca = format!("ca = '''{}'''", ours.pem);
    let pinned = |certificate| format!("pin = \"{}\"", pin(certificate));
    let rows = [
        (8883, ca.clone(), "ready"),
        (8884, ca.clone(), "lost io tls expired"),
        (8885, ca.clone(), "lost io tls wrong-name"),
        (8886, ca.clone(), "lost io tls unknown-authority"),
        (8886, pinned(&strange), "ready"),
        (8884, pinned(&stale), "ready"),
        (8883, pinned(&stale), "lost io tls pin-differs"),
        // No TLS there.
        (1883, ca.clone(), "lost io tls not-tls"),
        (443, format!("{ca}\nwebsocket = \"/mqtt\""), "ready"),
        (8883, format!("{ca}\nwebsocket = \"/mqtt\""), "lost io no-websocket 0"),
    ];
    let mut text = String::new();
    for (id, (port, more, _)) in rows.iter().enumerate() {
        let ip = SERVER[0];
        text += &format!("[[mqtt]]\nid = {id}\nhost = \"{ip}\"\nport = {port}\ntls = true\n");
        text += &format!("server_name = \"{NAME}\"\n{more}\n");
    }
    let list = list(&text);
    for driver in Driver::ALL {
        let mut peer = peer(&lab, 0, driver, "brokers", &list, &[]);
        // The first that is said of each.
        let mut first = BTreeMap::new();
        while first.len() < rows.len() {
            let line = peer.wait_for_line(|line| line.starts_with("broker "), PATIENCE).unwrap();
            let (id, state) = line["broker ".len()..].split_once(' ').unwrap();
            first.entry(id.parse::<usize>().unwrap()).or_insert(state.to_owned());
        }
        for (id, (_, _, expected)) in rows.iter().enumerate() {
            assert_eq!(first[&id], *expected, "{driver}, broker {id}");
        }
    }
}

#[test]
fn turn_servers_with_bad_certificates_are_refused_with_the_reason() {
    require_lab!(Mosquitto, Coturn);
    let lab = lab(&["none", "none"]);
    let _mosquitto = Mosquitto::start(&lab).unwrap();
    let (ours, other) = (Authority::new("ours").unwrap(), Authority::new("other").unwrap());
    let ip = SERVER[1].to_string();
    let good = ours.certificate(&[&ip], false).unwrap();
    let broker = format!("[[mqtt]]\nid = 3\nhost = \"{}\"\n", SERVER[0]);
    let theirs = list(&broker);
    let ca = format!("tls = true\nca = '''{}'''", ours.pem);
    let pinned = format!("tls = true\npin = \"{}\"", pin(&good));
    for (certificate, more, words) in [
        (ours.certificate(&[&ip], true).unwrap(), &ca, "the server's certificate has expired"),
        (ours.certificate(&[NAME], false).unwrap(), &ca, "the server's certificate is for another name"),
        (
            other.certificate(&[&ip], false).unwrap(),
            &ca,
            "the server's certificate is from an unknown authority",
        ),
        (ours.certificate(&[&ip], false).unwrap(), &pinned, "the server's key differs from the pin"),
        (good, &pinned, ""),
    ] {
        let _coturn = Coturn::start_tls(&lab, 5349, &certificate).unwrap();
        let list = list(&format!("{broker}{}", turn(5349, more)));
        for driver in Driver::ALL {
            let said = call(&lab, driver, &theirs, &list).join("\n");
            let expected = match words {
                "" => "connected relay ".to_owned(),
                words => format!("{ip}:5349 over TLS: TLS: {words}"),
            };
            assert!(said.contains(&expected), "{driver}, {words}: {said}");
        }
    }
}
