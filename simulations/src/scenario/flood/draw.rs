//! Floods drawn from a seed, from numbers that nothing else uses.

use super::{Act, Flood, Greeting, Named, Part, Plea, Whose};
use crate::engine::{Domain, Keyed, MILLI, SECOND};

/// One seed in so many has strangers.
const SHARE: u64 = 8;

/// The flood of this seed; none for most, unless it is to have one.
pub(crate) fn draw(rng: Keyed, always: bool) -> Option<Flood> {
    let mut drawn = 0;
    let mut below = |bound: u64| {
        drawn += 1;
        rng.below(Domain::Stranger, 0, drawn, bound)
    };
    if below(SHARE) != 0 && !always {
        return None;
    }
    let victims = [[true, false], [true, false], [false, true], [true, true]][below(4) as usize];
    let named = [Named::Listed, Named::Approved, Named::Remembered, Named::Nobody][below(4) as usize];
    let warm = below(4_000) * MILLI;
    let count = 1 + below(3);
    let parts = (0..count).map(|_| part(&mut below)).collect();
    Some(Flood { victims, named, warm, parts })
}

fn part(below: &mut dyn FnMut(u64) -> u64) -> Part {
    let addresses = [1, 1, 4, 16][below(4) as usize];
    let a_second = |rate: u64| SECOND / rate;
    match below(8) {
        0 | 1 => {
            let greeting = [Greeting::Silent, Greeting::Garbage, Greeting::Cut(1 + below(40) as u8)];
            let hold = (below(2) == 0).then(|| below(6_000) * MILLI);
            let every = a_second(20 + below(580));
            let act = Act::Stream(greeting[below(3) as usize], hold);
            Part { addresses, keys: 1, every, acts: 8_000, act }
        }
        // Each costs a millisecond of ours.
        2 | 3 => {
            let greeting = [Greeting::First, Greeting::Again, Greeting::Pipe][below(3) as usize];
            let hold = (below(4) == 0).then(|| below(6_000) * MILLI);
            let keys = 1 + [0, 3, 99][below(3) as usize];
            Part {
                addresses,
                keys,
                every: a_second(5 + below(75)),
                acts: 600,
                act: Act::Stream(greeting, hold),
            }
        }
        4..=6 => {
            let whose = [Whose::Own, Whose::Third, Whose::Inside];
            let all = [
                Plea::Dial(whose[below(3) as usize]),
                Plea::Punch(whose[below(3) as usize]),
                Plea::Relay(whose[below(3) as usize]),
                Plea::Echo,
                Plea::Clock,
                Plea::Dialled,
                Plea::Refused,
                Plea::Noise,
            ];
            let few = below(2) == 0;
            let pleas = match few {
                true => vec![all[below(8) as usize]],
                false => (0..1 + below(7)).map(|_| all[below(8) as usize]).collect(),
            };
            let ahead = [0, 0, 590][below(3) as usize];
            let keys = [1, 17, 200][below(3) as usize];
            Part {
                addresses: 1,
                keys,
                every: a_second(2 + below(300)),
                acts: 1_500,
                act: Act::Letter(pleas, ahead),
            }
        }
        _ => Part { addresses, keys: 1, every: a_second(20 + below(480)), acts: 4_000, act: Act::Datagram },
    }
}
