//! The page in a headless Chromium, by keyboard. Skipped, and said so, where there is no Chromium.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use crate::common::{Daemon, Running, curl, p2pd, start};

struct Browser {
    socket: WebSocket<TcpStream>,
    calls: u64,
    /// What the page asked for, and what went wrong in it.
    requests: Vec<String>,
    complaints: Vec<Value>,
    _process: Running,
}

impl Browser {
    /// `None` where there is none.
    fn start(profile: &std::path::Path) -> Option<Self> {
        let mut command = Command::new("chromium");
        command.args([
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--window-size=1200,1000",
        ]);
        command.args([
            "--disable-background-networking",
            "--disable-component-update",
            "--remote-debugging-port=0",
        ]);
        command.arg(format!("--user-data-dir={}", profile.display())).arg("about:blank");
        let mut process = Running(command.stderr(Stdio::piped()).spawn().ok()?);
        let mut said = BufReader::new(process.0.stderr.take().unwrap());
        let address = loop {
            let mut line = String::new();
            assert_ne!(said.read_line(&mut line).unwrap(), 0, "Chromium ended");
            if let Some((_, rest)) = line.split_once("DevTools listening on ws://") {
                break rest.split_once('/').unwrap().0.to_owned();
            }
        };
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        let (_, tabs) = curl(&[], &format!("http://{address}/json"));
        let tabs: Vec<Value> = serde_json::from_slice(&tabs).unwrap();
        let tab = tabs.iter().find(|tab| tab["type"] == "page").unwrap();
        let stream = TcpStream::connect(&address).unwrap();
        let url = tab["webSocketDebuggerUrl"].as_str().unwrap();
        let (socket, _) = tungstenite::client(url, stream).unwrap();
        let mut browser =
            Browser { socket, calls: 0, requests: Vec::new(), complaints: Vec::new(), _process: process };
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        Some(browser)
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.calls += 1;
        let call = json!({"id": self.calls, "method": method, "params": params});
        self.socket.send(Message::text(call.to_string())).unwrap();
        loop {
            let Message::Text(text) = self.socket.read().unwrap() else { continue };
            let answer: Value = serde_json::from_str(&text).unwrap();
            if answer["id"] == self.calls {
                return answer["result"].clone();
            }
            match answer["method"].as_str() {
                Some("Network.requestWillBeSent") => {
                    self.requests.push(answer["params"]["request"]["url"].as_str().unwrap().to_owned());
                }
                Some("Runtime.exceptionThrown" | "Log.entryAdded" | "Runtime.consoleAPICalled") => {
                    self.complaints.push(answer["params"].clone());
                }
                _ => {}
            }
        }
    }

    fn evaluate(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true});
        self.call("Runtime.evaluate", params)["result"]["value"].clone()
    }

    fn text(&mut self, id: &str) -> String {
        let text = self.evaluate(&format!("document.getElementById('{id}').innerText"));
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until an element's text has this in it.
    fn shows(&mut self, id: &str, what: &str) {
        let began = Instant::now();
        loop {
            let text = self.text(id);
            if text.contains(what) {
                return;
            }
            assert!(
                began.elapsed() < Duration::from_secs(20),
                "{id}: {text}, not {what}: {:?}",
                self.complaints
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until an expression is true.
    fn becomes(&mut self, expression: &str) {
        let began = Instant::now();
        while self.evaluate(expression) != true {
            assert!(began.elapsed() < Duration::from_secs(20), "{expression}: {:?}", self.complaints);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn press(&mut self, key: &str, code: u32, text: &str) {
        for kind in ["keyDown", "keyUp"] {
            let params =
                json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text});
            self.call("Input.dispatchKeyEvent", params);
        }
    }

    fn focus(&mut self) -> Value {
        self.evaluate("document.activeElement.id")
    }

    fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({"text": text}));
    }
}

#[test]
fn a_connection_is_opened_and_talked_over_by_keyboard() {
    let profile = tempfile::tempdir().unwrap();
    let Some(mut browser) = Browser::start(profile.path()) else {
        println!("SKIPPED: chromium is not installed");
        return;
    };
    let (here, there) = (Daemon::start(), Daemon::start());
    browser.call("Page.navigate", json!({"url": format!("http://{}/#{}", here.api, here.token)}));
    browser.shows("address", &here.address);
    browser.shows("nats", "127.0.0.1");
    browser.becomes("(q => !q.hidden && q.complete && q.naturalWidth >= 200)(document.getElementById('qr'))");
    // The token is not left in the address bar, the history or a bookmark.
    assert_eq!(browser.evaluate("location.href"), format!("http://{}/", here.api));
    for id in ["copy", "to"] {
        browser.press("Tab", 9, "");
        assert_eq!(browser.focus(), id);
    }
    browser.write(&there.address);
    browser.press("Enter", 13, "\r");
    browser.shows("outcome", "con_name: direct connect in ");
    browser.shows("progress", "direct: ");
    browser.shows("list", &there.id);
    browser.shows("log", "connected");
    assert_eq!(browser.focus(), "text");
    browser.write("ECHO <b>hello</b>");
    browser.press("Enter", 13, "\r");
    browser.shows("log", "< <b>hello</b>");
    assert_eq!(here.ok("/p2p/con/con_name")["piped"], true);
    // A peer's pipe appears by itself.
    there.ok(&format!("/p2p/open/back/{}", here.address));
    browser.shows("list", "by the peer");
    // Both schemes, and a telephone's width.
    for scheme in ["dark", "light"] {
        let feature = json!([{"name": "prefers-color-scheme", "value": scheme}]);
        browser.call("Emulation.setEmulatedMedia", json!({"features": feature}));
        let colours = browser.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor].join()",
        );
        let expected = if scheme == "dark" {
            "rgb(230, 232, 235),rgb(20, 23, 27)"
        } else {
            "rgb(27, 31, 36),rgb(246, 247, 249)"
        };
        assert_eq!(colours, expected);
    }
    let narrow = json!({"width": 360, "height": 640, "deviceScaleFactor": 1, "mobile": true});
    browser.call("Emulation.setDeviceMetricsOverride", narrow);
    assert_eq!(browser.evaluate("document.documentElement.scrollWidth"), 360);
    let own = format!("http://{}/", here.api);
    assert!(
        browser.requests.iter().all(|url| url.starts_with(&own) || url.starts_with("data:")),
        "{:?}",
        browser.requests
    );
    assert_eq!(browser.complaints, Vec::<Value>::new());
}

