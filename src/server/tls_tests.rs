//! TLS against a server with certificates made here: who is trusted, by which names, with which
//! files, and what happens without it.

use super::peer::{Peer, Step, follow, open, target, welcome};
use super::{ConnectTarget, Connection, ServerError};
use crate::types::ServerFlavor;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
    der: CertificateDer<'static>,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.self_signed(&key).unwrap();
        Authority {
            params,
            key,
            pem: certificate.pem(),
            der: certificate.der().clone(),
        }
    }

    fn sign(&self, name: &str) -> (String, CertificateDer<'static>, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        (certificate.pem(), certificate.der().clone(), key)
    }
}

fn private(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(key.serialize_der()).into()
}

/// A server with a certificate for `name` of `authority` that welcomes whoever comes to it in TLS.
struct Server {
    port: u16,
    thread: JoinHandle<Result<(), String>>,
}

impl Server {
    fn start(authority: &Authority, name: &str, demands_certificate: bool) -> Server {
        let (_, certificate, key) = authority.sign(name);
        Server::with(vec![certificate], &key, authority, demands_certificate)
    }

    fn with(
        chain: Vec<CertificateDer<'static>>,
        key: &KeyPair,
        authority: &Authority,
        demands_certificate: bool,
    ) -> Server {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if demands_certificate {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der.clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .unwrap();
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let config = Arc::new(builder.with_single_cert(chain, private(key)).unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 8];
            stream.read_exact(&mut request).unwrap();
            assert_eq!(request, [0, 0, 0, 8, 4, 210, 22, 47]);
            stream.write_all(b"S").unwrap();
            let session = ServerConnection::new(config).unwrap();
            let script = [
                Step::Startup,
                Step::Send(welcome()),
                Step::Expect(b"X\0\0\0\x04".to_vec()),
            ];
            follow(StreamOwned::new(session, stream), &script)
        });
        Server { port, thread }
    }

    fn target(&self, settings: &str) -> ConnectTarget {
        let settings = format!("hostaddr=127.0.0.1 port={} user=u {settings}", self.port);
        target(&settings, ServerFlavor::PostgreSql { major: 15 })
    }

    fn connect(self, settings: &str) -> Result<Connection, ServerError> {
        let opened = open(&self.target(settings));
        if let Ok(connection) = &opened {
            assert!(connection.is_encrypted());
        }
        opened.inspect_err(|_| drop(self.thread))
    }
}

