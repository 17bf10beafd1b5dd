//! Whom to connect to: options, connection string, environment and defaults put together once.
//!
//! What is given on the command line comes before the connection string in the database name, that
//! before `PG*` variables, those before defaults. Options of libpq that would be ignored silently
//! are refused instead.

use super::conninfo;
use super::keywords::{Settings, ignored_or_refused};
use super::tls::TlsOptions;
use super::{Password, ServerAddress, ServerError};
use crate::limits::CONNECT_HOSTS_MAX;
use crate::types::ServerFlavor;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long the original waits for a connection, and for an answer.
pub const SERVER_TIMEOUT_DEFAULT: Duration = Duration::from_secs(120);

/// The port when nobody names one.
const PORT_DEFAULT: u16 = 5432;

const APPLICATION_NAME: &str = "gs_probackup";

/// The database that clients name when they stream WAL; servers ignore it, password files do not.
const REPLICATION_DATABASE: &str = "replication";

/// What the command line and the instance's configuration say about the connection.
#[derive(Clone, Debug)]
pub struct ConnectionOptions {
    /// `-d`: a name, or a connection string or URI.
    pub database: Option<String>,
    /// `-h`.
    pub host: Option<String>,
    /// `-p`.
    pub port: Option<String>,
    /// `-U`.
    pub user: Option<String>,
    /// `-W`.
    pub password: Option<Password>,
    /// `-t`: how long to wait for an answer.
    pub rw_timeout: Duration,
}

impl Default for ConnectionOptions {
    fn default() -> ConnectionOptions {
        ConnectionOptions {
            database: None,
            host: None,
            port: None,
            user: None,
            password: None,
            rw_timeout: SERVER_TIMEOUT_DEFAULT,
        }
    }
}

/// What a TCP connection does when nothing comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeepAlive {
    /// Whether to probe at all.
    pub(super) enabled: bool,
    /// Silence before the first probe.
    pub(super) idle: Option<Duration>,
    /// Time between probes.
    pub(super) interval: Option<Duration>,
    /// Probes without an answer that end the connection.
    pub(super) count: Option<u32>,
    /// How long sent bytes may stay unconfirmed.
    pub(super) user_timeout: Option<Duration>,
}

/// Everything that is needed to connect, resolved but for host names.
#[derive(Clone, Debug)]
pub struct ConnectTarget {
    pub(super) flavor: ServerFlavor,
    /// Where to try, in order; for each the name a password file knows it by.
    pub(super) addresses: Vec<(ServerAddress, String)>,
    pub(super) user: String,
    pub(super) database: String,
    pub(super) replication: bool,
    pub(super) application_name: String,
    pub(super) options: Option<String>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) tls: TlsOptions,
    pub(super) connect_timeout: Duration,
    pub(super) rw_timeout: Duration,
    pub(super) keep_alive: KeepAlive,
    password: Option<Password>,
    /// What a person answered: the second connection does not ask again.
    answered: Arc<Mutex<Option<Password>>>,
    port_is_known: bool,
}

impl ConnectTarget {
    /// Puts together what `options` and the `PG*` variables that `env` finds say.
    ///
    /// # Errors
    /// [`ServerError`]: an option that is unknown, malformed or not supported.
    pub fn resolve(
        options: &ConnectionOptions,
        env: &dyn Fn(&str) -> Option<String>,
        flavor: ServerFlavor,
    ) -> Result<ConnectTarget, ServerError> {
        let settings = gather(options, env)?;
        ignored_or_refused(&settings)?;
        let account = OsAccount::find(env);
        let user = match settings.get("user") {
            Some(user) => user.to_owned(),
            None => account.name.clone().ok_or(ServerError::NoUserName)?,
        };
        let home = account.home;
        let password_file = match settings.get("passfile") {
            Some(path) => Some(PathBuf::from(path)),
            None => home.as_deref().map(|home| home.join(".pgpass")),
        };
        let application_name = settings
            .get("application_name")
            .or_else(|| settings.get("fallback_application_name"))
            .unwrap_or(APPLICATION_NAME);
        let rw_timeout = match settings.seconds("rw_timeout")? {
            Some(timeout) if options.rw_timeout == SERVER_TIMEOUT_DEFAULT => timeout,
            _ => options.rw_timeout,
        };
        Ok(ConnectTarget {
            flavor,
            addresses: addresses(&settings, flavor)?,
            database: settings.get("dbname").unwrap_or(&user).to_owned(),
            user,
            replication: false,
            application_name: application_name.to_owned(),
            options: settings.get("options").map(str::to_owned),
            password_file,
            tls: TlsOptions::from_settings(&settings, home.as_deref())?,
            connect_timeout: settings
                .connect_timeout()?
                .unwrap_or(SERVER_TIMEOUT_DEFAULT),
            rw_timeout,
            keep_alive: KeepAlive {
                enabled: settings.number("keepalives")? != Some(0),
                idle: settings.seconds("keepalives_idle")?,
                interval: settings.seconds("keepalives_interval")?,
                count: settings
                    .number("keepalives_count")?
                    .filter(|count| *count > 0),
                user_timeout: settings.milliseconds("tcp_user_timeout")?,
            },
            password: options.password.clone().or_else(|| {
                settings
                    .get("password")
                    .map(|text| Password::new(text.to_owned()))
            }),
            answered: Arc::default(),
            port_is_known: settings.get("port").is_some(),
        })
    }

