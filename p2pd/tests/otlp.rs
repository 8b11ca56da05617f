//! Spans at a collector of OpenTelemetry: `cargo test -p p2pd --features otlp --test otlp`, as `tests/long/otlp` does.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use serde_json::Value;

/// A collector on loopback: its address, and the bodies that it takes.
fn collector() -> (String, mpsc::Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (taken, bodies) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let (mut first, mut length) = (String::new(), 0);
            reader.read_line(&mut first).unwrap();
            assert_eq!(first, "POST /v1/traces HTTP/1.1\r\n");
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                let Some((name, value)) = line.split_once(':') else { break };
                if name.eq_ignore_ascii_case("content-length") {
                    length = value.trim().parse().unwrap();
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
            reader.get_mut().write_all(answer.as_bytes()).unwrap();
            if taken.send(serde_json::from_slice(&body).unwrap()).is_err() {
                return;
            }
        }
    });
    (url, bodies)
}

fn demo(with: impl FnOnce(&mut Command)) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2pd"));
    command.args(["demo", "--size", "1"]).env(p2pd::servers::FORBID_PUBLIC, "1").stdin(Stdio::null());
    with(&mut command);
    let out = command.output().unwrap();
    (out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned())
}

#[test]
fn the_calls_of_the_demo_come_to_the_collector_with_their_strategies() {
    let (url, bodies) = collector();
    let (well, said) = demo(|command| {
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &url);
    });
    assert!(well, "{said}");
    let (mut calls, mut strategies) = (BTreeMap::new(), Vec::new());
    for body in bodies.try_iter() {
        for resource in body["resourceSpans"].as_array().unwrap() {
            let service = resource["resource"]["attributes"].to_string();
            assert!(
                service.contains(r#"{"key":"service.name","value":{"stringValue":"p2pd"}}"#),
                "{service}"
            );
            for scope in resource["scopeSpans"].as_array().unwrap() {
                for span in scope["spans"].as_array().unwrap() {
                    let value = |name: &str| {
                        let all = span["attributes"].as_array().unwrap();
                        let one = all.iter().find(|attribute| attribute["key"] == name)?;
                        one["value"]["stringValue"].as_str().map(str::to_owned)
                    };
                    let (id, above) = (span["spanId"].as_str().unwrap(), span["parentSpanId"].as_str());
                    match span["name"].as_str().unwrap() {
                        "connect" => {
                            calls.insert(id.to_owned(), (value("strategy"), value("outcome").unwrap()));
                        }
                        "strategy" => {
                            strategies.push((
                                above.unwrap().to_owned(),
                                value("strategy").unwrap(),
                                value("outcome"),
                            ));
                        }
                        other => panic!("{other}"),
                    }
                }
            }
        }
    }
    // The demo has one pipe by each strategy, at least.
    for strategy in ["direct", "reverse", "punch", "udp", "relay"] {
        let won = (Some(strategy.to_owned()), "won".to_owned());
        let (id, _) =
            calls.iter().find(|(_, call)| **call == won).unwrap_or_else(|| panic!("{strategy}: {calls:?}"));
        let inside = (id.clone(), strategy.to_owned(), Some("won".to_owned()));
        assert!(strategies.contains(&inside), "{strategy}: {strategies:?}");
    }
    assert!(
        strategies.iter().all(|(above, ..)| calls.contains_key(above)),
        "no strategy is without its call"
    );
}

#[test]
fn a_collector_that_is_not_there_is_said_and_spoils_nothing() {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (well, said) = demo(|command| {
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{gone}"));
    });
    assert!(well, "{said}");
}

#[test]
fn an_endpoint_that_is_no_address_is_usage() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2pd"));
    command.args(["demo", "--size", "1"]).env("OTEL_EXPORTER_OTLP_ENDPOINT", "not a url");
    let out = command.output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(out.status.code(), Some(2), "{said}");
    assert!(said.contains("OpenTelemetry: "), "{said}");
}
