//! Wishes, as links have them.

use core::str::FromStr;

use p2pd_netsim::dial::Attempt;
use p2pd_netsim::engine::{MILLI, Nanos};
use p2pd_netsim::nat::{Chain, SpecError, Unsolicited};

/// Most NATs between a host and the internet.
const MOST_NATS: usize = 4;

/// A run that somebody wishes, read from a query like `seed=7&a=linux&b=openwrt&delay=40`.
///
/// `seed`: 0 to 2⁶⁴ - 1, default 1. `a` and `b`: chains of NATs, default `linux`; `b` dials `late` ms later, up to 10,000. `delay`:
/// time from one computer to the other, 0 to 2,000 ms, default 40. `loss`: packets that the internet loses, 0 to 100 of a hundred.
/// `listen=1`: a listener beside each dial. `retry=1`: dials again after an error. `drop=a` or `b`: the first packet of that
/// computer is lost on its way to its router. `rst=a`, `b` or `ab`: outermost routers that answer strangers by RST.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Seed of all randomness.
    pub seed: u64,
    /// The two dials.
    pub attempt: Attempt,
    /// Packets that the internet loses, in a million.
    pub loss_ppm: u32,
    /// Side whose first packet is lost at home.
    pub drop: Option<usize>,
}

fn number(name: &str, value: &str, most: u64) -> Result<u64, String> {
    value
        .parse()
        .ok()
        .filter(|number| *number <= most)
        .ok_or_else(|| format!("{name}: {value:?} is no number from 0 to {most}"))
}

fn flag(name: &str, value: &str) -> Result<bool, String> {
    number(name, value, 1).map(|number| number == 1)
}

fn chain(value: &str) -> Result<Chain, String> {
    let chain: Chain = value.parse().map_err(|error| match error {
        SpecError::Name(name) => format!("{value}: no NAT is called {name:?}"),
        other => format!("{value}: {other}"),
    })?;
    if chain.0.len() > MOST_NATS {
        return Err(format!("{value}: more than {MOST_NATS} NATs"));
    }
    Ok(chain)
}

/// Takes the percent signs out of a value. What is not UTF-8 then is left as it was.
fn plain(value: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = value.as_bytes();
    while let Some((&first, more)) = rest.split_first() {
        let code = more.get(..2).filter(|_| first == b'%').and_then(|code| core::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &more[2..];
            }
            None => {
                bytes.push(first);
                rest = more;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| value.into())
}

impl FromStr for Wish {
    type Err = String;

    fn from_str(query: &str) -> Result<Wish, String> {
        let (mut delay, mut late) = (40, 0);
        let mut chains = [chain("linux")?, chain("linux")?];
        let mut rst = String::new();
        let mut wish = Wish {
            seed: 1,
            attempt: Attempt { chains: chains.clone(), one_way: 0, offset: 0, listen: false, retry: None },
            loss_ppm: 0,
            drop: None,
        };
        for field in query.split('&').filter(|field| !field.is_empty()) {
            let (name, value) = field.split_once('=').unwrap_or((field, ""));
            let value = plain(value);
            match name {
                "seed" => wish.seed = number(name, &value, u64::MAX)?,
                "a" => chains[0] = chain(&value)?,
                "b" => chains[1] = chain(&value)?,
                "delay" => delay = number(name, &value, 2_000)?,
                "late" => late = number(name, &value, 10_000)?,
                "loss" => wish.loss_ppm = number(name, &value, 100)? as u32 * 10_000,
                "listen" => wish.attempt.listen = flag(name, &value)?,
                // As a program does that waits a little longer each time, so that both do not stay in step.
                "retry" => wish.attempt.retry = flag(name, &value)?.then_some(20 * MILLI),
                "drop" => {
                    wish.drop = match value.as_str() {
                        "" => None,
                        "a" => Some(0),
                        "b" => Some(1),
                        _ => return Err(format!("drop: {value:?} is neither a nor b")),
                    }
                }
                "rst" => match value.as_str() {
                    "" | "a" | "b" | "ab" => rst = value,
                    _ => return Err(format!("rst: {value:?} is neither a, b nor ab")),
                },
                _ => return Err(format!("{name:?} is no wish")),
            }
        }
        for (side, chain) in ["a", "b"].into_iter().zip(&mut chains) {
            if let Some(outermost) = chain.0.last_mut().filter(|_| rst.contains(side)) {
                outermost.unsolicited = Unsolicited::Rst;
            }
        }
        wish.attempt.chains = chains;
        (wish.attempt.one_way, wish.attempt.offset) = (delay * MILLI as Nanos, late * MILLI as Nanos);
        Ok(wish)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(query: &str) -> String {
        query.parse::<Wish>().unwrap_err()
    }

    #[test]
    fn a_query_is_read_and_what_is_wrong_named() {
        let wish: Wish =
            "seed=18446744073709551615&a=linux%2Bcgn&b=open&delay=30&late=50&loss=3&drop=b&rst=ab&retry=1"
                .parse()
                .unwrap();
        assert_eq!((wish.seed, wish.loss_ppm, wish.drop), (u64::MAX, 30_000, Some(1)));
        let chains = wish.attempt.chains;
        assert_eq!(chains.each_ref().map(|chain| chain.0.len()), [2, 0]);
        assert_eq!(chains[0].0[1].unsolicited, Unsolicited::Rst);
        assert_eq!((wish.attempt.one_way, wish.attempt.offset), (30 * MILLI, 50 * MILLI));
        assert_eq!("".parse::<Wish>().unwrap().seed, 1);
        assert_eq!(error("late=10001"), "late: \"10001\" is no number from 0 to 10000");
        assert_eq!(error("late=soon"), "late: \"soon\" is no number from 0 to 10000");
        assert_eq!(error("loss=1%2"), "loss: \"1%2\" is no number from 0 to 100");
        assert_eq!(error("seed=-1"), "seed: \"-1\" is no number from 0 to 18446744073709551615");
        assert_eq!(error("retry=yes"), "retry: \"yes\" is no number from 0 to 1");
        assert_eq!(error("rst=ac"), "rst: \"ac\" is neither a, b nor ab");
        assert_eq!(error("a=nosuch"), "nosuch: no NAT is called \"nosuch\"");
        assert_eq!(error("b=linux%2Cpool=x"), "linux,pool=x: \"x\" is no value of its field");
        assert_eq!(
            error("a=linux%2Blinux%2Blinux%2Blinux%2Blinux"),
            "linux+linux+linux+linux+linux: more than 4 NATs"
        );
        assert_eq!(error("colour=red"), "\"colour\" is no wish");
        assert_eq!(error("drop=c"), "drop: \"c\" is neither a nor b");
        assert_eq!(error("a=%F0%zz%"), "%F0%zz%: no NAT is called \"%F0%zz%\"");
    }
}