    /// The target of the connection that streams WAL: on openGauss the port behind the ordinary
    /// one when that is known, as the original does; on PostgreSQL the same one.
    #[must_use]
    pub fn for_replication(&self) -> ConnectTarget {
        let mut target = self.clone();
        target.replication = true;
        target.database = REPLICATION_DATABASE.to_owned();
        if self.flavor == ServerFlavor::OpenGauss && self.port_is_known {
            for (address, _) in &mut target.addresses {
                *address = next_port(address);
            }
        }
        target
    }

    /// Whether nothing but a prompt could give a password; the server may not want one.
    #[must_use]
    pub fn needs_password(&self) -> bool {
        self.known_password().is_none()
    }

    /// The user's name.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The database's name.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The server's kind, as given.
    #[must_use]
    pub fn flavor(&self) -> ServerFlavor {
        self.flavor
    }

    /// Where it will be tried, in order.
    #[must_use]
    pub fn addresses(&self) -> Vec<ServerAddress> {
        let addresses = self.addresses.iter();
        addresses.map(|(address, _)| address.clone()).collect()
    }

    /// How long an answer is waited for.
    #[must_use]
    pub fn rw_timeout(&self) -> Duration {
        self.rw_timeout
    }

    /// The password given, or typed in for an earlier connection.
    pub(super) fn known_password(&self) -> Option<Password> {
        let answered = self
            .answered
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        self.password.clone().or_else(|| answered.clone())
    }

    /// Keeps what a person typed in, for this target and those derived from it.
    pub(super) fn keep_password(&self, password: Password) {
        let mut answered = self
            .answered
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *answered = Some(password);
    }
}

fn next_port(address: &ServerAddress) -> ServerAddress {
    match address {
        ServerAddress::Tcp { host, ip, port } => ServerAddress::Tcp {
            host: host.clone(),
            ip: *ip,
            port: port.saturating_add(1),
        },
        ServerAddress::Unix { path } => {
            let port = address.port().unwrap_or(PORT_DEFAULT);
            let directory = path.parent().unwrap_or(Path::new("/"));
            ServerAddress::in_directory(directory, port.saturating_add(1))
        }
    }
}

