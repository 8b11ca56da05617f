//! A protocol in one world after another, and the smallest world in which it fails.

use core::fmt;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::scene::Scene;
use super::{Lab, place};
use crate::nat::PRESETS;

/// Most worlds that are tried for a smaller one.
const MOST_TRIED: u32 = 3_000;

/// A protocol's run in many worlds, with what may be chosen of them.
///
/// ```
/// use p2pd_simulations::lab::Sweep;
///
/// # fn main() -> Result<(), Box<p2pd_simulations::lab::Finding>> {
/// let worlds = Sweep::new(1).between(["open", "openwrt"]).run(|lab| {
///     let (a, b) = (lab.here().node(|config| config), lab.there().node(|config| config));
///     let (x, y) = lab.connect(a, b)?;
///     lab.write(x, "ping");
///     lab.finish(x);
///     assert_eq!(lab.read_to_end(y)?, b"ping");
///     Ok(())
/// })?;
/// assert_eq!(worlds, 4);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Sweep {
    seed: u64,
    nats: Vec<String>,
    breaking: bool,
}

/// Failure of a protocol in the smallest world that was found, by [`Lab::every_pair`].
///
/// As text, and as `unwrap` prints it: the failure, the world in which it came first, and the line that repeats the
/// smallest.
#[non_exhaustive]
pub struct Finding {
    /// Reason of the failure in the smallest world.
    pub why: String,
    /// The scene in which it failed first.
    pub first: Scene,
    /// The lab of the smallest world, as the protocol left it, with its packets.
    pub lab: Lab,
    /// Number of worlds that were tried for it.
    pub tried: u32,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { why, first, lab, tried } = self;
        writeln!(f, "{why}")?;
        writeln!(f, "found in: {first}")?;
        write!(f, "smallest of {tried} worlds: Lab::repeat({:?})", lab.scene().to_string())
    }
}

impl fmt::Debug for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Finding {}

impl From<Box<Finding>> for String {
    fn from(finding: Box<Finding>) -> String {
        finding.to_string()
    }
}

/// Returns what two failures have in common that are the same one: the text up to the first colon.
fn kind(why: &str) -> &str {
    why.split(':').next().unwrap_or(why)
}

/// Runs a protocol in one world. The second is the reason why it failed.
fn attempt(
    scene: &Scene,
    record: bool,
    protocol: &impl Fn(&mut Lab) -> Result<(), String>,
) -> (Lab, Option<String>) {
    let mut lab = Lab::of(scene.clone(), record);
    let ended = catch_unwind(AssertUnwindSafe(|| protocol(&mut lab)));
    let ended = ended.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).into());
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        Err(text.unwrap_or_else(|| "a panic".into()))
    });
    let why = ended.and_then(|()| lab.check()).err();
    (lab, why)
}

impl Sweep {
    /// Makes a sweep over every ordered pair of the presets.
    pub fn new(seed: u64) -> Sweep {
        Sweep { seed, nats: PRESETS.iter().map(|preset| preset.name.into()).collect(), breaking: false }
    }

    /// Replaces the presets by these chains of NATs.
    ///
    /// # Panics
    /// Where a text is no chain of NATs.
    #[must_use]
    #[track_caller]
    pub fn between<'a>(mut self, nats: impl IntoIterator<Item = &'a str>) -> Sweep {
        self.nats = nats.into_iter().map(Into::into).collect();
        if let Some(why) = self.nats.iter().find_map(|nats| place::read(nats).err()) {
            panic!("{why}");
        }
        self
    }

    /// Draws faults too that break pipes: NATs that forget everything, and nodes that move. For protocols that connect anew.
    /// Simulated sockets send no keepalives: who only reads is not told, where with a driver the pipe
    /// [ends](p2pd_core::Liveness) within a minute.
    #[must_use]
    pub fn breaking(mut self) -> Sweep {
        self.breaking = true;
        self
    }

    /// Runs the protocol in each world. Returns their number.
    ///
    /// # Errors
    /// As [`Lab::every_pair`].
    pub fn run(&self, protocol: impl Fn(&mut Lab) -> Result<(), String>) -> Result<u32, Box<Finding>> {
        let pairs = self.nats.iter().flat_map(|here| self.nats.iter().map(move |there| [here, there]));
        let all = (self.nats.len() * self.nats.len()) as u64;
        let mut worlds = 0;
        for (seed, pair) in (self.seed.wrapping_mul(all)..).zip(pairs) {
            let scene = Scene::drawn(seed, pair.map(String::as_str), self.breaking);
            let (lab, why) = attempt(&scene, false, &protocol);
            if let Some(why) = why {
                return Err(Box::new(smallest(lab.scene, why, protocol)));
            }
            worlds += 1;
        }
        Ok(worlds)
    }
}

