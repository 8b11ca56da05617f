//! TLS to a server, by rustls.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::sync::{Arc, OnceLock};

use p2pd_core::{IoFailure, Tls, TlsFailure, Trust};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, RootCertStore,
    SignatureScheme,
};
use sha2::{Digest, Sha256};

use super::{ROUNDS, error, unless_blocked};

/// Most bytes that may wait in a layer to be sent.
const MAX_WAITING: usize = 64 * 1024;

/// rustls's settings by all but the server's name. A server's sessions are resumed by them.
#[derive(Debug, Default)]
pub(crate) struct Settings(HashMap<Tls, Arc<ClientConfig>>);

impl Settings {
    fn of(&mut self, tls: &Tls) -> Result<Arc<ClientConfig>, TlsFailure> {
        let tls = Tls { name: None, ..tls.clone() };
        if let Some(known) = self.0.get(&tls) {
            return Ok(known.clone());
        }
        let provider = Arc::new(ring::default_provider());
        let algorithms = provider.signature_verification_algorithms;
        let builder = versions(provider)?;
        let config = match &tls.trust {
            Trust::Public => builder.with_root_certificates(public_roots()),
            Trust::Authorities(pem) => builder.with_root_certificates(authorities(pem)?),
            Trust::Pinned(hash) => {
                let verifier = Arc::new(Pin { hash: *hash, algorithms });
                builder.dangerous().with_custom_certificate_verifier(verifier)
            }
        };
        let mut config = match &tls.client {
            None => config.with_no_client_auth(),
            Some(client) => {
                let settings = |_| TlsFailure::Settings;
                let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&client.certificates).collect();
                let key = PrivateKeyDer::from_pem_slice(&client.key).map_err(settings)?;
                let chain = chain.map_err(settings)?;
                config.with_client_auth_cert(chain, key).map_err(|_| TlsFailure::Settings)?
            }
        };
        config.alpn_protocols = tls.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let config = Arc::new(config);
        self.0.insert(tls, config.clone());
        Ok(config)
    }
}

fn versions(
    provider: Arc<CryptoProvider>,
) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, TlsFailure> {
    let builder = ClientConfig::builder_with_provider(provider);
    builder.with_safe_default_protocol_versions().map_err(|_| TlsFailure::Settings)
}

/// The system's authorities, or the ones built in where it has none.
fn public_roots() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let load = || {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        Arc::new(roots)
    };
    ROOTS.get_or_init(load).clone()
}

/// All of them or none: one that cannot be read is a mistake to be told.
fn authorities(pem: &[u8]) -> Result<RootCertStore, TlsFailure> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| TlsFailure::Settings)?;
        roots.add(certificate).map_err(|_| TlsFailure::Settings)?;
    }
    if roots.is_empty() { Err(TlsFailure::Settings) } else { Ok(roots) }
}

/// Takes a server by its key, and checks that it has it.
#[derive(Debug)]
struct Pin {
    hash: [u8; 32],
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pin {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
        if Sha256::digest(&key)[..] == self.hash {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Checks whether TLS to this host can be tried. There must be a name and an authority to check the server by. The
/// client's certificate, if any, must be valid.
///
/// # Errors
/// [`TlsFailure::Settings`].
pub fn check_tls(host: &str, tls: &Tls) -> Result<(), TlsFailure> {
    let name = tls.name.as_deref().unwrap_or(host);
    TlsLayer::new(name, tls, &mut Settings::default()).map(drop)
}

#[derive(Debug)]
pub(super) struct TlsLayer {
    connection: ClientConnection,
    /// The server has sent something.
    heard: bool,
    ended: bool,
}

impl TlsLayer {
    pub(super) fn new(name: &str, tls: &Tls, settings: &mut Settings) -> Result<Self, TlsFailure> {
        let name = ServerName::try_from(name.to_owned()).map_err(|_| TlsFailure::Settings)?;
        let connection = ClientConnection::new(settings.of(tls)?, name);
        let mut connection = connection.map_err(|_| TlsFailure::Settings)?;
        connection.set_buffer_limit(Some(MAX_WAITING));
        Ok(TlsLayer { connection, heard: false, ended: false })
    }

    pub(super) fn open(&mut self, io: &mut (impl Read + Write)) -> io::Result<()> {
        for _ in 0..ROUNDS {
            self.flush(io)?;
            if !self.connection.is_handshaking() {
                return Ok(());
            }
            match self.receive(io) {
                Ok(1..) => {}
                Err(e) if e.kind() != io::ErrorKind::ConnectionReset => return Err(e),
                // Servers without TLS hang up at its first bytes.
                Ok(0) | Err(_) if !self.heard => return Err(error(IoFailure::Tls(TlsFailure::NotTls))),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(e) => return Err(e),
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    pub(super) fn read(&mut self, io: &mut (impl Read + Write), buf: &mut [u8]) -> io::Result<usize> {
        for _ in 0..ROUNDS {
            // What is there already comes first; at most one record's is.
            match self.connection.reader().read(buf) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
            self.receive(io)?;
            // What came may want an answer: a new key for example.
            unless_blocked(self.flush(io))?;
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    pub(super) fn write(&mut self, io: &mut (impl Read + Write), data: &[u8]) -> io::Result<usize> {
        unless_blocked(self.flush(io))?;
        match self.connection.writer().write(data)? {
            0 if !data.is_empty() => Err(io::ErrorKind::WouldBlock.into()),
            n => unless_blocked(self.flush(io)).map(|()| n),
        }
    }

    pub(super) fn flush(&mut self, io: &mut impl Write) -> io::Result<()> {
        while self.connection.wants_write() {
            if self.connection.write_tls(io)? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    /// Ends the sending.
    pub(super) fn end(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.connection.send_close_notify();
        }
    }

    /// Reads once from below.
    fn receive(&mut self, io: &mut (impl Read + Write)) -> io::Result<usize> {
        let early = self.connection.is_handshaking();
        let n = self.connection.read_tls(io)?;
        self.heard |= n > 0;
        if let Err(why) = self.connection.process_new_packets() {
            // The alert that tells the server.
            let _ = self.flush(io);
            return Err(error(IoFailure::Tls(failure(&why, early))));
        }
        Ok(n)
    }
}

fn failure(why: &Error, early: bool) -> TlsFailure {
    match why {
        Error::InvalidCertificate(why) => match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => TlsFailure::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                TlsFailure::NotYetValid
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                TlsFailure::WrongName
            }
            CertificateError::UnknownIssuer => TlsFailure::UnknownAuthority,
            CertificateError::BadSignature => TlsFailure::BadSignature,
            CertificateError::ApplicationVerificationFailure => TlsFailure::PinDiffers,
            _ => TlsFailure::BadCertificate,
        },
        Error::NoCertificatesPresented => TlsFailure::BadCertificate,
        Error::AlertReceived(alert) => TlsFailure::Alert(u8::from(*alert)),
        Error::InvalidMessage(_) if early => TlsFailure::NotTls,
        _ => TlsFailure::Protocol,
    }
}
