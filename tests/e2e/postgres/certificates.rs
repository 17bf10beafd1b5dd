//! Certificates for TLS: one authority that signs the servers' certificate, and one that does not.

use super::Ground;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use std::path::PathBuf;

/// Files in PEM.
#[derive(Debug, Default)]
pub(crate) struct Certificates {
    /// The authority that signed the servers' certificate.
    pub(crate) authority: PathBuf,
    /// An authority that signed nothing.
    pub(crate) wrong_authority: PathBuf,
    /// The servers' certificate, for `localhost` alone.
    pub(super) server: PathBuf,
    pub(super) server_key: PathBuf,
}

impl Certificates {
    pub(super) fn create(ground: &Ground) -> Certificates {
        let authority = authority("authority of the tests");
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, "localhost");
        let server = params.signed_by(&key, &authority).unwrap();
        Certificates {
            authority: ground.write("ca.pem", &authority.pem()),
            wrong_authority: ground.write("wrong-ca.pem", &self::authority("another").pem()),
            server: ground.write("server.pem", &server.pem()),
            server_key: ground.write("server.key", &key.serialize_pem()),
        }
    }
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    // A certificate whose subject is its issuer would count as self-signed.
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}
