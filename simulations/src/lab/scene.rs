//! A lab's scene: all that a sweep draws, as one line of text.

use core::fmt;
use core::str::FromStr;
use std::collections::BTreeMap;

use super::place::read;
use crate::domain;
use crate::engine::Keyed;

/// The names of a scene's two homes.
const SIDES: [&str; 2] = ["here", "there"];

/// Returns true for a text that can name a number in a scene's line.
pub(super) fn is_name(name: &str) -> bool {
    let words: Vec<&str> = name.split_whitespace().collect();
    let taken = |word: &&str| *word == "seed" || SIDES.contains(word);
    words.first().is_some_and(|word| !taken(word)) && words.join(" ") == name && !name.contains(',')
}

/// A fault of the way to one of the two homes, which begins with the first pipe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fault {
    /// Packets lost, in a hundred.
    Loss(u64),
    /// Packets delivered twice, in a hundred.
    Duplicate(u64),
    /// Packets held back behind later ones, in a hundred.
    Reorder(u64),
    /// Most additional delay, in milliseconds.
    Jitter(u64),
    /// The way is cut after so many milliseconds, for so many.
    Cut(u64, u64),
    /// The home's NAT forgets everything after so many milliseconds.
    Reboot(u64),
    /// The home's node moves to another home of the kind after so many milliseconds.
    Move(u64),
}

impl Fault {
    /// Returns the fault with its numbers replaced, one after the other.
    pub(super) fn with(self, with: &mut impl FnMut(u64) -> u64) -> Fault {
        match self {
            Fault::Loss(n) => Fault::Loss(with(n)),
            Fault::Duplicate(n) => Fault::Duplicate(with(n)),
            Fault::Reorder(n) => Fault::Reorder(with(n)),
            Fault::Jitter(n) => Fault::Jitter(with(n)),
            Fault::Cut(after, time) => Fault::Cut(with(after), with(time)),
            Fault::Reboot(after) => Fault::Reboot(with(after)),
            Fault::Move(after) => Fault::Move(with(after)),
        }
    }

    fn write(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Loss(n) => write!(f, "loss {n} %"),
            Fault::Duplicate(n) => write!(f, "duplicate {n} %"),
            Fault::Reorder(n) => write!(f, "reorder {n} %"),
            Fault::Jitter(n) => write!(f, "jitter {n} ms"),
            Fault::Cut(after, time) => write!(f, "cut after {after} ms for {time} ms"),
            Fault::Reboot(after) => write!(f, "reboot after {after} ms"),
            Fault::Move(after) => write!(f, "move after {after} ms"),
        }
    }

    fn read(words: &[&str]) -> Option<Fault> {
        let n = |text: &str| text.parse().ok();
        Some(match words {
            ["loss", percent, "%"] => Fault::Loss(n(percent)?),
            ["duplicate", percent, "%"] => Fault::Duplicate(n(percent)?),
            ["reorder", percent, "%"] => Fault::Reorder(n(percent)?),
            ["jitter", most, "ms"] => Fault::Jitter(n(most)?),
            ["cut", "after", after, "ms", "for", time, "ms"] => Fault::Cut(n(after)?, n(time)?),
            ["reboot", "after", after, "ms"] => Fault::Reboot(n(after)?),
            ["move", "after", after, "ms"] => Fault::Move(n(after)?),
            _ => return None,
        })
    }
}

/// A lab's scene: its seed, the two homes of a sweep and their faults, neighbours, and the protocol's own numbers.
///
/// As text it is one line, such as `seed 7, here openwrt, there cgn, loss 3 % there, 1 beside here, orders 2`. Reading
/// that gives the same scene.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scene {
    pub(super) seed: u64,
    pub(super) chains: [String; 2],
    /// Each with the number of its home.
    pub(super) faults: Vec<(usize, Fault)>,
    /// Further nodes in each home, which do nothing of their own.
    pub(super) beside: [u64; 2],
    /// The protocol's own numbers by name, each with the least that it may be.
    pub(super) numbers: BTreeMap<String, (u64, u64)>,
}

impl Scene {
    /// A scene of two public hosts without faults.
    pub(super) fn plain(seed: u64) -> Scene {
        let open = || "open".to_string();
        Scene { seed, chains: [open(), open()], faults: Vec::new(), beside: [0; 2], numbers: BTreeMap::new() }
    }