/// The settings of all sources, the strongest of each name.
fn gather(
    options: &ConnectionOptions,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Settings, ServerError> {
    let mut settings = Settings::from_environment(env);
    if let Some(database) = &options.database {
        if conninfo::is_connection_string(database) {
            for (name, value) in conninfo::parse(database)? {
                settings.set(&name, value)?;
            }
        } else {
            settings.set("dbname", database.clone())?;
        }
    }
    for (name, value) in [
        ("host", &options.host),
        ("port", &options.port),
        ("user", &options.user),
    ] {
        if let Some(value) = value {
            settings.set(name, value.clone())?;
        }
    }
    if options.host.is_some() {
        // An address of another source belongs to another host.
        settings.remove("hostaddr");
    }
    Ok(settings)
}

fn addresses(
    settings: &Settings,
    flavor: ServerFlavor,
) -> Result<Vec<(ServerAddress, String)>, ServerError> {
    let list = |name: &str| -> Vec<String> {
        let text = settings.get(name).unwrap_or("");
        text.split(',').map(|part| part.trim().to_owned()).collect()
    };
    let (hosts, numbers, ports) = (list("host"), list("hostaddr"), list("port"));
    let count = hosts.len().max(numbers.len());
    if count > CONNECT_HOSTS_MAX {
        return Err(ServerError::BadConnectionString {
            reason: format!("more than {CONNECT_HOSTS_MAX} hosts"),
        });
    }
    let given = |name: &str| settings.get(name).is_some();
    for (name, parts) in [("host", &hosts), ("hostaddr", &numbers), ("port", &ports)] {
        let one_for_all = name == "port" && parts.len() == 1;
        if given(name) && parts.len() != count && !one_for_all {
            return Err(ServerError::BadConnectionString {
                reason: format!(
                    "could not match {} {name} values to {count} hosts",
                    parts.len()
                ),
            });
        }
    }
    let mut addresses = Vec::new();
    for at in 0..count {
        let port = match ports.get(at).or(ports.first()).map_or("", String::as_str) {
            "" => PORT_DEFAULT,
            text => parse_port(text)?,
        };
        let host = hosts.get(at).map_or("", String::as_str);
        let number = numbers.get(at).map_or("", String::as_str);
        push_address(host, number, port, flavor, &mut addresses)?;
    }
    Ok(addresses)
}

fn push_address(
    host: &str,
    number: &str,
    port: u16,
    flavor: ServerFlavor,
    addresses: &mut Vec<(ServerAddress, String)>,
) -> Result<(), ServerError> {
    if !number.is_empty() {
        let ip: IpAddr = number.parse().map_err(|_| ServerError::BadOption {
            name: "hostaddr",
            value: number.to_owned(),
            expected: "must be a network address in numbers",
        })?;
        let name = if host.is_empty() { number } else { host };
        addresses.push((
            ServerAddress::Tcp {
                host: name.to_owned(),
                ip: Some(ip),
                port,
            },
            name.to_owned(),
        ));
    } else if host.starts_with('@') {
        return Err(ServerError::UnsupportedOption {
            name: "host".to_owned(),
            instead: "a socket in the abstract namespace cannot be used, name a directory",
        });
    } else if host.starts_with('/') {
        let name = if socket_directories(flavor).contains(&host) {
            "localhost"
        } else {
            host
        };
        let address = ServerAddress::in_directory(Path::new(host), port);
        addresses.push((address, name.to_owned()));
    } else if host.is_empty() {
        for directory in socket_directories(flavor) {
            let address = ServerAddress::in_directory(Path::new(directory), port);
            addresses.push((address, "localhost".to_owned()));
        }
    } else {
        addresses.push((
            ServerAddress::Tcp {
                host: host.to_owned(),
                ip: host.parse().ok(),
                port,
            },
            host.to_owned(),
        ));
    }
    Ok(())
}

/// Where servers put their sockets, the likelier first: distributions moved PostgreSQL's.
fn socket_directories(flavor: ServerFlavor) -> [&'static str; 2] {
    match flavor {
        ServerFlavor::OpenGauss => ["/tmp", "/var/run/postgresql"],
        ServerFlavor::PostgreSql { .. } => ["/var/run/postgresql", "/tmp"],
    }
}

fn parse_port(text: &str) -> Result<u16, ServerError> {
    let port = text.parse().ok().filter(|port| *port > 0);
    port.ok_or_else(|| ServerError::BadOption {
        name: "port",
        value: text.to_owned(),
        expected: "must be a number from 1 to 65535",
    })
}

/// The name of the account that runs this process, where it has one.
#[must_use]
pub fn os_user_name() -> Option<String> {
    OsAccount::find(&|name| std::env::var(name).ok()).name
}

/// Who runs this process.
struct OsAccount {
    name: Option<String>,
    home: Option<PathBuf>,
}

impl OsAccount {
    /// From the file of accounts; an account of another service is known by the environment only.
    fn find(env: &dyn Fn(&str) -> Option<String>) -> OsAccount {
        let accounts = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
        let id = rustix::process::geteuid().as_raw().to_string();
        let fields: Option<Vec<&str>> = accounts
            .lines()
            .map(|line| line.split(':').collect::<Vec<_>>())
            .find(|fields| fields.len() > 5 && fields[2] == id);
        let variable = |name: &str| env(name).filter(|value| !value.is_empty());
        OsAccount {
            name: fields
                .as_ref()
                .map(|fields| fields[0].to_owned())
                .or_else(|| variable("USER"))
                .or_else(|| variable("LOGNAME")),
            home: variable("HOME")
                .or_else(|| fields.as_ref().map(|fields| fields[5].to_owned()))
                .map(PathBuf::from),
        }
    }
}