/// Makes a failing scene smaller as long as the protocol fails there for the same reason.
fn smallest(first: Scene, why: String, protocol: impl Fn(&mut Lab) -> Result<(), String>) -> Finding {
    type Smaller = fn(&Scene) -> Vec<Scene>;
    let ways: [Smaller; 5] = [fewer_faults, fewer_hosts, smaller_numbers, smaller_faults, simpler_nats];
    let (mut scene, mut tried, mut known) = (first.clone(), 0, BTreeSet::new());
    loop {
        let before = scene.clone();
        for way in ways {
            while tried < MOST_TRIED {
                let fresh = way(&scene).into_iter().filter(|smaller| known.insert(smaller.to_string()));
                let found = fresh.take((MOST_TRIED - tried) as usize).find_map(|smaller| {
                    tried += 1;
                    let (lab, other) = attempt(&smaller, false, &protocol);
                    // What the protocol drew there counts, too.
                    other.is_some_and(|other| kind(&other) == kind(&why)).then_some(lab.scene)
                });
                match found {
                    Some(smaller) => scene = smaller,
                    None => break,
                }
            }
        }
        if scene == before {
            break;
        }
    }
    let (lab, again) = attempt(&scene, true, &protocol);
    Finding { why: again.unwrap_or(why), first, lab, tried }
}

/// Returns smaller numbers than `value`, the smallest first, the last one by one.
fn below(least: u64, value: u64) -> impl Iterator<Item = u64> {
    let gap = value.saturating_sub(least);
    core::iter::successors(Some(gap), |gap| Some(gap / 2))
        .take_while(|gap| *gap > 0)
        .map(move |gap| value - gap)
}

fn fewer_faults(scene: &Scene) -> Vec<Scene> {
    let none = (scene.faults.len() > 1).then(|| Scene { faults: Vec::new(), ..scene.clone() });
    let without = (0..scene.faults.len()).map(|n| {
        let mut smaller = scene.clone();
        smaller.faults.remove(n);
        smaller
    });
    none.into_iter().chain(without).collect()
}

fn fewer_hosts(scene: &Scene) -> Vec<Scene> {
    let mut all = Vec::new();
    for side in 0..2 {
        for count in below(0, scene.beside[side]) {
            let mut smaller = scene.clone();
            smaller.beside[side] = count;
            all.push(smaller);
        }
    }
    all
}

fn smaller_numbers(scene: &Scene) -> Vec<Scene> {
    let mut all = Vec::new();
    for (name, (value, least)) in &scene.numbers {
        for number in below(*least, *value) {
            let mut smaller = scene.clone();
            smaller.numbers.insert(name.clone(), (number, *least));
            all.push(smaller);
        }
    }
    all
}

fn smaller_faults(scene: &Scene) -> Vec<Scene> {
    let mut all = Vec::new();
    for n in 0..scene.faults.len() {
        let (side, fault) = scene.faults[n];
        let mut values = Vec::new();
        fault.with(&mut |value| {
            values.push(value);
            value
        });
        for (place, value) in values.iter().enumerate() {
            for number in below(0, *value) {
                let mut at = 0..;
                let smaller = fault.with(&mut |old| if at.next() == Some(place) { number } else { old });
                let mut scene = scene.clone();
                scene.faults[n] = (side, smaller);
                all.push(scene);
            }
        }
    }
    all
}

