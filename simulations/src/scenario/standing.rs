//! Servers where worlds have them, and the part of a node's configuration that names these.

use core::net::Ipv4Addr;
use std::net::IpAddr;

use p2pd_core::turn::Credentials;
use p2pd_core::{
    Broker as BrokerConfig, Config, ConfigError, Node, SecretKey, StunServer as StunConfig, TurnServer,
};
use p2pd_rendezvous::turn;

use super::pair::Program;
use crate::domain;
use crate::driver::{Clocks, NodeProgram};
use crate::engine::{Keyed, MILLI, Nanos};
use crate::net::LinkSpec;
use crate::service::{
    Broker, BrokerFaults, RealTurn, ServerProgram, Service, StunFaults, StunServer, TurnFaults,
};
use crate::world::{HostId, World};

/// The link between each server and the internet.
pub(crate) const LINK: LinkSpec = LinkSpec::with_delay(5 * MILLI);
/// Address of the TURN server, which is on IPv4 only.
pub(crate) const TURN: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 12));
const USER: (&str, &str) = ("alice", "secret");

/// Returns the address of the server of this number.
fn address(six: bool, number: u8) -> IpAddr {
    match six {
        true => [0x2a11, 0, 0, 0, 0, 0, 0, u16::from(number)].into(),
        false => [203, 0, 113, number].into(),
    }
}

/// Returns the two addresses of the STUN server.
pub(crate) fn stun(six: bool) -> [IpAddr; 2] {
    [10, 11].map(|number| address(six, number))
}

/// Returns the address of the broker of this number, of which there are at most 200.
pub(crate) fn broker(six: bool, n: u16) -> IpAddr {
    address(six, 20 + n as u8)
}

/// Makes the node of this number, whose key, clock and seed are drawn by it. The function gets a configuration that names no server.
///
/// # Errors
/// The configuration's.
pub(crate) fn node(
    rng: Keyed,
    n: u64,
    now: Nanos,
    configure: impl FnOnce(Config) -> Config,
) -> Result<Program, ConfigError> {
    let config = configure(Config::new(SecretKey::from_bytes(rng.bytes(domain::NODE, 2 * n))));
    let clocks = Clocks { mono: rng.below(domain::CLOCK, n, 0, 1 << 40), drift_ppm: 0, wall_ahead: 0 };
    let node = Node::new(config, rng.bytes(domain::NODE, 2 * n + 1), clocks.instant(now))?;
    Ok(Program::Node(Box::new(NodeProgram::new(node, clocks, 0))))
}

/// Puts a STUN server at its two addresses.
pub(crate) fn add_stun(world: &mut World<Program>, six: bool, program: ServerProgram) -> HostId {
    let (internet, [first, second]) = (world.internet(), stun(six));
    let host = world.add_host(internet, first, LINK, Program::Server(program));
    world.add_address(host, internet, second, LINK);
    host
}

/// Returns the TURN server's own configuration: its one user, and its address.
pub(crate) fn turn_config() -> turn::Config {
    let named = vec![(USER.0.into(), USER.1.into())];
    turn::Config::new(turn::Users { named, ..turn::Users::default() }, TURN)
}

/// Puts a TURN server in a world.
pub(crate) fn add_turn(
    world: &mut World<Program>,
    config: turn::Config,
    faults: TurnFaults,
    at_443: bool,
) -> HostId {
    let server = ServerProgram::new(Box::new(RealTurn::new(TURN, config, faults))).also_at_443(at_443);
    world.add_host(world.internet(), TURN, LINK, Program::Server(server))
}

/// Returns the TURN server as nodes know it, those of a `narrow` network at port 443.
pub(crate) fn turn_server(narrow: bool) -> TurnServer {
    let port = if narrow { 443 } else { 3478 };
    TurnServer::new(&TURN.to_string(), port, Credentials::new(USER.0, USER.1))
}

/// Tells a configuration the STUN server and so many brokers: at port 443 for a `narrow` network, which lets nothing else out.
pub(crate) fn configure(config: Config, six: bool, brokers: u16, narrow: bool) -> Config {
    let [stun_port, mqtt] = if narrow { [443; 2] } else { [3478, 1883] };
    let stun = stun(six).into_iter().map(|ip| StunConfig { host: ip.to_string().into(), port: stun_port });
    let brokers = (0..brokers).map(|n| BrokerConfig::new(n, &broker(six, n).to_string(), mqtt));
    config.stun(stun.collect::<Vec<_>>()).brokers(brokers.collect::<Vec<_>>())
}

/// Puts a STUN server, a broker and a TURN server in a world, without faults and at port 443 too. Returns the TURN
/// server.
pub(crate) fn add_all(world: &mut World<Program>) -> HostId {
    let program = |service: Box<dyn Service>| ServerProgram::new(service).also_at_443(true);
    add_stun(world, false, program(Box::new(StunServer::new(stun(false), StunFaults::default()))));
    let server = Program::Server(program(Box::new(Broker::new(BrokerFaults::default()))));
    world.add_host(world.internet(), broker(false, 0), LINK, server);
    add_turn(world, turn_config(), TurnFaults::default(), true)
}

/// Tells a configuration all of them.
pub(crate) fn configure_all(config: Config, narrow: bool) -> Config {
    configure(config, false, 1, narrow).turn([turn_server(narrow)])
}