fn write(directory: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
    let path = directory.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn certificates_are_checked_as_the_mode_says() {
    let [right, wrong, renewed] = ["a", "b", "a"].map(Authority::new);
    let directory = tempfile::tempdir().unwrap();
    let right_root = write(directory.path(), "right.crt", &right.pem, 0o644);
    let wrong_root = write(directory.path(), "wrong.crt", &wrong.pem, 0o644);
    let renewed_root = write(directory.path(), "renewed.crt", &renewed.pem, 0o644);
    let unknown = "UnknownIssuer";
    let cases = [
        ("require", None, "db", None),
        ("require", Some(&right_root), "other", None),
        ("require", Some(&wrong_root), "db", Some(unknown)),
        ("verify-ca", Some(&right_root), "other", None),
        ("verify-ca", Some(&wrong_root), "db", Some(unknown)),
        ("verify-ca", Some(&renewed_root), "db", Some("BadSignature")),
        ("verify-full", Some(&right_root), "db", None),
        (
            "verify-full",
            Some(&right_root),
            "other",
            Some("not valid for name \"db\""),
        ),
        ("verify-full", Some(&wrong_root), "db", Some(unknown)),
    ];
    for (mode, root, name, expected) in cases {
        let server = Server::start(&right, name, false);
        let root = root.map_or(String::new(), |path| {
            format!("sslrootcert={}", path.display())
        });
        let opened = server.connect(&format!("host=db sslmode={mode} {root}"));
        match (opened, expected) {
            (Ok(_), None) => {}
            (Err(error), Some(expected)) => {
                let text = error.to_string();
                assert!(
                    text.contains(expected) && text.contains("\"db\""),
                    "{mode}: {text}"
                );
                assert!(error.hint().is_some(), "{text}");
            }
            (opened, _) => panic!("{mode} {name}: {:?}", opened.err()),
        }
    }
}

#[test]
fn certificate_in_the_root_file_is_trusted_itself() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec!["db".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let directory = tempfile::tempdir().unwrap();
    let mut connect = |expired: bool, host: &str| {
        if expired {
            params.not_after = rcgen::date_time_ymd(2020, 1, 1);
        }
        let own = params.self_signed(&key).unwrap();
        let root = write(directory.path(), "root.crt", &own.pem(), 0o644);
        let server = Server::with(vec![own.der().clone()], &key, &Authority::new("a"), false);
        let settings = format!(
            "host={host} sslmode=verify-full sslrootcert={}",
            root.display()
        );
        server
            .connect(&settings)
            .map(drop)
            .map_err(|error| error.to_string())
    };
    assert_eq!(connect(false, "db"), Ok(()));
    let error = connect(false, "other").unwrap_err();
    assert!(error.contains("not valid for name"), "{error}");
    let error = connect(true, "db").unwrap_err();
    assert!(error.contains("xpired"), "{error}");
}

#[test]
fn client_certificate_is_shown_and_its_key_must_be_private() {
    let authority = Authority::new("a");
    let directory = tempfile::tempdir().unwrap();
    let (pem, _, key) = authority.sign("u");
    let certificate = write(directory.path(), "client.crt", &pem, 0o644);
    let key_path = write(directory.path(), "client.key", &key.serialize_pem(), 0o600);
    let files = format!(
        "host=db sslmode=require sslcert={} sslkey={}",
        certificate.display(),
        key_path.display()
    );
    Server::start(&authority, "db", true)
        .connect(&files)
        .unwrap();

    let error = Server::start(&authority, "db", true)
        .connect("host=db sslmode=require")
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("CertificateRequired") || error.contains("ertificate"),
        "{error}"
    );

    write(directory.path(), "client.key", &key.serialize_pem(), 0o644);
    let error = Server::start(&authority, "db", true)
        .connect(&files)
        .unwrap_err();
    assert!(
        error.to_string().contains("group or world access"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("0600"));
}

#[test]
fn files_that_are_not_there_or_no_certificates_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let empty = write(directory.path(), "empty.crt", "nothing\n", 0o644);
    for (root, expected) in [
        (PathBuf::from("/nonexistent/root.crt"), "No such file"),
        (empty, "no PEM certificate"),
        (directory.path().to_owned(), "not a plain file"),
    ] {
        let peer = Peer::tcp(vec![vec![Step::Stall]]);
        let settings = format!(
            "host=127.0.0.1 port={} user=u sslmode=verify-ca sslrootcert={}",
            peer.port,
            root.display()
        );
        let error = open(&target(&settings, ServerFlavor::OpenGauss))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(expected) && error.contains("root certificate"),
            "{error}"
        );
    }
}

#[test]
fn server_without_tls_gets_what_the_mode_allows() {
    type Case = (&'static str, Vec<Vec<Step>>, Option<&'static str>);
    let request = vec![0, 0, 0, 8, 4, 210, 22, 47];
    let plain = [Step::Startup, Step::Send(welcome()), Step::Stall];
    let answer = |byte: &[u8]| [Step::Expect(request.clone()), Step::Send(byte.to_vec())];
    let refused = [answer(b"N").to_vec(), plain.to_vec()].concat();
    let cases: [Case; 6] = [
        ("disable", vec![plain.to_vec()], None),
        ("allow", vec![plain.to_vec()], None),
        ("prefer", vec![refused.clone()], None),
        (
            "prefer",
            vec![answer(b"ESFATAL\0").to_vec(), plain.to_vec()],
            None,
        ),
        (
            "require",
            vec![refused],
            Some("does not support SSL, but SSL was required"),
        ),
        (
            "require",
            vec![answer(b"EMevil words\0").to_vec()],
            Some("sent an error response during SSL exchange"),
        ),
    ];
    for (mode, scripts, expected) in cases {
        let peer = Peer::tcp(scripts);
        let settings = format!("host=127.0.0.1 port={} user=u sslmode={mode}", peer.port);
        let opened = open(&target(&settings, ServerFlavor::PostgreSql { major: 15 }));
        match (opened, expected) {
            (Ok(connection), None) => assert!(!connection.is_encrypted()),
            (Err(error), Some(expected)) => {
                let text = error.to_string();
                assert!(
                    text.contains(expected) && !text.contains("evil"),
                    "{mode}: {text}"
                );
            }
            (opened, _) => panic!("{mode}: {:?}", opened.err()),
        }
    }
}

#[test]
fn bytes_in_the_clear_behind_the_answer_do_not_count_as_encrypted() {
    let stuffed = [b"S".to_vec(), welcome()].concat();
    let peer = Peer::tcp(vec![vec![Step::Startup, Step::Send(stuffed), Step::Stall]]);
    let settings = format!("host=127.0.0.1 port={} user=u sslmode=require", peer.port);
    let error = open(&target(&settings, ServerFlavor::PostgreSql { major: 15 })).unwrap_err();
    assert!(error.to_string().contains("SSL error"), "{error}");
    peer.finish();
}
