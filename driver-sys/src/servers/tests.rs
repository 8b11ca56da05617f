use super::*;
use std::time::Duration;

#[test]
fn lists_are_read_with_their_default_ports_and_written_again() {
    let text = "[[mqtt]]\nid = 7\nhost = \"a\"\n[[stun]]\nhost = \"b\"\nport = 99\n[[ntp]]\nhost = \"c\"\n";
    let servers = Servers::parse(text).unwrap();
    assert_eq!(servers.brokers, [Broker::new(7, "a", 1883)]);
    assert_eq!(servers.stun, [StunServer { host: "b".into(), port: 99 }]);
    assert_eq!(servers.ntp, [NtpServer { host: "c".into(), port: 123 }]);
    assert_eq!(Servers::parse(&servers.to_text()).unwrap(), servers);
    assert_eq!(Servers::parse("").unwrap(), Servers::default());
}

#[test]
fn turn_servers_are_read_with_their_credentials_and_written_again() {
    let text = r#"
        [[turn]]
        host = "a"
        user = "alice"
        password = "se\"cret"
        [[turn]]
        host = "b"
        port = 99
        transport = "tcp"
        secret = "north"
        permission_lifetime = 20
        [[turn]]
        url = "turn:[2001:db8::9]:5000?transport=udp"
        credential_command = ["pass", "show", "turn"]
        [[turn]]
        url = "turn:c.example"
        secret = "x"
    "#;
    let servers = Servers::parse(text).unwrap();
    let alice = TurnCredential::Password { user: "alice".into(), password: "se\"cret".into() };
    let command = TurnCredential::Command(vec!["pass".into(), "show".into(), "turn".into()]);
    let entry = |host: &str, port, transport, credential| TurnServer {
        host: host.into(),
        port,
        transport,
        tls: None,
        credential,
        lifetimes: Lifetimes::default(),
        alternates_anywhere: false,
    };
    let secret = |text: &str| TurnCredential::Secret(text.into());
    let mut expected = [
        entry("a", 3478, None, alice),
        entry("b", 99, Some(Transport::Tcp), secret("north")),
        entry("2001:db8::9", 5000, Some(Transport::Udp), command),
        entry("c.example", 3478, None, secret("x")),
    ];
    expected[1].lifetimes.permission = Duration::from_secs(20);
    assert_eq!(servers.turn, expected);
    assert_eq!(Servers::parse(&servers.to_text()).unwrap(), servers);
    assert!(servers.is_secret() && !Servers::default().is_secret());
    let said = format!("{servers:?}");
    assert!(said.contains("alice") && !said.contains("cret\\\"") && !said.contains("north"), "{said}");
}

#[test]
fn mistakes_in_turn_entries_are_named() {
    for (entry, word) in [
        ("", "first entry of [[turn]]: no `host`"),
        ("host = \"a\"", "no credentials"),
        ("host = \"\"\nsecret = \"s\"", "no host"),
        ("host = \"a\"\nport = 0\nsecret = \"s\"", "port 0"),
        ("host = \"a\"\nuser = \"u\"", "without `password`"),
        ("host = \"a\"\nauth = \"some\"", "`auth` is"),
        ("host = \"a\"\nauth = \"none\"\nsecret = \"s\"", "not both"),
        ("host = \"a\"\nsecret = \"s\"\nalternates = \"yes\"", "`alternates` is"),
        ("host = \"a\"\npassword = \"p\"", "without `user`"),
        ("host = \"a\"\nuser = \"u\"\npassword = \"p\"\nsecret = \"s\"", "one of"),
        ("host = \"a\"\ncredential_command = []", "empty `credential_command`"),
        ("host = \"a\"\nsecret = \"s\"\nchannel_lifetime = 0", "lifetime of 0"),
        ("host = \"a\"\ntransport = \"sctp\"\nsecret = \"s\"", "line 3"),
        ("host = \"a\"\nurl = \"turn:a\"\nsecret = \"s\"", "not both"),
        ("url = \"turn:a\"\nport = 5\nsecret = \"s\"", "in it"),
        ("url = \"stun:a\"\nsecret = \"s\"", "begin with turn:"),
        ("url = \"turn:a:b\"\nsecret = \"s\"", "no port"),
        ("url = \"turn:a?transport=tls\"\nsecret = \"s\"", "only query"),
        ("url = \"turn:[::1\"\nsecret = \"s\"", "[ without ]"),
        ("url = \"turn:[a]\"\nsecret = \"s\"", "no IPv6"),
        ("url = \"turn:[::1]5\"\nsecret = \"s\"", "behind ]"),
        ("url = \"turn:\"\nsecret = \"s\"", "no host"),
    ] {
        let error = Servers::parse(&format!("[[turn]]\n{entry}\n")).unwrap_err();
        assert!(error.contains(word), "{entry}: {error}");
    }
    let second = "[[turn]]\nhost = \"a\"\nsecret = \"s\"\n[[turn]]\n";
    assert!(Servers::parse(second).unwrap_err().contains("second entry"));
}

