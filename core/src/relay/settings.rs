//! Settings of a relay stream, and their form for quinn-proto.

use core::time::Duration;
use std::sync::Arc;

use quinn_proto::congestion::{ControllerFactory, CubicConfig};
use quinn_proto::{
    AckFrequencyConfig, ConnectionId, ConnectionIdGenerator, EndpointConfig, IdleTimeout, MtuDiscoveryConfig,
    TransportConfig, VarInt,
};

use super::bbr::{ACK_EVERY, BbrFactory};
use super::crypto::{QUIC_VERSION, ResetKey};
use super::{MAX_DATAGRAM, MAX_MESSAGE, MAX_MESSAGES};

/// Longest delay of an acknowledgement. QUIC's own 25 ms are many round trips of a near relay.
const ACK_WITHIN: Duration = Duration::from_millis(2);

/// Bounds of the round trip that is assumed to a peer: that to our broker. A first packet may come before the permission
/// for it, or before the peer's NAT lets it in, and is repeated after three assumed round trips.
const FIRST_RTT: (Duration, Duration) = (Duration::from_millis(15), Duration::from_millis(100));

/// Returns the round trip to assume to a peer by the way to the broker.
pub(crate) fn first_rtt(delay: Duration) -> Duration {
    (2 * delay).clamp(FIRST_RTT.0, FIRST_RTT.1)
}

/// Congestion control: the rule for the sending rate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Congestion {
    /// BBR: by measured bandwidth and round trip. Of the two the one that survives loss: ADR 18
    /// (docs/src/adr) has the figures.
    #[default]
    Bbr,
    /// CUBIC: by loss (RFC 9438).
    Cubic,
}

/// Settings of a relay stream. Each end chooses for itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
// Exhaustive: users write it over its default.
pub struct RelayConfig {
    /// Idle time after which the stream sends something, so that NATs and relays keep their state. Default 10 s: UDP
    /// mappings are to live two minutes (RFC 4787 section 4.3) and often live 30 s.
    pub keep_alive: Duration,
    /// Silence of the peer after which the stream ends; also the time for the peer's first answer. The shorter time of
    /// the two ends counts. Default 30 s.
    pub idle_timeout: Duration,
    /// The round trip to assume before there is a measured one. The first packet is repeated after three times as
    /// long. Default 100 ms; signalling usually knows better.
    pub initial_rtt: Duration,
    /// Bytes of the pipe received and not yet read, at most. Default 16 MiB: four times the bytes that 300 Mbit/s have
    /// under way in 100 ms. A packet lost twice holds up all that follows it for three round trips. Measured at 1 %
    /// loss: 232 to 246 Mbit/s, and 159 to 188 with half of the window. Memory is taken as bytes come.
    pub receive_window: u32,
    /// Bytes written and not yet acknowledged, at most. Default 16 MiB.
    pub send_window: u32,
    /// The longest datagram to search for, in bytes. Default: [`MAX_DATAGRAM`](super::MAX_DATAGRAM), for which nothing is
    /// searched.
    pub max_datagram: u16,
    /// Congestion control. Default: BBR.
    pub congestion: Congestion,
    /// AES-256-GCM is spoken where the peer has it too, else ChaCha20-Poly1305. Nodes set it as
    /// [`Config::aes`](crate::Config::aes) says. Default: false. Without the feature `ring` and this processor's instructions it is slow.
    pub aes: bool,
}

impl Default for RelayConfig {
    fn default() -> Self {
        RelayConfig {
            keep_alive: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            initial_rtt: Duration::from_millis(100),
            receive_window: 16 << 20,
            send_window: 16 << 20,
            max_datagram: MAX_DATAGRAM as u16,
            congestion: Congestion::Bbr,
            aes: false,
        }
    }
}

impl RelayConfig {
    /// Returns the settings for a path without a relay. It is used every 15 s at least, half the time for which many NATs
    /// remember UDP (RFC 4787 section 4.3 wants two minutes). Datagrams grow up to what Ethernet carries over IPv6.
    /// `delay` is the way to the broker.
    pub(crate) fn direct(delay: Duration) -> Self {
        RelayConfig {
            keep_alive: Duration::from_secs(15),
            max_datagram: 1_452,
            initial_rtt: first_rtt(delay),
            ..RelayConfig::default()
        }
    }

    /// Returns these settings with windows of this many bytes, and with AES as said.
    pub(crate) fn within(self, window: u32, aes: bool) -> Self {
        RelayConfig { receive_window: window, send_window: window, aes, ..self }
    }

    pub(super) fn transport(&self) -> Arc<TransportConfig> {
        // More credit is given once an eighth of the window has been read, so a window that is used up but for the room of
        // messages must be larger than both together.
        let both = self.receive_window.saturating_add((MAX_MESSAGE * MAX_MESSAGES) as u32);
        let controller: Arc<dyn ControllerFactory + Send + Sync> = match self.congestion {
            Congestion::Bbr => Arc::new(BbrFactory),
            Congestion::Cubic => Arc::new(CubicConfig::default()),
        };
        let idle = IdleTimeout::try_from(self.idle_timeout).unwrap_or(IdleTimeout::from(VarInt::MAX));
        let mut seldom = AckFrequencyConfig::default();
        seldom.ack_eliciting_threshold(VarInt::from_u32(ACK_EVERY - 1)).max_ack_delay(Some(ACK_WITHIN));
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_bidi_streams(VarInt::from_u32(0))
            // The pipe is the first one, each message has one.
            .max_concurrent_uni_streams(VarInt::from_u32(1 + MAX_MESSAGES as u32))
            .stream_receive_window(VarInt::from_u32(self.receive_window))
            // A pipe that nobody reads must not hold messages up.
            .receive_window(VarInt::from_u32(both.saturating_add(both / 7 + 1)))
            .send_window(u64::from(self.send_window))
            .max_idle_timeout(Some(idle))
            .keep_alive_interval(Some(self.keep_alive))
            .initial_rtt(self.initial_rtt)
            .initial_mtu(MAX_DATAGRAM as u16)
            .mtu_discovery_config((usize::from(self.max_datagram) > MAX_DATAGRAM).then(|| {
                let mut search = MtuDiscoveryConfig::default();
                search.upper_bound(self.max_datagram);
                search
            }))
            .datagram_receive_buffer_size(None)
            .allow_spin(false)
            .ack_frequency_config(Some(seldom))
            .congestion_controller_factory(controller);
        Arc::new(transport)
    }
}

pub(super) fn endpoint(reset_key: [u8; 32], seed: [u8; 32]) -> Arc<EndpointConfig> {
    let mut config = EndpointConfig::new(Arc::new(ResetKey(reset_key)));
    config
        .supported_versions(vec![QUIC_VERSION])
        .grease_quic_bit(false)
        .rng_seed(Some(seed))
        // Whose datagrams these are is the caller's knowledge, so they carry no connection ids.
        .cid_generator(|| Box::new(NoIds));
    Arc::new(config)
}

struct NoIds;

impl ConnectionIdGenerator for NoIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&[])
    }

    fn cid_len(&self) -> usize {
        0
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}