/// Presets that stand before a chain's own, and of other chains all presets and every chain with one NAT less.
fn simpler_nats(scene: &Scene) -> Vec<Scene> {
    let mut all = Vec::new();
    for side in 0..2 {
        let text = scene.chains[side].as_str();
        let place = PRESETS.iter().position(|preset| preset.name == text);
        let presets = PRESETS[..place.unwrap_or(PRESETS.len())].iter().map(|preset| preset.name.to_string());
        let nats: Vec<&str> = text.split('+').collect();
        let parts = (0..if nats.len() > 1 { nats.len() } else { 0 }).map(|n| {
            let mut nats = nats.clone();
            nats.remove(n);
            nats.join("+")
        });
        // A sign of a field is split there, too, and what is left is no chain.
        for text in presets.chain(parts).filter(|text| place::read(text).is_ok()) {
            let mut smaller = scene.clone();
            smaller.chains[side] = text;
            all.push(smaller);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::super::scene::Fault;
    use super::*;

    /// Fails by what the scene is, without a world.
    fn planted(lab: &mut Lab, fails: impl Fn(&Scene, u64) -> bool) -> Result<(), String> {
        let words = lab.number("words", 1..=1_000);
        if fails(lab.scene(), words) { Err(format!("planted: with {words}")) } else { Ok(()) }
    }

    fn shrunk(seed: u64, fails: impl Fn(&Scene, u64) -> bool) -> String {
        let found = Sweep::new(seed).breaking().run(|lab| planted(lab, &fails)).unwrap_err();
        assert!(found.tried < MOST_TRIED, "{found}");
        found.lab.scene().to_string().split_once(", ").unwrap().1.into()
    }

    #[test]
    fn a_planted_bug_is_found_in_the_smallest_world_exactly() {
        for seed in 0..8 {
            assert_eq!(shrunk(seed, |_, _| true), "here open, there open, words 1");
            assert_eq!(shrunk(seed, |_, words| words >= 137), "here open, there open, words 137");
            let loss = |scene: &Scene, words: u64| {
                let lossy = |(side, fault): &(usize, Fault)| *side == 1 && matches!(fault, Fault::Loss(4..));
                scene.faults.iter().any(lossy) && words > 2
            };
            assert_eq!(shrunk(seed, loss), "here open, there open, loss 4 % there, words 3");
            let cut = |scene: &Scene, _| {
                let long = |(_, fault): &(usize, Fault)| matches!(fault, Fault::Cut(_, 751..));
                let nat = PRESETS.iter().position(|preset| preset.name == scene.chains[1]);
                nat > Some(10) && scene.faults.iter().any(long)
            };
            let cut = shrunk(seed, cut);
            let cuts = ["here", "there"].map(|side| {
                format!("here open, there {}, cut after 0 ms for 751 ms {side}, words 1", PRESETS[11].name)
            });
            assert!(cuts.contains(&cut), "{cut}");
            let beside = |scene: &Scene, _| scene.beside[0] > 0 && scene.chains[0].contains("linux");
            assert_eq!(shrunk(seed, beside), "here linux, there open, 1 beside here, words 1");
        }
    }

    #[test]
    fn another_failure_on_the_way_is_not_followed() {
        let found = Sweep::new(1).run(|lab| match lab.number("words", 0..=100) {
            0 => Ok(()),
            1..=9 => Err("another: one".into()),
            words => Err(format!("the one: {words}")),
        });
        assert_eq!(found.unwrap_err().why, "the one: 10");
    }

    #[test]
    fn a_panic_is_a_failure_and_its_text_repeats_it() {
        let protocol = |lab: &mut Lab| {
            let words = lab.number("words", 1..=9);
            assert!(words < 4, "a panic: {words}");
            Ok(())
        };
        let found = Sweep::new(1).run(protocol).unwrap_err();
        let text = format!("{found:?}");
        let (start, end) = (text.find("repeat(\"").unwrap() + 8, text.rfind("\")").unwrap());
        let mut lab = Lab::repeat(&text[start..end]).unwrap();
        assert_eq!((lab.number("words", 1..=9), &*found.why), (4, "a panic: 4"));
    }

    #[test]
    fn what_every_step_tries_is_smaller() {
        assert_eq!(below(2, 20).collect::<Vec<_>>(), [2, 11, 16, 18, 19]);
        assert_eq!(below(3, 3).count() + below(3, 1).count(), 0);
        let scene: Scene = "seed 1, here linux,alloc=seq+1+cgn, there open".parse().unwrap();
        let simpler = simpler_nats(&scene);
        assert!(simpler.iter().any(|s| s.chains[0] == "cgn"));
        assert_eq!(simpler.len(), PRESETS.len() + 1);
    }
}