#[test]
fn mistakes_are_named_with_their_line() {
    for (text, word) in [
        ("[[mqtt]]\nhost = \"a\"\n", "id"),
        ("[[mqtt]]\nid = 70000\nhost = \"a\"\n", "line 2"),
        ("[[mqqt]]\nid = 1\n", "mqqt"),
        ("[[stun]]\nhost = 3\n", "line 2"),
        ("[[stun]\n", "line 1"),
    ] {
        let error = Servers::parse(text).unwrap_err();
        assert!(error.contains(word), "{text}: {error}");
    }
}

#[test]
fn what_is_wrong_is_said_without_the_values_that_stand_there() {
    for (text, place) in [
        ("[[turn]]\nhost = \"a\"\npassword = \"s3cret\n", "line 3, column "),
        ("[[turn]]\nhost = \"a\"\npassword = s3cret\n", "line 3, column "),
        ("[[turn]]\nhost = \"a\"\npassword = \"s3cret\" x\n", "line 3, column "),
        ("[[turn]]\nhost = \"a\"\nport = \"s3cret, expected nothing\"\n", "line 3, column 8: "),
        ("[[turn]]\nhost = \"a\"\nuser = [\"s3cret\"]\n", "line 3, column 8: "),
        ("[[turn]]\nhost = \"a\"\ntransport = \"s3cret\"\n", "line 3, column 13: "),
        ("[[turn]]\nhost = \"a\"\npassword = \"s3cret\"\npassword = \"s3cret\"\n", "line 4, column "),
        ("[[mqtt]]\nid = 1\nhost = \"a\"\nheaders = { A = s3cret }\n", "line 4, column "),
        ("[[mqtt]]\nid = 1\npassword = \"\\s3cret\"\n", "line 3, column "),
        ("[[turn]]\nhost = \"\u{e4}\" s3cret\n", "line 2, column "),
        ("[[turn]]\nurl = \"turn:u:s3cret@a\"\nsecret = \"s3cret\"\n", "`url`: "),
    ] {
        let why = Servers::parse(text).unwrap_err();
        assert!(why.contains(place) && !why.contains("s3cret") && why.lines().count() == 1, "{text}: {why}");
    }
}

#[test]
fn the_shipped_list_is_sound_and_says_what_it_is_worth() {
    let servers = Servers::parse(SHIPPED).unwrap();
    assert!(servers.brokers.len() >= 2 && servers.stun.len() >= 2 && servers.ntp.len() >= 3);
    let entries = servers.brokers.len() + servers.stun.len() + servers.ntp.len();
    assert_eq!(SHIPPED.matches("# unverified\n").count(), entries, "each entry is marked");
}

/// The example with one more line of a table uncommented.
fn example(line: &str) -> String {
    assert_eq!(EXAMPLE.matches(&format!("\n#{line}\n")).count(), 1, "{line}");
    EXAMPLE.replacen(&format!("\n#{line}\n"), &format!("\n{line}\n"), 1)
}

#[test]
fn the_example_has_every_field_and_the_defaults() {
    let servers = Servers::parse(EXAMPLE).unwrap();
    let counts = (servers.brokers.len(), servers.stun.len(), servers.turn.len(), servers.ntp.len());
    assert_eq!(counts, (1, 1, 1, 1));
    // What stands there as a default is one.
    for port in ["1883", "3478", "123"] {
        let text = EXAMPLE.replace(&format!("\n#port = {port}\n"), &format!("\nport = {port}\n"));
        assert_ne!(text, EXAMPLE);
        assert_eq!(Servers::parse(&text).unwrap(), servers, "{port}");
    }
    for line in ["permission_lifetime = 300", "channel_lifetime = 600"] {
        assert_eq!(Servers::parse(&example(line)).unwrap(), servers, "{line}");
    }
    // Alternatives are ones.
    let password = "user = \"alice\"\npassword = \"change me\"\n";
    for line in [
        "secret = \"change me\"",
        "credential_command = [\"/usr/local/bin/turn-credentials\", \"--short\"]",
        "transport = \"udp\"",
    ] {
        let alone = line.starts_with("transport");
        let text = if alone { example(line) } else { example(line).replacen(password, "", 1) };
        assert_ne!(Servers::parse(&text).unwrap().turn, servers.turn, "{line}");
    }
    let (before, url) = EXAMPLE.split_once("#[[turn]]\n").unwrap();
    let text = format!("{before}[[turn]]\n{}", url.replacen('#', "", 3));
    assert_eq!(Servers::parse(&text).unwrap().turn.len(), 2);
    // None is missing: the parser names all there are.
    let mut named = 0;
    for table in ["", "[[mqtt]]\n", "[[stun]]\n", "[[turn]]\n", "[[ntp]]\n", "[proxy]\nurl = \"none\"\n"] {
        let said = Servers::parse(&format!("{table}nonsense = 1\n")).unwrap_err();
        let fields = said.split_once("expected ").unwrap_or_else(|| panic!("{said}")).1;
        for field in fields.split('`').skip(1).step_by(2) {
            let there = [
                format!("\n{field} = "),
                format!("\n#{field} = "),
                format!("\n[[{field}]]\n"),
                format!("\n#[{field}]\n"),
            ];
            assert!(there.iter().any(|t| EXAMPLE.contains(t)), "{table}{field}");
            named += 1;
        }
    }
    assert!(named >= 21, "{named}");
}
