//! Settings of a node.

use std::collections::BTreeSet;
use std::ffi::c_char;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use p2pd_core::pipe::session::SessionConfig;
use p2pd_core::turn::Credentials;
use p2pd_core::{Accept, Broker, Config, Liveness, NodeId, SecretKey, StunServer, TurnAuth, TurnServer};
use p2pd_mio::servers::Servers;

use crate::border::{Handle, Locked, bytes, error, free, make, on, text};
use crate::plan::tag;
use crate::status::*;

/// Settings of a node. A node that was opened keeps nothing of them, so one may open several nodes and be freed at once.
#[derive(Debug)]
pub struct p2pd_config {
    inner: Mutex<Locked<Settings>>,
}

/// Settings behind the lock.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) config: Config,
    pub(crate) own_names: bool,
    pub(crate) session: SessionConfig,
}

impl Handle for p2pd_config {
    type Inner = Settings;

    fn inner(&self) -> &Mutex<Locked<Settings>> {
        &self.inner
    }
}

/// Makes a configuration: a key that nobody had before, no server, anyone accepted, encrypted pipes only, every address
/// but loopback, a port that the system chooses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_config_new(config: *mut *mut p2pd_config) -> p2pd_status {
    let new = || {
        let key = p2pd_mio::random_seed().map_err(|why| Fault::new(P2PD_ERR_SYSTEM, why))?;
        let config = Config::new(SecretKey::from_bytes(key));
        Ok(p2pd_config {
            inner: Locked::new(Settings { config, own_names: false, session: SessionConfig::default() }),
        })
    };
    // SAFETY: as the header says.
    unsafe { make(config, new) }
}

/// Frees a configuration; NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_config_free(config: *mut p2pd_config) {
    // SAFETY: as the header says.
    unsafe { free(config) }
}

/// Returns the text of the last call that failed on this configuration, p2pd_node_open among them. It stays until the
/// next one that fails, or the configuration is freed. Empty before.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_config_error(config: *const p2pd_config) -> *const c_char {
    // SAFETY: as the header says.
    unsafe { error(config) }.0
}

/// Runs a call on the settings.
unsafe fn set(
    config: *mut p2pd_config,
    call: impl FnOnce(&mut Settings) -> Result<(), Fault>,
) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe { on(config, |settings| call(settings).map(|()| P2PD_OK)) }
}

/// Takes the node's key from a file, which is made with a new key, for its owner alone, where there is none.
/// P2PD_ERR_KEY: it is no key file, or others may read it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_config_key_file(config: *mut p2pd_config, path: *const c_char) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        set(config, |settings| {
            let key = p2pd_mio::load_or_create_key(Path::new(text(path)?));
            settings.config.identity = key.map_err(|why| Fault::new(P2PD_ERR_KEY, why))?;
            Ok(())
        })
    }
}

/// Sets the node's secret key: 32 bytes from a source of randomness. P2PD_ERR_KEY: another size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_config_key(
    config: *mut p2pd_config,
    key: *const u8,
    size: usize,
) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        set(config, |settings| {
            let key = bytes(key, size)?.try_into();
            let key = key.map_err(|_| Fault::new(P2PD_ERR_KEY, "a key has 32 bytes"))?;
            settings.config.identity = SecretKey::from_bytes(key);
            Ok(())
        })
    }
}

/// Listens on, dials from and announces this local IP address alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_config_bind(config: *mut p2pd_config, ip: *const c_char) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        set(config, |settings| {
            let ip = text(ip)?.parse().map_err(|why| Fault::new(P2PD_ERR_ARGUMENT, why))?;
            settings.config.bind = Some(ip);
            Ok(())
        })
    }
}

/// Listens on this TCP port. 0, the default: the system chooses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_config_port(config: *mut p2pd_config, port: u16) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        set(config, |settings| {
            settings.config.port = port;
            Ok(())
        })
    }
}

/// Takes brokers, STUN, TURN and NTP servers from a server list, in place of those set before. The list has what the
/// shorter calls lack: TLS, WebSockets, logins, proxies. Programs that it names for passwords are not run.
/// P2PD_ERR_SERVERS: the list is not one.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_config_servers_file(
    config: *mut p2pd_config,
    path: *const c_char,
) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe { set(config, |settings| servers(settings, Servers::read(Path::new(text(path)?)))) }
}

/// Takes the servers from the text of a server list, as p2pd_config_servers_file.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_config_servers_text(
    config: *mut p2pd_config,
    list: *const c_char,
) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe { set(config, |settings| servers(settings, Servers::parse(text(list)?))) }
}

/// Takes the well-known public servers of the list that comes with the library, as p2pd_config_servers_file. They are
/// other people's. P2PD_ERR_SERVERS while the environment has P2PD_FORBID_PUBLIC_SERVERS.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_config_public_servers(config: *mut p2pd_config) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe { set(config, |settings| servers(settings, Servers::shipped())) }
}

fn servers(settings: &mut Settings, read: Result<Servers, String>) -> Result<(), Fault> {
    read.and_then(|list| list.apply(&mut settings.config)).map_err(|why| Fault::new(P2PD_ERR_SERVERS, why))
}

/// Adds an MQTT broker for signalling, at most 16. Peers find each other on brokers that both know by the same `id`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_config_add_broker(
    config: *mut p2pd_config,
    id: u16,
    host: *const c_char,
    port: u16,
) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        set(config, |settings| {
            settings.config.brokers.push(Broker::new(id, text(host)?, port));
            Ok(())
        })
    }
}

