//! `p2pd ping`: round trips to a peer, by its brokers or on a pipe.

use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use p2pd_core::{Event, PeerAddress, PipeMode, Plan, Target};
use p2pd_tokio::{Events, Node, Pipe};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

use crate::options::Ping as Options;
use crate::say::Say;
use crate::signals;

/// Bytes of a pipe that an answer may come after.
const MOST: usize = 64 * 1024;

/// Peers that answer, and by which way.
const WHO_ANSWERS: &str = "on a pipe `p2pd daemon` and `p2pd listen --echo` answer pings; every p2pd does over a broker that both have";

/// Questions to be asked, and in which way.
#[derive(Debug)]
pub(crate) struct Wanted {
    count: u32,
    interval: Duration,
    timeout: Duration,
    /// The plan of the pipe that is asked on; without one the brokers carry the questions.
    plan: Option<Plan>,
}

impl Wanted {
    pub(crate) fn new(options: &Options) -> Self {
        let Options { count, interval, timeout, .. } = *options;
        let mode = if options.common.plain { PipeMode::Plain } else { PipeMode::Encrypted };
        let plan = options.pipe.then(|| Plan::new().mode(mode));
        Wanted { count, interval, timeout, plan }
    }
}

/// Way in which a peer is asked.
enum Way {
    Brokers(Box<PeerAddress>, Events),
    Pipe(Box<Pipe>),
}

/// An answer: the time that it took, and what carried it.
type Answer = (Duration, String);

