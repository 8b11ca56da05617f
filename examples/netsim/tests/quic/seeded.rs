//! TLS and QUIC without a random number or a clock from outside of the simulation, so that one seed gives one run, byte for byte.
//!
//! Six places of rustls and quinn draw at random or read the clock. Each can be given something else, which this module does: rustls'
//! random numbers, its key exchange and its time, and quinn's connection ids, its keys and the seed of its generator. The
//! certificate has a key that is written here. Never use any of this outside of a simulation.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use curve25519_dalek::MontgomeryPoint;
use p2pd_netsim::aio::fill_random;
use p2pd_netsim::aio::time::Instant;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, ConnectionId, ConnectionIdGenerator, EndpointConfig, ServerConfig};
use ring::{hkdf, hmac};
use rustls::crypto::{
    ActiveKeyExchange, CryptoProvider, GetRandomFailed, SecureRandom, SharedSecret, SupportedKxGroup,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{Error, NamedGroup, RootCertStore};

/// Name in the certificate.
pub const NAME: &str = "peer.example";

/// A PKCS #8 document of an Ed25519 key: its head, and 32 bytes.
const KEY_HEAD: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// Second of Unix time at which the world begins: within the certificate's dates.
const BEGINNING: u64 = 1_800_000_000;

#[derive(Debug)]
struct Seeded;

impl SecureRandom for Seeded {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), GetRandomFailed> {
        fill_random(bytes);
        Ok(())
    }
}

impl TimeProvider for Seeded {
    fn current_time(&self) -> Option<UnixTime> {
        let since = Instant::try_now()?.since_start();
        Some(UnixTime::since_unix_epoch(Duration::from_secs(BEGINNING) + since))
    }
}

impl quinn::TimeSource for Seeded {
    fn now(&self) -> std::time::SystemTime {
        let since = Instant::try_now().map(Instant::since_start).unwrap_or_default();
        std::time::UNIX_EPOCH + Duration::from_secs(BEGINNING) + since
    }
}

impl SupportedKxGroup for Seeded {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, Error> {
        let mut secret = [0; 32];
        fill_random(&mut secret);
        let public = MontgomeryPoint::mul_base_clamped(secret).0;
        Ok(Box::new(Exchange { secret, public }))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

struct Exchange {
    secret: [u8; 32],
    public: [u8; 32],
}

impl ActiveKeyExchange for Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, Error> {
        let peer: [u8; 32] = peer.try_into().map_err(|_| Error::General("no X25519 key".into()))?;
        Ok(SharedSecret::from(&MontgomeryPoint(peer).mul_clamped(self.secret).0[..]))
    }

    fn pub_key(&self) -> &[u8] {
        &self.public
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

/// Connection ids of 8 bytes.
struct Ids;

impl ConnectionIdGenerator for Ids {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; 8];
        fill_random(&mut id);
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        secure_random: &Seeded,
        kx_groups: vec![&Seeded],
        ..rustls::crypto::ring::default_provider()
    })
}

fn key() -> Vec<u8> {
    [&KEY_HEAD[..], &[7; 32]].concat()
}

fn certificate() -> CertificateDer<'static> {
    let key = PrivatePkcs8KeyDer::from(key());
    let key =
        rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&key, &rcgen::PKCS_ED25519).expect("an Ed25519 key");
    let params = rcgen::CertificateParams::new([NAME.to_string()]).expect("a name of ASCII");
    params.self_signed(&key).expect("the key signs").der().clone()
}

/// Returns the part of both ends of an endpoint.
///
/// # Panics
/// Panics outside of a task.
pub fn endpoint() -> EndpointConfig {
    let (mut reset, mut seed) = ([0; 64], [0; 32]);
    fill_random(&mut reset);
    fill_random(&mut seed);
    let mut config = EndpointConfig::new(Arc::new(hmac::Key::new(hmac::HMAC_SHA256, &reset)));
    config.rng_seed(Some(seed)).cid_generator(|| Box::new(Ids));
    config
}

/// Returns the server's part: it has the certificate of [`NAME`].
///
/// # Panics
/// Panics outside of a task.
pub fn server() -> ServerConfig {
    let mut master = [0; 64];
    fill_random(&mut master);
    let key = PrivateKeyDer::Pkcs8(key().into());
    let tls = rustls::ServerConfig::builder_with_details(provider(), Arc::new(Seeded))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has suites of TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![certificate()], key)
        .expect("the key is the certificate's");
    let crypto = QuicServerConfig::try_from(tls).expect("the provider has QUIC's initial suite");
    let tokens = hkdf::Salt::new(hkdf::HKDF_SHA256, &[]).extract(&master);
    let mut config = ServerConfig::new(Arc::new(crypto), Arc::new(tokens));
    config.time_source(Arc::new(Seeded));
    config
}

/// Returns the client's part: it believes the certificate of [`NAME`].
pub fn client() -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(certificate()).expect("a certificate");
    let tls = rustls::ClientConfig::builder_with_details(provider(), Arc::new(Seeded))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has suites of TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let crypto = QuicClientConfig::try_from(tls).expect("the provider has QUIC's initial suite");
    let mut config = ClientConfig::new(Arc::new(crypto));
    config.initial_dst_cid_provider(Arc::new(|| {
        let mut id = [0; 20];
        fill_random(&mut id);
        ConnectionId::new(&id)
    }));
    config
}

impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ids")
    }
}
