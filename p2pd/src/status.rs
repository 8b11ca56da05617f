//! `p2pd status`: what a daemon of this machine holds, asked over its API.

use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use p2pd_core::text::shown;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::commands::usage;
use crate::options;
use crate::print;
use crate::say::Say;
use crate::signals::interrupted;

/// Longest wait for an answer.
const ANSWER: Duration = Duration::from_secs(10);
/// Longest answer.
const MOST: usize = 16 << 20;
/// Time between two looks.
const AGAIN: Duration = Duration::from_secs(1);
/// Clears a terminal and goes to its first line.
const CLEAR: &[u8] = b"\x1b[H\x1b[2J";

/// A daemon's API.
struct Api {
    at: SocketAddr,
    unix: Option<PathBuf>,
    token: Option<String>,
}

/// Prints once, or with `--watch` until interrupted.
pub(crate) async fn run(options: &options::Status, say: Say) -> ExitCode {
    if !options.api.ip().is_loopback() {
        return usage(say, &format!("--api {}: the API is a loopback address of this machine", options.api));
    }
    let file = options.token_file.clone().or_else(|| crate::secret::at_home("token"));
    let token = match (&options.unix, file.as_deref().map(crate::secret::load)) {
        (Some(_), _) | (_, None | Some(Ok(None))) => None,
        (None, Some(Ok(token))) => token,
        (None, Some(Err(why))) => return usage(say, &why),
    };
    let api = Api { at: options.api, unix: options.unix.clone(), token };
    let watching = async {
        loop {
            let text = match api.look().await {
                Ok(all) if say.is_json() => print::for_programs(&all.to_string()) + "\n",
                Ok(all) => table(&all),
                Err(why) => {
                    say.error(&why);
                    return ExitCode::FAILURE;
                }
            };
            let clears = options.watch && !say.is_json() && io::stdout().is_terminal();
            let clear = if clears { CLEAR } else { b"" };
            if print::raw(&[clear, text.as_bytes()].concat()).is_err() {
                return ExitCode::FAILURE;
            }
            if !options.watch {
                return ExitCode::SUCCESS;
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    tokio::select! {
        code = watching => code,
        () = interrupted() => ExitCode::SUCCESS,
    }
}

impl Api {
    /// Asks for all that there is.
    async fn look(&self) -> Result<Value, String> {
        let (address, connections, sessions, turns) = tokio::try_join!(
            self.get("/p2p/addr"),
            self.get("/p2p/con"),
            self.get("/p2p/session"),
            self.get("/p2p/turn"),
        )?;
        Ok(json!({
            "address": address["addr"], "connections": connections["cons"], "sessions": sessions["sessions"],
            "turns": turns["turns"],
        }))
    }

    async fn get(&self, path: &str) -> Result<Value, String> {
        let asked = async {
            match &self.unix {
                None => {
                    let stream = TcpStream::connect(self.at).await;
                    self.ask(stream.map_err(|why| format!("no daemon at {}: {why}", self.at))?, path).await
                }
                Some(at) => self.ask(connect(at).await?, path).await,
            }
        };
        timeout(ANSWER, asked).await.map_err(|_| "the daemon does not answer".to_owned())?
    }

    async fn ask(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        path: &str,
    ) -> Result<Value, String> {
        let broke = |why: &dyn std::fmt::Display| format!("the daemon broke off: {why}");
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|why| broke(&why))?;
        let running = tokio::spawn(connection);
        let mut request = Request::get(path).header("host", "localhost");
        if let Some(token) = &self.token {
            request = request.header("x-p2pd-token", token);
        }
        let request = request.body(Body::empty()).map_err(|why| broke(&why))?;
        let answer = sender.send_request(request).await.map_err(|why| broke(&why))?;
        let body = to_bytes(Body::new(answer.into_body()), MOST).await.map_err(|why| broke(&why))?;
        running.abort();
        let said: Value = serde_json::from_slice(&body).map_err(|_| "this is no p2pd daemon".to_owned())?;
        match said["error"].as_u64() {
            Some(0) => Ok(said),
            _ => Err(said["msg"].as_str().unwrap_or("the daemon refuses").to_owned()),
        }
    }
}

#[cfg(unix)]
async fn connect(at: &Path) -> Result<tokio::net::UnixStream, String> {
    tokio::net::UnixStream::connect(at).await.map_err(|why| format!("{}: {why}", at.display()))
}

#[cfg(not(unix))]
async fn connect(_: &Path) -> Result<TcpStream, String> {
    Err("--unix: there are no Unix sockets here".into())
}

/// Writes what there is as a table for people. The names are those of peers, so they are shown as plain text.
fn table(all: &Value) -> String {
    let mut rows =
        vec![["KIND", "NAME", "BY", "VIA", "REMOTE", "RTT", "SENT", "RECEIVED", "STATE"].map(String::from)];
    let text = |value: &Value| value.as_str().map_or_else(|| "-".to_owned(), |text| shown(text).to_string());
    let number = |value: &Value| value.as_u64().map_or_else(|| "-".to_owned(), |n| n.to_string());
    let end = |pair: &Value| format!("{}:{}", text(&pair[0]), number(&pair[1]));
    let by = |of: &Value| if of["incoming"] == true { "peer" } else { "us" }.to_owned();
    let list = |key: &str| all[key].as_array().cloned().unwrap_or_default();
    for of in list("connections") {
        let remote = end(&of["raddr"]);
        let via = text(&of["strategy"]).replace(" connect", "");
        let state = if of["ended"] == true { "ended" } else { "open" }.to_owned();
        let (sent, received) = (number(&of["sent"]), number(&of["received"]));
        rows.push([
            "connection".into(),
            text(&of["name"]),
            by(&of),
            via,
            remote,
            "-".into(),
            sent,
            received,
            state,
        ]);
    }
    for of in list("sessions") {
        let carrier = &of["carrier"];
        let rtt = of["round_trip_ms"].as_f64().map_or_else(|| "-".into(), |ms| format!("{ms:.1} ms"));
        let streams = of["streams"].as_array().map_or(0, Vec::len);
        let standing = if carrier.is_null() { "stranded" } else { "open" };
        let state = format!("{standing}, {streams} streams, {} moves", number(&of["moves"]));
        let (via, remote) = (text(&carrier["strategy"]), text(&carrier["remote"]));
        rows.push([
            "session".into(),
            text(&of["name"]),
            by(&of),
            via,
            remote,
            rtt,
            "-".into(),
            "-".into(),
            state,
        ]);
    }
    for of in list("turns") {
        let mut row = ["relayed", "-", "us", "relay", "-", "-", "-", "-", "open"].map(String::from);
        row[1] = text(&of["name"]);
        row[4] = end(&of["relayed"]);
        rows.push(row);
    }
    let mut out = format!("address {}\n", text(&all["address"]));
    let widths: Vec<usize> =
        (0..9).map(|n| rows.iter().map(|row| row[n].chars().count()).max().unwrap_or_default()).collect();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a String cannot fail.
            let _ = write!(line, "{cell:width$}  ");
        }
        out += line.trim_end();
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_for_each_and_steers_no_terminal() {
        let all = json!({
            "address": "0-0-0-x",
            "connections": [{
                "name": "a\u{1b}[2J", "incoming": true, "strategy": "direct connect", "raddr": ["192.0.2.1", 7], "sent": 5,
                "received": 6, "ended": false,
            }],
            "sessions": [{
                "name": "s", "incoming": false, "carrier": null, "round_trip_ms": 12.34, "streams": [0, 1], "moves": 3,
            }],
            "turns": [{"name": "t", "relayed": ["192.0.2.9", 5000]}],
        });
        assert_eq!(
            table(&all),
            "address 0-0-0-x\n\
             KIND        NAME        BY    VIA     REMOTE          RTT      SENT  RECEIVED  STATE\n\
             connection  a\\u{1b}[2J  peer  direct  192.0.2.1:7     -        5     6         open\n\
             session     s           us    -       -               12.3 ms  -     -         stranded, 2 streams, 3 moves\n\
             relayed     t           us    relay   192.0.2.9:5000  -        -     -         open\n"
        );
    }
}
