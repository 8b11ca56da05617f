//! Certificates for the lab's servers, from authorities that nobody else knows.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PublicKeyData, date_time_ymd,
};

use super::{LabError, Result};

/// An authority.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Certificate of the authority, in PEM.
    pub pem: String,
}

/// A server's certificate and key, in PEM.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate.
    pub pem: String,
    /// Key of the certificate.
    pub key: String,
    /// Public key, in DER; a pin is its hash.
    pub public: Vec<u8>,
}

impl Authority {
    /// Makes an authority with this name and a new key.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().map_err(failed)?;
        let pem = params.self_signed(&key).map_err(failed)?.pem();
        Ok(Authority { issuer: Issuer::new(params, key), pem })
    }

    /// A certificate for these names and addresses, that is valid for long or has expired.
    pub fn certificate(&self, names: &[&str], expired: bool) -> Result<Certificate> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).map_err(failed)?;
        if expired {
            params.not_after = date_time_ymd(2020, 1, 1);
        }
        let key = KeyPair::generate().map_err(failed)?;
        let pem = params.signed_by(&key, &self.issuer).map_err(failed)?.pem();
        Ok(Certificate { pem, key: key.serialize_pem(), public: key.subject_public_key_info() })
    }
}

fn failed(why: rcgen::Error) -> LabError {
    LabError::new(format!("a certificate: {why}"))
}