/// A peer is called by its name, and one that nobody has says so.
#[test]
fn a_name_is_as_good_as_an_address() {
    let profile = tempfile::tempdir().unwrap();
    let Some(mut browser) = Browser::start(profile.path()) else {
        println!("SKIPPED: chromium is not installed");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let list = path("servers.toml");
    let mut serve = p2pd(&["serve", "--json", "--bind", "127.0.0.1", "--mqtt-port", "0", "--stun-port", "0"]);
    serve.args(["--write", &list]);
    let _serving = start(serve, "serving");
    let there = ["listen", "--echo", "--json", "--bind", "127.0.0.1", "--config", &list, "--name", "example"];
    let mut there = p2pd(&there);
    there.args(["--identity", &path("there.key")]);
    let (_listening, events) = start(there, "ready");
    let id = events.iter().find(|event| event["event"] == "ready").unwrap()["node_id"].clone();
    let here = Daemon::with(&["--config", &list, "--identity", &path("here.key")]);
    browser.call("Page.navigate", json!({"url": format!("http://{}/#{}", here.api, here.token)}));
    browser.shows("address", &here.address);
    let connect = |browser: &mut Browser, to: &str, says: &str| {
        browser.evaluate("document.getElementById('to').select()");
        browser.write(to);
        browser.press("Enter", 13, "\r");
        browser.shows("outcome", says);
    };
    connect(&mut browser, "nobody.peer", "no broker knows the name");
    connect(&mut browser, "example.peer", "con_name: direct connect in ");
    assert_eq!(here.ok("/p2p/con/con_name")["peer"], id);
    browser.shows("log", "connected");
    assert_eq!(browser.focus(), "text");
    browser.write("by name");
    browser.press("Enter", 13, "\r");
    browser.shows("log", "< by name");
}

#[test]
fn without_its_token_the_page_asks_for_it() {
    let profile = tempfile::tempdir().unwrap();
    let Some(mut browser) = Browser::start(profile.path()) else {
        println!("SKIPPED: chromium is not installed");
        return;
    };
    let daemon = Daemon::start();
    browser.call("Page.navigate", json!({"url": format!("http://{}/", daemon.api)}));
    // A hidden element has a text too.
    browser.becomes("!document.getElementById('ask').hidden");
    browser.shows("ask", "Token");
    assert_eq!(browser.text("nats"), "");
    browser.press("Tab", 9, "");
    assert_eq!(browser.focus(), "token");
    browser.write(&daemon.token);
    browser.press("Enter", 13, "\r");
    browser.shows("nats", "127.0.0.1");
    assert_eq!(browser.evaluate("document.getElementById('ask').hidden"), true);
}
