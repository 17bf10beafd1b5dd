//! Where a server listens, as errors name it.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// One place to reach a server at.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ServerAddress {
    /// A socket file.
    Unix {
        /// The whole path, `/tmp/.s.PGSQL.5432`.
        path: PathBuf,
    },
    /// A host and port.
    Tcp {
        /// Name or number as given.
        host: String,
        /// The number to use instead of looking the name up.
        ip: Option<IpAddr>,
        /// The port.
        port: u16,
    },
}

impl ServerAddress {
    /// The socket of `port` in `directory`.
    #[must_use]
    pub fn in_directory(directory: &Path, port: u16) -> ServerAddress {
        ServerAddress::Unix {
            path: directory.join(format!(".s.PGSQL.{port}")),
        }
    }

    /// The port, which for a socket file is the end of its name.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        match self {
            ServerAddress::Tcp { port, .. } => Some(*port),
            ServerAddress::Unix { path } => path.extension()?.to_str()?.parse().ok(),
        }
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerAddress::Unix { path } => {
                write!(
                    f,
                    "server on socket \"{}\"",
                    path.display().to_string().escape_debug()
                )
            }
            ServerAddress::Tcp { host, ip, port } => {
                write!(f, "server at \"{}\"", host.escape_debug())?;
                match ip {
                    Some(ip) if ip.to_string() != *host => write!(f, " ({ip}), port {port}"),
                    _ => write!(f, ", port {port}"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_libpq_writes_them() {
        let socket = ServerAddress::in_directory(Path::new("/tmp"), 15400);
        assert_eq!(
            socket.to_string(),
            "server on socket \"/tmp/.s.PGSQL.15400\""
        );
        assert_eq!(socket.port(), Some(15400));
        let tcp = |host: &str, ip: Option<&str>| ServerAddress::Tcp {
            host: host.to_owned(),
            ip: ip.map(|ip| ip.parse().unwrap()),
            port: 5432,
        };
        assert_eq!(tcp("db", None).to_string(), "server at \"db\", port 5432");
        assert_eq!(
            tcp("db", Some("::1")).to_string(),
            "server at \"db\" (::1), port 5432"
        );
        assert_eq!(
            tcp("::1", Some("::1")).to_string(),
            "server at \"::1\", port 5432"
        );
    }
}
