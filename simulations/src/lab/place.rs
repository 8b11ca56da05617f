//! Homes of nodes, and how a node gets there.

use p2pd_core::Config;

use super::{LINK, Lab, Peer, Standing};
use crate::engine::{MILLI, Nanos};
use crate::nat::{Chain, PRESETS};
use crate::net::LinkSpec;
use crate::scenario::pair::Program;
use crate::scenario::standing;
use crate::service::ServerProgram;
use crate::service::router::{PortControl, RouterSpec};
use crate::world::{Site, SiteSpec};

/// Most homes of a lab: as many as have addresses.
const MOST_HOMES: usize = 99;

/// A home: a network behind NATs, or the internet itself.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) site: Site,
    pub(super) link: LinkSpec,
    /// The NATs as they were written.
    pub(super) text: String,
}

impl Home {
    pub(super) fn described(&self) -> String {
        if self.site.nats.is_empty() { "outside".into() } else { format!("behind {}", self.text) }
    }
}

/// A place for a node that comes.
#[derive(Debug)]
pub struct Place<'a> {
    lab: &'a mut Lab,
    /// Number of the home.
    home: usize,
    /// The home's number among the drawn ones, if its neighbours are to come.
    drawn: Option<usize>,
}

impl Lab {
    /// Builds a home behind these NATs, the host's own first: presets by name, joined by `+`, or any other [chain](Chain).
    ///
    /// # Panics
    /// Where the text is no chain of NATs; the words list the presets. Where there are 99 homes.
    #[track_caller]
    pub fn behind(&mut self, nats: &str) -> Place<'_> {
        match self.build(nats) {
            Ok(home) => Place { lab: self, home, drawn: None },
            Err(why) => panic!("{why}"),
        }
    }

    /// Builds a home that is the internet itself.
    ///
    /// # Panics
    /// Where there are 99 homes.
    #[track_caller]
    pub fn outside(&mut self) -> Place<'_> {
        self.behind("open")
    }

    /// The home of another node, for one more.
    pub fn beside(&mut self, peer: Peer) -> Place<'_> {
        let home = self.peers[peer.0].home;
        Place { lab: self, home, drawn: None }
    }

    /// The first home of a sweep's scene; it is the internet itself in a lab of its own.
    pub fn here(&mut self) -> Place<'_> {
        self.side(0)
    }

    /// The second home of a sweep's scene; it is the internet itself in a lab of its own.
    pub fn there(&mut self) -> Place<'_> {
        self.side(1)
    }

    fn side(&mut self, side: usize) -> Place<'_> {
        if let Some(home) = self.sides[side] {
            return Place { lab: self, home, drawn: None };
        }
        let text = self.scene.chains[side].clone();
        match self.build(&text) {
            Ok(home) => {
                self.sides[side] = Some(home);
                Place { lab: self, home, drawn: Some(side) }
            }
            Err(why) => unreachable!("a scene has chains that were read: {why}"),
        }
    }

    pub(super) fn build(&mut self, nats: &str) -> Result<usize, String> {
        let chain = read(nats)?;
        let number = self.homes.len() + 1;
        if number > MOST_HOMES {
            return Err(format!("a lab has at most {MOST_HOMES} homes"));
        }
        let site = self.world.add_site(&SiteSpec { number: number as u8, chain, link: LINK });
        self.homes.push(Home { site, link: LINK, text: nats.into() });
        Ok(number - 1)
    }

    fn add_node(&mut self, home: usize, adjust: impl FnOnce(Config) -> Config) -> Peer {
        let n = self.peers.len() as u64;
        let rng = self.world.rng();
        let narrow = self.homes[home].text.parse::<Chain>().is_ok_and(|c| c.0.iter().any(|nat| nat.narrow));
        let configure = |config| adjust(standing::configure_all(config, narrow));
        let program = match standing::node(rng, n, self.world.now(), configure) {
            Ok(program) => program,
            Err(why) => panic!("the node's configuration: {why}"),
        };
        let host = self.world.add_host_at(&mut self.homes[home].site, program);
        self.peers.push(Standing { host, home, heard: 0 });
        Peer(n as usize)
    }
}

/// Reads a chain, and explains what is wrong with it.
pub(super) fn read(nats: &str) -> Result<Chain, String> {
    nats.parse().map_err(|why| {
        let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
        format!("no chain of NATs is {nats:?}: {why}. The presets: {}", names.join(", "))
    })
}

impl Place<'_> {
    /// Replaces the home's link to the internet: a perfect one of 5 ms.
    #[must_use]
    pub fn link(self, link: LinkSpec) -> Self {
        self.lab.set_link(self.home, link);
        self
    }

    /// Replaces the delay of the home's link.
    #[must_use]
    pub fn delay(self, millis: u64) -> Self {
        self.link(LinkSpec::with_delay(millis as Nanos * MILLI))
    }

    /// Puts a server for port mappings on the home's own NAT: PCP, NAT-PMP and UPnP. Nodes ask it that are
    /// [configured](Config::portmap) to.
    #[must_use]
    pub fn router(self, spec: RouterSpec) -> Self {
        let site = &mut self.lab.homes[self.home].site;
        if let Some(external) = site.external.first() {
            let server = ServerProgram::new(Box::new(PortControl::new(spec, *external)));
            self.lab.world.add_router(site, Program::Server(server));
        }
        self
    }

    /// Puts a node there. The function gets the defaults with the lab's servers and a key that the seed gives, and
    /// returns the configuration that the node is to have.
    ///
    /// # Panics
    /// Where the node takes the configuration for faulty.
    #[track_caller]
    pub fn node(self, config: impl FnOnce(Config) -> Config) -> Peer {
        let peer = self.lab.add_node(self.home, config);
        if let Some(side) = self.drawn {
            for _ in 0..self.lab.scene.beside[side] {
                self.lab.add_node(self.home, |config| config);
            }
        }
        peer
    }
}