    /// Draws a scene between these homes: no fault in half of them, else one or two. `breaking`: pipes need not outlive them.
    pub(super) fn drawn(seed: u64, chains: [&str; 2], breaking: bool) -> Scene {
        let mut n = 0;
        let mut below = |bound: u64| {
            n += 1;
            Keyed::new(seed).below(domain::SCENARIO, 60, n, bound)
        };
        let mut scene = Scene { chains: chains.map(Into::into), ..Scene::plain(seed) };
        for _ in 0..below(4).saturating_sub(1) {
            let side = below(2) as usize;
            let fault = match below(if breaking { 7 } else { 5 }) {
                0 => Fault::Loss(1 + below(10)),
                1 => Fault::Duplicate(1 + below(30)),
                2 => Fault::Reorder(1 + below(30)),
                3 => Fault::Jitter(1 + below(100)),
                4 => Fault::Cut(below(1_000), 1 + below(3_000)),
                5 => Fault::Reboot(below(1_000)),
                _ => Fault::Move(below(1_000)),
            };
            scene.faults.push((side, fault));
        }
        for side in &mut scene.beside {
            *side = below(8).saturating_sub(5);
        }
        scene
    }

    /// Returns the number of this name, which is drawn where there is none yet.
    pub(super) fn number(&mut self, name: &str, least: u64, most: u64) -> u64 {
        let key = name.bytes().fold(0, |key: u64, byte| key.wrapping_mul(257).wrapping_add(u64::from(byte)));
        let drawn = || {
            let draw = Keyed::new(self.seed).draw(domain::SCENARIO, 61, key);
            // The range may be all of the numbers.
            least + ((u128::from(draw) * (u128::from(most - least) + 1)) >> 64) as u64
        };
        let has = self.numbers.get(name).map(|(value, _)| *value);
        let value = has.unwrap_or_else(drawn).clamp(least, most);
        self.numbers.insert(name.into(), (value, least));
        value
    }
}

impl fmt::Display for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}", self.seed)?;
        for (side, chain) in SIDES.iter().zip(&self.chains) {
            write!(f, ", {side} {chain}")?;
        }
        for (side, fault) in &self.faults {
            f.write_str(", ")?;
            fault.write(f)?;
            write!(f, " {}", SIDES[*side])?;
        }
        for (side, count) in SIDES.iter().zip(self.beside).filter(|(_, count)| *count > 0) {
            write!(f, ", {count} beside {side}")?;
        }
        self.numbers.iter().try_for_each(|(name, (value, _))| write!(f, ", {name} {value}"))
    }
}

impl FromStr for Scene {
    type Err = String;

    fn from_str(text: &str) -> Result<Scene, String> {
        let mut scene = Scene::plain(0);
        for part in text.split(", ") {
            let wrong = || format!("{part:?} is no part of a scene");
            let number = |text: &str| text.parse().map_err(|_| wrong());
            let words: Vec<&str> = part.split_whitespace().collect();
            let side = SIDES.iter().position(|side| words.last() == Some(side));
            match words[..] {
                ["seed", seed] => scene.seed = number(seed)?,
                [side @ ("here" | "there"), chain] => {
                    read(chain)?;
                    scene.chains[usize::from(side == SIDES[1])] = chain.into();
                }
                [count, "beside", _] if side.is_some() => {
                    scene.beside[side.unwrap_or(0)] = number(count)?;
                }
                [.., _] if side.is_some() => {
                    let fault = Fault::read(&words[..words.len() - 1]).ok_or_else(wrong)?;
                    scene.faults.push((side.unwrap_or(0), fault));
                }
                [ref name @ .., value] if !name.is_empty() => {
                    scene.numbers.insert(name.join(" "), (number(value)?, 0));
                }
                _ => return Err(wrong()),
            }
        }
        Ok(scene)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scene_is_read_back_from_its_print() {
        for seed in 0..500 {
            let mut scene = Scene::drawn(seed, ["linux,alloc=seq+1", "cgn+openwrt"], true);
            scene.number("orders of b", 0, 9);
            let read: Scene = scene.to_string().parse().unwrap();
            assert_eq!(read, scene, "{scene}");
        }
    }

    #[test]
    fn a_number_has_a_name_that_is_read_back() {
        assert!(["orders", "orders there", "2 beside", "loss"].into_iter().all(is_name));
        assert!(!["", "here", "seed x", "a, b", "a  b", " a"].into_iter().any(is_name));
    }

    #[test]
    fn what_is_no_scene_is_named() {
        let error = |text: &str| text.parse::<Scene>().unwrap_err();
        assert_eq!(error("seed x"), "\"seed x\" is no part of a scene");
        assert_eq!(error("seed 1, loss 3 there"), "\"loss 3 there\" is no part of a scene");
        assert_eq!(error(""), "\"\" is no part of a scene");
        assert!(error("here nosuch").contains("The presets: open, one2one, linux"));
    }
}
