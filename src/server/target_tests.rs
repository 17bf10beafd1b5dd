//! Which source wins, what is looked for where, and what is refused.

use super::tls::TlsMode;
use super::{ConnectTarget, ConnectionOptions, Password, ServerError};
use crate::types::ServerFlavor;
use std::time::Duration;

const POSTGRESQL: ServerFlavor = ServerFlavor::PostgreSql { major: 15 };

fn resolve(
    options: &ConnectionOptions,
    variables: &[(&str, &str)],
    flavor: ServerFlavor,
) -> Result<ConnectTarget, ServerError> {
    let env = |name: &str| {
        let found = variables.iter().find(|(variable, _)| *variable == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    ConnectTarget::resolve(options, &env, flavor)
}

fn database(text: &str) -> ConnectionOptions {
    ConnectionOptions {
        database: Some(text.to_owned()),
        ..ConnectionOptions::default()
    }
}

fn addresses(target: &ConnectTarget) -> Vec<String> {
    target.addresses().iter().map(ToString::to_string).collect()
}

#[test]
fn options_come_before_the_connection_string_before_variables() {
    let variables = [
        ("PGHOST", "env"),
        ("PGPORT", "1"),
        ("PGUSER", "envuser"),
        ("PGDATABASE", "envdb"),
        ("PGPASSWORD", "envpw"),
        ("PGAPPNAME", "app"),
        ("PGCONNECT_TIMEOUT", "7"),
        ("PGSSLMODE", "require"),
        ("PGOPTIONS", "-c a=b"),
    ];
    let target = resolve(&ConnectionOptions::default(), &variables, POSTGRESQL).unwrap();
    assert_eq!(addresses(&target), ["server at \"env\", port 1"]);
    assert_eq!((target.user(), target.database()), ("envuser", "envdb"));
    assert_eq!(target.known_password().unwrap().expose(), "envpw");
    assert_eq!(target.application_name, "app");
    assert_eq!(target.connect_timeout, Duration::from_secs(7));
    assert_eq!(target.tls.mode, TlsMode::Require);
    assert_eq!(target.options.as_deref(), Some("-c a=b"));

    let string = "dbname=name host=string port=2 user=stringuser password=stringpw";
    let target = resolve(&database(string), &variables, POSTGRESQL).unwrap();
    assert_eq!(addresses(&target), ["server at \"string\", port 2"]);
    assert_eq!((target.user(), target.database()), ("stringuser", "name"));
    assert_eq!(target.known_password().unwrap().expose(), "stringpw");

    let options = ConnectionOptions {
        host: Some("option".to_owned()),
        port: Some("3".to_owned()),
        user: Some("optionuser".to_owned()),
        password: Some(Password::new("optionpw".to_owned())),
        ..database(string)
    };
    let target = resolve(&options, &[("PGHOSTADDR", "::1")], POSTGRESQL).unwrap();
    assert_eq!(addresses(&target), ["server at \"option\", port 3"]);
    assert_eq!(target.user(), "optionuser");
    assert_eq!(target.known_password().unwrap().expose(), "optionpw");
    assert!(!format!("{target:?}").contains("optionpw"));
}

#[test]
fn defaults_are_those_of_the_servers() {
    let user = [("PGUSER", "bk")];
    let target = resolve(
        &ConnectionOptions::default(),
        &user,
        ServerFlavor::OpenGauss,
    )
    .unwrap();
    assert_eq!(target.database(), "bk");
    assert_eq!(
        addresses(&target),
        [
            "server on socket \"/tmp/.s.PGSQL.5432\"",
            "server on socket \"/var/run/postgresql/.s.PGSQL.5432\""
        ]
    );
    assert_eq!(target.application_name, "gs_probackup");
    assert_eq!(target.tls.mode, TlsMode::Prefer);
    assert_eq!(target.connect_timeout, Duration::from_secs(120));
    assert_eq!(target.rw_timeout(), Duration::from_secs(120));
    let target = resolve(&ConnectionOptions::default(), &user, POSTGRESQL).unwrap();
    assert!(addresses(&target)[0].contains("/var/run/postgresql/"));
    let target = resolve(&ConnectionOptions::default(), &[], POSTGRESQL).unwrap();
    assert!(
        !target.user().is_empty(),
        "the account of this process has a name"
    );
}

#[test]
fn several_hosts_are_tried_in_order() {
    let cases = [
        ("host=a,b port=1,2", "a:1 b:2"),
        ("host=a,b port=1", "a:1 b:1"),
        ("host=a,b", "a:5432 b:5432"),
        ("host=a hostaddr=::1", "a:5432"),
        ("hostaddr=127.0.0.1", "127.0.0.1:5432"),
        ("postgresql://a:1,[::1]:2/x", "a:1 ::1:2"),
    ];
    for (text, expected) in cases {
        let target = resolve(&database(text), &[("PGUSER", "u")], POSTGRESQL).unwrap();
        let found: Vec<String> = target
            .addresses
            .iter()
            .map(|(address, name)| format!("{name}:{}", address.port().unwrap()))
            .collect();
        assert_eq!(found.join(" "), expected, "{text}");
    }
}

#[test]
fn sockets_in_usual_places_are_localhost_to_password_files() {
    for (host, name) in [("/tmp", "localhost"), ("/data/sockets", "/data/sockets")] {
        let target = resolve(&database(&format!("host={host} user=u")), &[], POSTGRESQL).unwrap();
        assert_eq!(target.addresses[0].1, name);
    }
}

#[test]
fn replication_goes_to_the_next_port_of_opengauss_only() {
    let ports = |text: &str, flavor: ServerFlavor| {
        let target = resolve(&database(text), &[("PGUSER", "u")], flavor).unwrap();
        let replication = target.for_replication();
        assert_eq!(replication.database(), "replication");
        replication.addresses()[0].port().unwrap()
    };
    assert_eq!(ports("host=a port=15400", ServerFlavor::OpenGauss), 15401);
    assert_eq!(
        ports("host=/tmp port=15400", ServerFlavor::OpenGauss),
        15401
    );
    assert_eq!(ports("host=a", ServerFlavor::OpenGauss), 5432);
    assert_eq!(ports("host=a port=15400", POSTGRESQL), 15400);
}

#[test]
fn what_cannot_be_heeded_is_refused() {
    let cases = [
        ("nonsense=1", "invalid connection option \"nonsense\""),
        (
            "port=0",
            "invalid port value \"0\": must be a number from 1 to 65535",
        ),
        ("port=70000", "invalid port value"),
        (
            "host=@abstract",
            "a socket in the abstract namespace cannot be used",
        ),
        ("hostaddr=db", "invalid hostaddr value \"db\""),
        (
            "host=a,b port=1,2,3",
            "could not match 3 port values to 2 hosts",
        ),
        (
            "host=a,b hostaddr=::1",
            "could not match 1 hostaddr values to 2 hosts",
        ),
        ("sslmode=maybe", "invalid sslmode value \"maybe\""),
        ("connect_timeout=x", "invalid connect_timeout value \"x\""),
        (
            "service=s",
            "connection option \"service\" is not supported",
        ),
        ("sslcrl=f", "connection option \"sslcrl\" is not supported"),
        (
            "target_session_attrs=read-write",
            "\"target_session_attrs\" is not supported",
        ),
        (
            "gssencmode=require",
            "\"gssencmode\" is not supported: use sslmode=require",
        ),
        ("replication=true", "\"replication\" is not supported"),
        ("sslrootcert=system", "\"sslrootcert\" is not supported"),
        (
            "sslcert=/x user=u",
            "cannot use certificate file \"/x\": its private key is not given",
        ),
        (
            "ssl_min_protocol_version=SSLv3",
            "must be TLSv1.2 or TLSv1.3",
        ),
    ];
    for (text, expected) in cases {
        let found = resolve(&database(text), &[("PGUSER", "u")], POSTGRESQL);
        let error = found.expect_err(text).to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    for text in [
        "target_session_attrs=any gssencmode=prefer",
        "keepalives=0 keepalives_idle=5",
    ] {
        resolve(&database(text), &[("PGUSER", "u")], POSTGRESQL).expect(text);
    }
}

#[test]
fn hosts_are_limited() {
    let hosts = vec!["a"; crate::limits::CONNECT_HOSTS_MAX + 1].join(",");
    let error = resolve(&database(&format!("host={hosts}")), &[], POSTGRESQL).unwrap_err();
    assert!(error.to_string().contains("hosts"), "{error}");
}
