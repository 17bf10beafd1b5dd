//! TLS as libpq's `sslmode` asks for it: who is checked, against which files, by which names.
//!
//! `require` checks nothing unless there is a root certificate, then it is `verify-ca`; that checks
//! the chain; `verify-full` checks the host name too. Names are looked for in subjectAltName only.
//! A certificate that is itself in the root file is trusted as OpenSSL trusts it.

use super::keywords::Settings;
use super::{ServerAddress, ServerError};
use crate::limits::CREDENTIAL_FILE_BYTES_MAX;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// libpq's `sslmode`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum TlsMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

/// libpq's `channel_binding`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ChannelBindingMode {
    Disable,
    Prefer,
    Require,
}

/// Everything about TLS that a target says.
#[derive(Clone, Debug)]
pub(super) struct TlsOptions {
    pub(super) mode: TlsMode,
    pub(super) channel_binding: ChannelBindingMode,
    root: Option<PathBuf>,
    certificate: Option<(PathBuf, PathBuf)>,
    send_name: bool,
    versions: Vec<&'static SupportedProtocolVersion>,
}

impl TlsOptions {
    /// Reads the options; files at the usual places below `home` count when they are there.
    ///
    /// # Errors
    /// [`ServerError`]: an option has no such value, or a certificate has no key.
    pub(super) fn from_settings(
        settings: &Settings,
        home: Option<&Path>,
    ) -> Result<TlsOptions, ServerError> {
        let mode = match settings.get("sslmode").unwrap_or("prefer") {
            "disable" => TlsMode::Disable,
            "allow" => TlsMode::Allow,
            "prefer" => TlsMode::Prefer,
            "require" => TlsMode::Require,
            "verify-ca" => TlsMode::VerifyCa,
            "verify-full" => TlsMode::VerifyFull,
            other => {
                return Err(ServerError::BadOption {
                    name: "sslmode",
                    value: other.to_owned(),
                    expected: "must be disable, allow, prefer, require, verify-ca or verify-full",
                });
            }
        };
        let channel_binding = match settings.get("channel_binding").unwrap_or("prefer") {
            "disable" => ChannelBindingMode::Disable,
            "prefer" => ChannelBindingMode::Prefer,
            "require" => ChannelBindingMode::Require,
            other => {
                return Err(ServerError::BadOption {
                    name: "channel_binding",
                    value: other.to_owned(),
                    expected: "must be disable, prefer or require",
                });
            }
        };
        if settings.get("sslrootcert") == Some("system") {
            return Err(ServerError::UnsupportedOption {
                name: "sslrootcert".to_owned(),
                instead: "\"system\" is not known, name the file of the authority",
            });
        }
        let usual = |name: &str| home.map(|home| home.join(".postgresql").join(name));
        let given = |name: &str, file: &str| match settings.get(name) {
            Some(path) => Some(PathBuf::from(path)),
            None => usual(file).filter(|path| path.exists()),
        };
        let verifies = matches!(mode, TlsMode::VerifyCa | TlsMode::VerifyFull);
        let root =
            given("sslrootcert", "root.crt").or_else(|| usual("root.crt").filter(|_| verifies));
        let certificate = given("sslcert", "postgresql.crt");
        let key = given("sslkey", "postgresql.key");
        let certificate = match (certificate, key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (Some(path), None) => {
                return Err(file_error(
                    "certificate",
                    &path,
                    "its private key is not given",
                ));
            }
            (None, _) => None,
        };
        Ok(TlsOptions {
            mode,
            channel_binding,
            root,
            certificate,
            send_name: settings.get("sslsni") != Some("0"),
            versions: versions(settings)?,
        })
    }

    /// What rustls needs for a connection.
    ///
    /// # Errors
    /// [`ServerError::TlsFile`]: a file that is given cannot be used.
    pub(super) fn config(&self) -> Result<Arc<ClientConfig>, ServerError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = self.verifier(&provider)?;
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&self.versions)
            .map_err(|error| ServerError::BadConnectionString {
                reason: format!("no usable version of TLS: {error}"),
            })?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &self.certificate {
            Some((certificate, key)) => {
                let chain = read_certificates("certificate", certificate)?;
                builder
                    .with_client_auth_cert(chain, read_key(key)?)
                    .map_err(|error| file_error("private key", key, &error.to_string()))?
            }
            None => builder.with_no_client_auth(),
        };
        config.enable_sni = self.send_name;
        // A session of another server's would prove nothing about this one's certificate.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Arc::new(config))
    }

    fn verifier(&self, provider: &Arc<CryptoProvider>) -> Result<Arc<Verifier>, ServerError> {
        let algorithms = provider.signature_verification_algorithms;
        let checks_names = self.mode == TlsMode::VerifyFull;
        let verifies = matches!(
            self.mode,
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull
        );
        let Some(path) = self.root.as_ref().filter(|_| verifies) else {
            if verifies && self.mode != TlsMode::Require {
                return Err(ServerError::TlsFile {
                    what: "root certificate",
                    path: PathBuf::from("~/.postgresql/root.crt"),
                    reason: "there is no home directory".to_owned(),
                });
            }
            return Ok(Arc::new(Verifier {
                algorithms,
                chain: None,
            }));
        };
        let certificates = read_certificates("root certificate", path)?;
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(certificates.iter().cloned());
        if added == 0 {
            return Err(file_error(
                "root certificate",
                path,
                "no certificate in it can be used",
            ));
        }
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .build()
            .map_err(|error| file_error("root certificate", path, &error.to_string()))?;
        Ok(Arc::new(Verifier {
            algorithms,
            chain: Some(ChainVerifier {
                chain,
                certificates,
                checks_names,
            }),
        }))
    }
}

