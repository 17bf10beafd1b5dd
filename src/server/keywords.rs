//! The connection options of libpq: which there are, which variables set them, which are refused.

use super::ServerError;
use std::collections::BTreeMap;
use std::time::Duration;

/// Options that this program heeds, with the variable that sets each.
const HEEDED: [(&str, &str); 25] = [
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("port", "PGPORT"),
    ("user", "PGUSER"),
    ("dbname", "PGDATABASE"),
    ("password", "PGPASSWORD"),
    ("passfile", "PGPASSFILE"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("rw_timeout", ""),
    ("application_name", "PGAPPNAME"),
    ("fallback_application_name", ""),
    ("options", "PGOPTIONS"),
    ("sslmode", "PGSSLMODE"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("sslsni", "PGSSLSNI"),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    ("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("keepalives", ""),
    ("keepalives_idle", ""),
    ("keepalives_interval", ""),
    ("keepalives_count", ""),
    ("tcp_user_timeout", ""),
];

/// Options that change nothing here: what they choose among does not exist in this program.
const WITHOUT_EFFECT: [(&str, &str); 5] = [
    ("client_encoding", "PGCLIENTENCODING"),
    ("sslcompression", "PGSSLCOMPRESSION"),
    ("krbsrvname", "PGKRBSRVNAME"),
    ("gsslib", "PGGSSLIB"),
    ("gssdelegation", "PGGSSDELEGATION"),
];

/// Options of which only the values that ask for nothing are taken.
const REFUSED: [(&str, &str, &[&str], &str); 14] = [
    (
        "service",
        "PGSERVICE",
        &[],
        "write its settings into the connection string",
    ),
    (
        "sslcrl",
        "PGSSLCRL",
        &[],
        "revocation lists are not read, leave it out",
    ),
    (
        "sslcrldir",
        "PGSSLCRLDIR",
        &[],
        "revocation lists are not read, leave it out",
    ),
    (
        "sslpassword",
        "",
        &[],
        "store the key unencrypted, mode 0600",
    ),
    ("sslcertmode", "PGSSLCERTMODE", &["allow"], "leave it out"),
    (
        "sslnegotiation",
        "PGSSLNEGOTIATION",
        &["postgres"],
        "only \"postgres\" is known",
    ),
    ("requiressl", "PGREQUIRESSL", &["0"], "use sslmode=require"),
    ("requirepeer", "PGREQUIREPEER", &[], "leave it out"),
    ("require_auth", "PGREQUIREAUTH", &[], "leave it out"),
    (
        "gssencmode",
        "PGGSSENCMODE",
        &["disable", "prefer"],
        "use sslmode=require",
    ),
    (
        "target_session_attrs",
        "PGTARGETSESSIONATTRS",
        &["any"],
        "name the one server whose data directory is -D, --pgdata",
    ),
    (
        "load_balance_hosts",
        "PGLOADBALANCEHOSTS",
        &["disable"],
        "hosts are tried in the order given",
    ),
    (
        "replication",
        "",
        &[],
        "this program sets it where it is needed",
    ),
    ("enable_ce", "", &["0"], "leave it out"),
];

/// Options that were given, whatever the source.
#[derive(Debug, Default)]
pub(super) struct Settings(BTreeMap<&'static str, String>);

impl Settings {
    /// What the variables that `env` finds set. An empty one sets nothing.
    pub(super) fn from_environment(env: &dyn Fn(&str) -> Option<String>) -> Settings {
        let mut settings = Settings::default();
        for (name, variable) in names() {
            if variable.is_empty() {
                continue;
            }
            if let Some(value) = env(variable).filter(|value| !value.is_empty()) {
                settings.0.insert(name, value);
            }
        }
        settings
    }

    /// Sets an option, over what it was; an empty value is none.
    ///
    /// # Errors
    /// [`ServerError::UnknownOption`].
    pub(super) fn set(&mut self, name: &str, value: String) -> Result<(), ServerError> {
        let known = names().find(|(known, _)| *known == name);
        let Some((known, _)) = known else {
            return Err(ServerError::UnknownOption {
                name: name.to_owned(),
            });
        };
        if value.is_empty() {
            self.0.remove(known);
        } else {
            self.0.insert(known, value);
        }
        Ok(())
    }

    /// Takes an option away.
    pub(super) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// The value of an option.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// The value of an option that is a number.
    ///
    /// # Errors
    /// [`ServerError::BadOption`].
    pub(super) fn number(&self, name: &'static str) -> Result<Option<u32>, ServerError> {
        let Some(text) = self.get(name) else {
            return Ok(None);
        };
        match text.trim().parse::<i32>() {
            // Negative numbers mean the default, as zero does.
            Ok(number) => Ok(Some(u32::try_from(number).unwrap_or(0))),
            Err(_) => Err(ServerError::BadOption {
                name,
                value: text.to_owned(),
                expected: "must be a whole number",
            }),
        }
    }

    /// The value of an option that counts seconds; zero is as good as none.
    ///
    /// # Errors
    /// As [`Settings::number`].
    pub(super) fn seconds(&self, name: &'static str) -> Result<Option<Duration>, ServerError> {
        let number = self.number(name)?.filter(|number| *number > 0);
        Ok(number.map(|number| Duration::from_secs(u64::from(number))))
    }

    /// The value of an option that counts milliseconds.
    ///
    /// # Errors
    /// As [`Settings::number`].
    pub(super) fn milliseconds(&self, name: &'static str) -> Result<Option<Duration>, ServerError> {
        let number = self.number(name)?.filter(|number| *number > 0);
        Ok(number.map(|number| Duration::from_millis(u64::from(number))))
    }

    /// How long to wait for a connection; libpq takes no less than two seconds.
    ///
    /// # Errors
    /// As [`Settings::number`].
    pub(super) fn connect_timeout(&self) -> Result<Option<Duration>, ServerError> {
        const LEAST: Duration = Duration::from_secs(2);
        let timeout = self.seconds("connect_timeout")?;
        Ok(timeout.map(|timeout| timeout.max(LEAST)))
    }
}

fn names() -> impl Iterator<Item = (&'static str, &'static str)> {
    let refused = REFUSED
        .iter()
        .map(|(name, variable, _, _)| (*name, *variable));
    HEEDED.into_iter().chain(WITHOUT_EFFECT).chain(refused)
}

/// Refuses options that this program would have to ignore.
///
/// # Errors
/// [`ServerError::UnsupportedOption`].
pub(super) fn ignored_or_refused(settings: &Settings) -> Result<(), ServerError> {
    for (name, _, harmless, instead) in REFUSED {
        match settings.get(name) {
            Some(value) if !harmless.contains(&value) => {
                return Err(ServerError::UnsupportedOption {
                    name: name.to_owned(),
                    instead,
                });
            }
            _ => {}
        }
    }
    Ok(())
}
