//! A headless Chromium, driven by its own protocol (DevTools) over a WebSocket.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::{Message, WebSocket};

use crate::outside::{Running, curl};

pub(crate) struct Browser {
    socket: WebSocket<TcpStream>,
    calls: u64,
    /// Requests of the page.
    pub(crate) requests: Vec<String>,
    /// Errors of the page.
    pub(crate) complaints: Vec<Value>,
    _process: Running,
}

impl Browser {
    /// `None`, and said so, where there is none; where everything is said to be here, that is a failure. `more` are further
    /// arguments.
    pub(crate) fn start(test: &str, profile: &Path, more: &[&str]) -> Option<Self> {
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
        command.args(more).arg(format!("--user-data-dir={}", profile.display())).arg("about:blank");
        let mut process = match command.stderr(Stdio::piped()).spawn() {
            Ok(process) => Running(process),
            Err(why) => {
                let required = std::env::var("P2PD_REQUIRE_LAB").is_ok_and(|value| value == "1");
                assert!(!required, "P2PD_REQUIRE_LAB=1, but {test} cannot run: chromium: {why}");
                // Not eprintln!, which the harness swallows when a test passes.
                let line = format!("SKIPPED {test}: chromium: {why}\n");
                let _ = std::io::stderr().write_all(line.as_bytes());
                return None;
            }
        };
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

    pub(crate) fn call(&mut self, method: &str, params: Value) -> Value {
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

    pub(crate) fn evaluate(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true});
        self.call("Runtime.evaluate", params)["result"]["value"].clone()
    }

    /// Evaluates a promise, once it is kept; panics with the error of a broken one.
    pub(crate) fn promised(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", params);
        assert!(answer["exceptionDetails"].is_null(), "{answer}: {:?}", self.complaints);
        answer["result"]["value"].clone()
    }

    pub(crate) fn text(&mut self, id: &str) -> String {
        let text = self.evaluate(&format!("document.getElementById('{id}').innerText"));
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until an element's text has this in it.
    pub(crate) fn shows(&mut self, id: &str, what: &str) {
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
    pub(crate) fn becomes(&mut self, expression: &str) {
        let began = Instant::now();
        while self.evaluate(expression) != true {
            assert!(began.elapsed() < Duration::from_secs(20), "{expression}: {:?}", self.complaints);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn press(&mut self, key: &str, code: u32, text: &str) {
        for kind in ["keyDown", "keyUp"] {
            let params =
                json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text});
            self.call("Input.dispatchKeyEvent", params);
        }
    }

    /// Scrolls to the middle of an element, and returns where it is then.
    pub(crate) fn find(&mut self, element: &str) -> Value {
        let found = format!(
            "(e => {{ e.scrollIntoView({{block: 'center'}}); const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; }})({element})"
        );
        self.evaluate(&found)
    }

    /// Presses the mouse's button on an element.
    pub(crate) fn click(&mut self, element: &str) {
        let at = self.find(element);
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({"type": kind, "x": at[0], "y": at[1], "button": "left", "clickCount": 1});
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    pub(crate) fn focus(&mut self) -> Value {
        self.evaluate("document.activeElement.id")
    }

    pub(crate) fn write(&mut self, text: &str) {
        self.call("Input.insertText", json!({"text": text}));
    }
}
