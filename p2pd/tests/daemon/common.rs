//! Daemons on loopback.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

pub(crate) use crate::outside::{Running, curl};

pub(crate) fn p2pd(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_p2pd"));
    command.args(args).env(p2pd::servers::FORBID_PUBLIC, "1");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// Starts the program and returns its events until the event `until`. Later events are thrown away.
pub(crate) fn start(mut command: Command, until: &str) -> (Running, Vec<Value>) {
    let mut child = Running(command.spawn().unwrap());
    let mut said = BufReader::new(child.0.stderr.take().unwrap());
    let mut events: Vec<Value> = Vec::new();
    while events.last().is_none_or(|event| event["event"] != until) {
        let mut line = String::new();
        assert_ne!(said.read_line(&mut line).unwrap(), 0, "it ended: {events:?}");
        events.push(serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}")));
    }
    std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
    (child, events)
}

/// Starts servers on loopback that write their list into this file.
pub(crate) fn serve(list: &Path, options: &[&str]) -> Running {
    let mut serve = p2pd(&["serve", "--json", "--bind", "127.0.0.1", "--mqtt-port", "0", "--stun-port", "0"]);
    serve.args(options).arg("--write").arg(list);
    start(serve, "serving").0
}

pub(crate) struct Daemon {
    pub(crate) api: SocketAddr,
    pub(crate) token: String,
    /// The node's address and id.
    pub(crate) address: String,
    pub(crate) id: String,
    pub(crate) dir: TempDir,
    pub(crate) process: Running,
}

impl Daemon {
    /// Starts a daemon with a token and without servers.
    pub(crate) fn start() -> Self {
        Self::with(&["--no-servers"])
    }

    pub(crate) fn with(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file: PathBuf = dir.path().join("token");
        let mut command = p2pd(&["daemon", "--json", "--bind", "127.0.0.1", "--api", "127.0.0.1:0"]);
        // Its secrets and the peers that it knows are its own.
        command.args(args).env("HOME", dir.path());
        if !args.contains(&"--no-token") {
            command.arg("--token-file").arg(&file);
        }
        let (process, events) = start(command, "ready");
        let of = |name: &str| events.iter().find(|event| event["event"] == name).unwrap();
        let text = |event: &Value, key: &str| event[key].as_str().unwrap().to_owned();
        Daemon {
            api: text(of("api"), "api").parse().unwrap(),
            token: std::fs::read_to_string(&file).unwrap_or_default().trim().to_owned(),
            address: text(of("ready"), "address"),
            id: text(of("ready"), "node_id"),
            dir,
            process,
        }
    }

    /// `curl -g OPTIONS http://API/PATH` with the token: status and JSON.
    pub(crate) fn curl(&self, path: &str, options: &[&str]) -> (u16, Value) {
        let token = format!("X-P2PD-Token: {}", self.token);
        let (status, body) = self.bare(path, &[&["-H", &token], options].concat());
        let json = serde_json::from_slice(&body);
        (status, json.unwrap_or_else(|_| panic!("{path}: {}", String::from_utf8_lossy(&body))))
    }

    pub(crate) fn get(&self, path: &str) -> (u16, Value) {
        self.curl(path, &[])
    }

    /// The JSON of a call that succeeds.
    pub(crate) fn ok(&self, path: &str) -> Value {
        let (status, json) = self.get(path);
        assert_eq!((status, &json["error"]), (200, &0.into()), "{path}: {json}");
        json
    }

    /// Status and `error` of a call that does not.
    pub(crate) fn error(&self, path: &str) -> (u16, u64) {
        let (status, json) = self.get(path);
        assert!(json["msg"].is_string(), "{path}: {json}");
        (status, json["error"].as_u64().unwrap())
    }

    /// Makes a request without the token, and returns status and body.
    pub(crate) fn bare(&self, path: &str, options: &[&str]) -> (u16, Vec<u8>) {
        curl(options, &format!("http://{}{path}", self.api))
    }

    /// A connection to type HTTP into.
    pub(crate) fn socket(&self) -> TcpStream {
        let stream = TcpStream::connect(self.api).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Sends a request as it stands, and returns the answer up to the connection's end.
    pub(crate) fn raw(&self, request: &[u8]) -> String {
        let mut stream = self.socket();
        stream.write_all(request).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    }
}