/// Asks, and ends with success if anything was answered.
pub(crate) async fn run(node: &Node, to: &Target, wanted: &Wanted, say: Say) -> ExitCode {
    let mut way = match Way::open(node, to, wanted, say).await {
        Ok(way) => way,
        Err(why) => {
            say.error(&why);
            say.warning(WHO_ANSWERS);
            return ExitCode::FAILURE;
        }
    };
    let (mut sent, mut times) = (0, Vec::new());
    let pinging = async {
        for number in 1..=wanted.count {
            let asked = Instant::now();
            sent += 1;
            let answer = match way.ask(node, number, wanted.timeout).await {
                Ok(answer) => answer,
                Err(why) => return say.error(&why),
            };
            times.extend(answer.as_ref().map(|(took, _)| *took));
            if !say.pong(number, answer.as_ref().map(|(took, by)| (*took, &**by))) {
                return;
            }
            if number < wanted.count {
                tokio::time::sleep(wanted.interval.saturating_sub(asked.elapsed())).await;
            }
        }
    };
    tokio::select! {
        () = pinging => if times.is_empty() {
            say.warning(WHO_ANSWERS);
        },
        () = signals::interrupted() => {}
    }
    if say.pongs(sent, &times) && !times.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Way {
    async fn open(node: &Node, to: &Target, wanted: &Wanted, say: Say) -> Result<Self, String> {
        if let Some(plan) = &wanted.plan {
            let pipe = node.connect_with(to, plan.clone()).await.map_err(|why| why.to_string())?;
            say.opened("connected", &pipe);
            return Ok(Way::Pipe(Box::new(pipe)));
        }
        let events = node.events();
        let address = match to {
            Target::Address(address) => (**address).clone(),
            Target::Name(name) => node.resolve(*name).await.map_err(|why| why.to_string())?,
        };
        // Until then no broker has proven that it delivers.
        node.address().await;
        Ok(Way::Brokers(Box::new(address), events))
    }

    /// Asks once; `None`: no answer in time.
    async fn ask(&mut self, node: &Node, number: u32, within: Duration) -> Result<Option<Answer>, String> {
        match self {
            Way::Brokers(address, events) => {
                let brokers = node.ping(address, number).await.map_err(|why| why.to_string())?;
                if brokers == 0 {
                    return Err("no broker that both have is ready".into());
                }
                let answer = tokio::time::timeout(within, pong(events, number)).await;
                Ok(answer.ok().flatten())
            }
            Way::Pipe(pipe) => {
                let text = format!("p2pd ping {number:010}");
                let began = Instant::now();
                let asking = async {
                    pipe.write_all(format!("ECHO {text}").as_bytes()).await?;
                    pipe.flush().await?;
                    echo(pipe, text.as_bytes()).await
                };
                match tokio::time::timeout(within, asking).await {
                    Ok(Ok(())) => Ok(Some((began.elapsed(), "the pipe".into()))),
                    Ok(Err(why)) => Err(format!("the pipe broke: {why}")),
                    Err(_) => Ok(None),
                }
            }
        }
    }
}

/// Reads until the text comes, after whatever else: earlier answers, or the word of one that sends all of it back.
async fn echo(mut pipe: impl AsyncRead + Unpin, text: &[u8]) -> io::Result<()> {
    let (mut heard, mut all) = (Vec::new(), 0);
    while all < MOST {
        let came = pipe.read_buf(&mut heard).await?;
        if came == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if heard.windows(text.len()).any(|part| part == text) {
            return Ok(());
        }
        all += came;
        // The text may have begun.
        heard.drain(..heard.len().saturating_sub(text.len() - 1));
    }
    Err(io::Error::other(format!("{MOST} bytes came without the answer")))
}

/// Waits for the answer with this number.
async fn pong(events: &mut Events, number: u32) -> Option<Answer> {
    loop {
        match events.recv().await {
            Some(Ok(Event::Pong { number: of, broker, took, .. })) if of == number => {
                return Some((took, format!("broker {broker}")));
            }
            Some(_) => {}
            None => return None,
        }
    }
}

/// The smallest, the mean and the largest of the times, in milliseconds.
fn figures(times: &[Duration]) -> Option<[f64; 3]> {
    let ms = |time: &Duration| time.as_secs_f64() * 1e3;
    let sum: f64 = times.iter().map(ms).sum();
    Some([ms(times.iter().min()?), sum / times.len() as f64, ms(times.iter().max()?)])
}

impl Say {
    fn pong(self, number: u32, answer: Option<(Duration, &str)>) -> bool {
        let ms = answer.map(|(took, _)| took.as_secs_f64() * 1e3);
        self.result(
            || json!({"event": "pong", "number": number, "ms": ms, "by": answer.map(|(_, by)| by)}),
            || match (ms, answer) {
                (Some(ms), Some((_, by))) => format!("answer {number} by {by}: {ms:.1} ms"),
                _ => format!("answer {number}: none in time"),
            },
        )
    }

    fn pongs(self, sent: u32, times: &[Duration]) -> bool {
        let (answered, figures) = (times.len(), figures(times));
        let lost = 100.0 * (1.0 - answered as f64 / f64::from(sent.max(1)));
        self.result(
            || json!({
                "event": "pings", "sent": sent, "answered": answered, "lost_percent": lost,
                "min_ms": figures.map(|f| f[0]), "mean_ms": figures.map(|f| f[1]), "max_ms": figures.map(|f| f[2]),
            }),
            || {
                let mut text = format!("{sent} asked, {answered} answered, {lost:.0} % lost");
                if let Some([min, mean, max]) = figures {
                    text += &format!("; round trip min/mean/max {min:.1}/{mean:.1}/{max:.1} ms");
                }
                text
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_is_found_in_pieces_and_not_looked_for_without_end() {
        let in_pieces = (&b"late answer 1, ECHO ans"[..]).chain(&b"wer 2, and more"[..]);
        assert!(echo(in_pieces, b"answer 2").await.is_ok());
        let ended = echo(&b"answer"[..], b"answer 2").await.unwrap_err();
        assert_eq!(ended.kind(), io::ErrorKind::UnexpectedEof);
        let flooded = echo(tokio::io::repeat(b'a'), b"answer 2").await.unwrap_err();
        assert_eq!(flooded.to_string(), "65536 bytes came without the answer");
    }
}