/// Adds a STUN server, at most 16. 3478 is STUN's own port.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_config_add_stun(
    config: *mut p2pd_config,
    host: *const c_char,
    port: u16,
) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        set(config, |settings| {
            settings.config.stun.push(StunServer { host: text(host)?.into(), port });
            Ok(())
        })
    }
}

/// Adds a TURN server, at most 16, with who we are to it; both NULL for a server that relays for anyone. 3478 is TURN's
/// own port.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_config_add_turn(
    config: *mut p2pd_config,
    host: *const c_char,
    port: u16,
    user: *const c_char,
    password: *const c_char,
) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        set(config, |settings| {
            let auth = match (user.is_null(), password.is_null()) {
                (true, true) => TurnAuth::Nobody,
                _ => Credentials::new(text(user)?, text(password)?).into(),
            };
            settings.config.turn.push(TurnServer::new(text(host)?, port, auth));
            Ok(())
        })
    }
}

/// Accepts anyone who knows the node's address, which is the default.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_config_accept_anyone(config: *mut p2pd_config) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        set(config, |settings| {
            settings.config.accept = Accept::Anyone;
            Ok(())
        })
    }
}

/// Accepts the peer with this node id, and no longer anyone. NULL accepts nobody yet. A node id is the last part of an address.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_config_accept_peer(config: *mut p2pd_config, id: *const c_char) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        set(config, |settings| {
            let mut peers = match &settings.config.accept {
                Accept::Only(peers) => peers.clone(),
                _ => BTreeSet::new(),
            };
            if !id.is_null() {
                peers.insert(node_id(text(id)?)?);
            }
            settings.config.accept = Accept::Only(peers);
            Ok(())
        })
    }
}

/// Asks by P2PD_EVENT_ASK whether a peer may have a pipe; answer by p2pd_node_answer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_config_accept_ask(config: *mut p2pd_config) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        set(config, |settings| {
            settings.config.accept = Accept::Ask;
            Ok(())
        })
    }
}

pub(crate) fn node_id(text: &str) -> Result<NodeId, Fault> {
    text.parse().map_err(|why| Fault::new(P2PD_ERR_ARGUMENT, format_args!("no node id: {why}")))
}

/// Permits peers to ask for plain pipes. Default: no.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_config_allow_plain(config: *mut p2pd_config, allow: bool) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        set(config, |settings| {
            settings.config.allow_plain = allow;
            Ok(())
        })
    }
}

/// Permits peers to open sessions. Default: no.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_config_allow_sessions(config: *mut p2pd_config, allow: bool) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        set(config, |settings| {
            settings.config.sessions = allow;
            Ok(())
        })
    }
}

/// Sets how many streams a peer may have open in a session, 1 or more, and how many bytes of a session may wait here to be read, 65,536
/// or more. Default: 256 streams, 16 MiB. Anybody whose sessions are permitted may fill that, with each of its sessions: stop the
/// streams that are not wanted, and free each session at P2PD_EVENT_SESSION_ENDED.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_config_session_limits(
    config: *mut p2pd_config,
    streams: u32,
    bytes: u64,
) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        set(config, |settings| {
            if streams == 0 || bytes < 65_536 {
                return Err(Fault::new(P2PD_ERR_ARGUMENT, "at least one stream and 65,536 bytes"));
            }
            let stream_window = settings.session.stream_window.min(bytes);
            settings.session =
                SessionConfig { streams, window: bytes, stream_window, ..SessionConfig::default() };
            Ok(())
        })
    }
}

/// Adds a protocol of which peers may open pipes, 1 to 64 bytes. With none, all may be opened, and calls that name none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_config_add_protocol(
    config: *mut p2pd_config,
    protocol: *const c_char,
) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        set(config, |settings| {
            settings.config.protocols.push(tag(text(protocol)?)?);
            Ok(())
        })
    }
}

/// Has routers open the listener's port, by PCP, NAT-PMP or UPnP. Default: no.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_config_portmap(config: *mut p2pd_config, open: bool) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        set(config, |settings| {
            settings.config.portmap = open;
            Ok(())
        })
    }
}

/// Sets how many streams and pipes that peers opened there may be at a time. Default: by the descriptors that the process may
/// have, at most 8,192.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_config_max_pipes(config: *mut p2pd_config, most: u32) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        set(config, |settings| {
            settings.config.max_pipes = Some(most);
            Ok(())
        })
    }
}

/// Sets when an idle pipe asks for a sign of life, and how long it waits for one. Default 20,000 and 30,000. 0 is never,
/// and the system's own patience.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_config_liveness(
    config: *mut p2pd_config,
    interval_ms: u32,
    patience_ms: u32,
) -> p2pd_status {
    let [interval, patience] = [interval_ms, patience_ms].map(|ms| Duration::from_millis(ms.into()));
    // SAFETY: as the header says.
    unsafe {
        set(config, |settings| {
            settings.config.liveness = Liveness { interval, patience };
            Ok(())
        })
    }
}

/// Has host names asked for by P2PD_EVENT_LOOK_UP. By default each is looked up on a thread that ends with it; off Unix
/// within p2pd_node_turn, which blocks meanwhile. Servers that are given as IP addresses need neither.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn p2pd_config_own_names(config: *mut p2pd_config, own: bool) -> p2pd_status {
    // SAFETY: as the header says.
    unsafe {
        set(config, |settings| {
            settings.own_names = own;
            Ok(())
        })
    }
}