fn versions(settings: &Settings) -> Result<Vec<&'static SupportedProtocolVersion>, ServerError> {
    let rank = |name: &'static str, default: u8| match settings.get(name) {
        None => Ok(default),
        Some("TLSv1" | "TLSv1.1" | "TLSv1.2") => Ok(2),
        Some("TLSv1.3") => Ok(3),
        Some(other) => Err(ServerError::BadOption {
            name,
            value: other.to_owned(),
            expected: "must be TLSv1.2 or TLSv1.3",
        }),
    };
    let lowest = rank("ssl_min_protocol_version", 2)?;
    let highest = rank("ssl_max_protocol_version", 3)?;
    let all = [(2, &rustls::version::TLS12), (3, &rustls::version::TLS13)];
    let wanted = all
        .into_iter()
        .filter(|(rank, _)| (lowest..=highest).contains(rank));
    Ok(wanted.map(|(_, version)| version).collect())
}

fn file_error(what: &'static str, path: &Path, reason: &str) -> ServerError {
    ServerError::TlsFile {
        what,
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

fn read_file(what: &'static str, path: &Path) -> Result<Vec<u8>, ServerError> {
    let metadata =
        std::fs::metadata(path).map_err(|error| file_error(what, path, &error.to_string()))?;
    if !metadata.is_file() {
        return Err(file_error(what, path, "it is not a plain file"));
    }
    if metadata.len() > CREDENTIAL_FILE_BYTES_MAX {
        return Err(file_error(what, path, "it is too large"));
    }
    std::fs::read(path).map_err(|error| file_error(what, path, &error.to_string()))
}

fn read_certificates(
    what: &'static str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, ServerError> {
    let text = read_file(what, path)?;
    let certificates = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            Err(file_error(what, path, "it holds no PEM certificate"))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(file_error(what, path, &error.to_string())),
    }
}

/// Reads a private key, which nobody else may read but the group when root owns it.
fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, ServerError> {
    const WHAT: &str = "private key";
    let metadata =
        std::fs::metadata(path).map_err(|error| file_error(WHAT, path, &error.to_string()))?;
    let forbidden = if metadata.uid() == 0 { 0o027 } else { 0o077 };
    if metadata.mode() & forbidden != 0 {
        return Err(file_error(WHAT, path, "it has group or world access"));
    }
    let text = zeroize::Zeroizing::new(read_file(WHAT, path)?);
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| file_error(WHAT, path, &error.to_string()))
}

/// The name to check a certificate for.
///
/// # Errors
/// [`ServerError::TlsHostName`].
pub(super) fn server_name(address: &ServerAddress) -> Result<ServerName<'static>, ServerError> {
    let host = match address {
        ServerAddress::Tcp { host, .. } => host.clone(),
        ServerAddress::Unix { .. } => "localhost".to_owned(),
    };
    ServerName::try_from(host.clone()).map_err(|_| ServerError::TlsHostName { host })
}

/// Checks what the mode demands of the server's certificate.
#[derive(Debug)]
struct Verifier {
    algorithms: WebPkiSupportedAlgorithms,
    chain: Option<ChainVerifier>,
}

#[derive(Debug)]
struct ChainVerifier {
    chain: Arc<WebPkiServerVerifier>,
    certificates: Vec<CertificateDer<'static>>,
    checks_names: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        status: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        // The order matters: the chain is checked before the name, so that a complaint about the
        // name means that the chain is good.
        let verdict = chain
            .chain
            .verify_server_cert(certificate, intermediates, name, status, now);
        match verdict {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !chain.checks_names => Ok(ServerCertVerified::assertion()),
            Err(_) if chain.certificates.iter().any(|root| root == certificate) => {
                super::certificate::check_validity(certificate, now)?;
                if chain.checks_names {
                    verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                }
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
