//! Floods drawn from a seed, from numbers that nothing else uses.

use super::{Act, Flood, Greeting, Named, Part, Plea, Whose};
use crate::domain;
use crate::engine::{Keyed, MILLI, Nanos, SECOND};

/// Number of seeds of which one has strangers.
const SHARE: u64 = 8;
/// Number of floods of which one begins with a deluge.
const DELUGES: u64 = 24;

/// The flood of this seed; none for most, unless it is to have one.
pub(crate) fn draw(rng: Keyed, always: bool) -> Option<Flood> {
    let mut drawn = 0;
    let mut below = |bound: u64| {
        drawn += 1;
        rng.below(domain::STRANGER, 0, drawn, bound)
    };
    if below(SHARE) != 0 && !always {
        return None;
    }
    let victims = [[true, false], [true, false], [false, true], [true, true]][below(4) as usize];
    let named = [Named::Listed, Named::Approved, Named::Remembered, Named::Nobody][below(4) as usize];
    let warm = below(2_000) * MILLI;
    let count = 1 + below(3);
    let parts = (0..count).map(|_| part(&mut below)).collect();
    let mut flood = Flood { victims, named, warm, parts };
    if below(DELUGES) == 0 {
        // More messages than ids of strangers are remembered, before anybody calls.
        flood.warm = 22 * SECOND;
        let act = Act::Letter(vec![Plea::Echo, Plea::Clock, Plea::Dialled], 590);
        flood.parts[0] = Part { addresses: 1, keys: 17, every: SECOND / 195, acts: 5_000, act };
    }
    Some(flood)
}

/// Draws a part. Acts that cost a millisecond of a real processor are fewer.
fn part(below: &mut dyn FnMut(u64) -> u64) -> Part {
    let addresses = [1, 1, 4, 16][below(4) as usize];
    match below(8) {
        0 | 1 => {
            let greeting = [Greeting::Silent, Greeting::Garbage, Greeting::Cut(1 + below(40) as u8)];
            let act = Act::Stream(greeting[below(3) as usize], hold(below));
            Part { addresses, keys: 1, every: SECOND / (20 + below(580)), acts: 3_000, act }
        }
        2 | 3 => {
            let greeting = [Greeting::First, Greeting::Again, Greeting::Pipe][below(3) as usize];
            let act = Act::Stream(greeting, hold(below));
            let keys = 1 + [0, 3, 99][below(3) as usize];
            Part { addresses, keys, every: SECOND / (5 + below(75)), acts: 200, act }
        }
        4..=6 => {
            let pleas = pleas(below);
            let ahead = [0, 0, 590][below(3) as usize];
            let keys = [1, 17, 200][below(3) as usize];
            let act = Act::Letter(pleas, ahead);
            Part { addresses: 1, keys, every: SECOND / (2 + below(98)), acts: 400, act }
        }
        _ => Part { addresses, keys: 1, every: SECOND / (20 + below(480)), acts: 3_000, act: Act::Datagram },
    }
}

/// Draws the time after which a stream is closed; `None` if it is not closed.
fn hold(below: &mut dyn FnMut(u64) -> u64) -> Option<Nanos> {
    (below(2) == 0).then(|| below(6_000) * MILLI)
}

fn pleas(below: &mut dyn FnMut(u64) -> u64) -> Vec<Plea> {
    let whose = [Whose::Own, Whose::Third, Whose::Inside];
    let mut one = || match below(10) {
        0 | 1 => Plea::Dial(whose[below(3) as usize]),
        2 | 3 => Plea::Punch(whose[below(3) as usize]),
        4 | 5 => Plea::Relay(whose[below(3) as usize]),
        6 => Plea::Echo,
        7 => Plea::Clock,
        8 => [Plea::Dialled, Plea::Refused][below(2) as usize],
        _ => Plea::Noise,
    };
    // A few alone say more than all mixed.
    let first = one();
    if matches!(first, Plea::Noise | Plea::Echo) { vec![first] } else { vec![first, one(), one()] }
}
