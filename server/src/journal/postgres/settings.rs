//! The settings of a store on a server, as its URL gives them.

use std::{fmt, net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use tokio_postgres::{
    Config,
    config::{Host, SslMode, TargetSessionAttrs},
};

/// The time for a connection to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The time after which sent bytes that nobody has acknowledged end a connection.
const USER_TIMEOUT: Duration = Duration::from_secs(5);
/// The time between signs of life on an idle connection, and their number until it counts as dead.
const KEEPALIVE: (Duration, u32) = (Duration::from_secs(2), 3);
/// The connections for reads if nobody says otherwise, and the fewest: one for reads of many rows.
const CONNECTIONS: usize = 4;
const CONNECTIONS_MIN: usize = 2;

/// The way to a database, and the number of connections for reads. Its debug text has no password.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    pub(super) config: Config,
    pub(super) tls: Tls,
    /// Connections for reads, at least 2. Commits and the signs of life have one each beside them.
    pub connections: usize,
}

/// The protection of the connections. A server that is asked for TLS is always verified, and by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tls {
    Off,
    /// The authorities of the system.
    System,
    /// The authorities in this PEM file alone.
    File(PathBuf),
}

impl fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Settings")
            .field("place", &self.place())
            .field("tls", &self.tls)
            .field("connections", &self.connections)
            .finish_non_exhaustive()
    }
}

impl Settings {
    /// Reads `postgres://USER:PASSWORD@HOST:PORT,HOST:PORT/DATABASE?sslmode=…&sslrootcert=FILE`, with
    /// the other parameters of libpq that tokio-postgres knows.
    ///
    /// Connections over TCP to anything but loopback use TLS, unless `sslmode=disable` is written out.
    /// Whatever word asks for TLS (`require`, `verify-ca`, `verify-full`), the server is verified in
    /// full.
    ///
    /// # Errors
    /// The rule that the URL breaks, without any part of it: the URL is a secret.
    pub fn parse(url: &str) -> Result<Self, &'static str> {
        let is_url = ["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| url.starts_with(scheme));
        if !is_url {
            return Err("must begin with postgres:// or postgresql://");
        }
        let (address, own) = own_parameters(url);
        let mut config = Config::from_str(&address)
            .map_err(|_| "must be postgres://USER:PASSWORD@HOST:PORT/DATABASE")?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err("must name a host");
        }
        if config.get_dbname().is_none() {
            return Err("must name a database");
        }
        let tls = protection(&config, own)?;
        config
            .ssl_mode(match tls {
                Tls::Off => SslMode::Disable,
                Tls::System | Tls::File(_) => SslMode::Require,
            })
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_user_timeout(USER_TIMEOUT)
            .keepalives(true)
            .keepalives_idle(KEEPALIVE.0)
            .keepalives_interval(KEEPALIVE.0)
            .keepalives_retries(KEEPALIVE.1)
            .target_session_attrs(TargetSessionAttrs::ReadWrite);
        if config.get_application_name().is_none() {
            config.application_name("tillwatch");
        }
        Ok(Self {
            config,
            tls,
            connections: CONNECTIONS,
        })
    }

    /// The number of connections for reads of one row, and for reads of many.
    pub(super) fn shares(&self) -> (usize, usize) {
        let all = self.connections.max(CONNECTIONS_MIN);
        (all - all / 2, all / 2)
    }

    /// The hosts and the database, for messages.
    pub(super) fn place(&self) -> String {
        let hosts = (self.config.get_hosts().iter()).map(|host| match host {
            Host::Tcp(name) => name.clone(),
            #[cfg(unix)]
            Host::Unix(path) => path.display().to_string(),
        });
        let addresses = self.config.get_hostaddrs().iter().map(IpAddr::to_string);
        let named: Vec<String> = match self.config.get_hosts().is_empty() {
            true => addresses.collect(),
            false => hosts.collect(),
        };
        let database = self.config.get_dbname().unwrap_or_default();
        format!("postgres database {database} at {}", named.join(","))
    }
}

/// The parameters that only this program reads.
#[derive(Default)]
struct Own {
    mode: Option<String>,
    authorities: Option<PathBuf>,
}

/// The URL without the parameters that only this program reads, and these.
fn own_parameters(url: &str) -> (String, Own) {
    let Some((address, query)) = url.split_once('?') else {
        return (url.to_owned(), Own::default());
    };
    let mut own = Own::default();
    let mut others = Vec::new();
    for pair in query.split('&') {
        // A form's plus is a blank, a URL's is not.
        let plain = pair.replace('+', "%2B");
        let read = url::form_urlencoded::parse(plain.as_bytes()).next();
        match read {
            Some((name, value)) if name == "sslmode" => own.mode = Some(value.into_owned()),
            Some((name, value)) if name == "sslrootcert" => {
                own.authorities = Some(PathBuf::from(value.into_owned()));
            }
            _ => others.push(pair),
        }
    }
    (format!("{address}?{}", others.join("&")), own)
}

fn protection(config: &Config, own: Own) -> Result<Tls, &'static str> {
    let verified = |authorities: Option<PathBuf>| authorities.map_or(Tls::System, Tls::File);
    match own.mode.as_deref() {
        Some("disable") if own.authorities.is_some() => {
            Err("sslmode=disable and sslrootcert contradict each other")
        }
        Some("disable") => Ok(Tls::Off),
        Some("require" | "verify-ca" | "verify-full") => Ok(verified(own.authorities)),
        Some("prefer" | "allow") => {
            Err("sslmode must be verify-full or disable: any other gives in to whoever refuses TLS")
        }
        Some(_) => Err("sslmode must be verify-full or disable"),
        None if own.authorities.is_none() && is_local(config) => Ok(Tls::Off),
        None => Ok(verified(own.authorities)),
    }
}

/// True if no byte of any connection leaves the machine.
fn is_local(config: &Config) -> bool {
    let addresses = config.get_hostaddrs();
    if !addresses.is_empty() {
        return addresses.iter().all(IpAddr::is_loopback);
    }
    config.get_hosts().iter().all(|host| match host {
        Host::Tcp(name) => {
            name == "localhost"
                || name
                    .parse()
                    .is_ok_and(|address: IpAddr| address.is_loopback())
        }
        #[cfg(unix)]
        Host::Unix(_) => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_the_machine_over_tls_alone_unless_that_is_written_out() {
        let file = || Tls::File(PathBuf::from("/etc/a b+c.pem"));
        let table = [
            ("postgres://u@db.example/d", Tls::System),
            ("postgresql://u@10.0.0.1/d?application_name=x", Tls::System),
            ("postgres://u@localhost,db.example/d", Tls::System),
            ("postgres://u@db.example/d?hostaddr=127.0.0.1", Tls::Off),
            ("postgres://u@localhost/d?hostaddr=10.0.0.1", Tls::System),
            ("postgres://u@127.0.0.9:6000,[::1]/d", Tls::Off),
            ("postgres://u@%2Frun%2Fpostgresql/d", Tls::Off),
            ("postgres:///d?host=/run/postgresql&user=u", Tls::Off),
            ("postgres://u@db.example/d?sslmode=disable", Tls::Off),
            ("postgres://u@localhost/d?sslmode=require", Tls::System),
            ("postgres://u@db.example/d?sslmode=verify-full", Tls::System),
            (
                "postgres://u@db.example/d?sslrootcert=/etc/a%20b+c.pem&sslmode=verify-ca",
                file(),
            ),
            (
                "postgres://u@localhost/d?sslrootcert=/etc/a%20b%2Bc.pem",
                file(),
            ),
        ];
        for (url, tls) in table {
            let settings = Settings::parse(url).unwrap();
            assert_eq!(settings.tls, tls, "{url}");
            let mode = match tls {
                Tls::Off => SslMode::Disable,
                Tls::System | Tls::File(_) => SslMode::Require,
            };
            assert_eq!(settings.config.get_ssl_mode(), mode, "{url}");
        }
    }

    #[test]
    fn a_url_that_breaks_a_rule_is_refused_with_the_rule_and_without_the_url() {
        let table = [
            ("sqlite:a.db", "must begin"),
            ("host=db.example dbname=d", "must begin"),
            ("postgres://u:hush@db.example:no/d", "must be postgres://"),
            (
                "postgres://u:hush@db.example/d?color=red",
                "must be postgres://",
            ),
            ("postgres://u:hush@db.example", "must name a database"),
            ("postgres:///d?user=u", "must name a host"),
            ("postgres://u:hush@db.example/d?sslmode=prefer", "gives in"),
            ("postgres://u:hush@localhost/d?sslmode=allow", "gives in"),
            (
                "postgres://u:hush@db.example/d?sslmode=hush",
                "must be verify-full",
            ),
            (
                "postgres://u:hush@h/d?sslmode=disable&sslrootcert=a",
                "contradict",
            ),
        ];
        for (url, expected) in table {
            let error = Settings::parse(url).unwrap_err();
            assert!(error.contains(expected), "{url}: {error}");
            assert!(!error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn debug_texts_and_places_have_no_password() {
        let settings = Settings::parse("postgres://u:hush@a.example,b.example/d").unwrap();
        let shown = format!("{settings:?} {}", settings.place());
        assert!(!shown.contains("hush"), "{shown}");
        assert!(
            shown.contains("database d at a.example,b.example"),
            "{shown}"
        );
    }

    #[test]
    fn reads_of_many_rows_have_at_most_half_of_the_connections() {
        let mut settings = Settings::parse("postgres://u@localhost/d").unwrap();
        let table = [
            (0, (1, 1)),
            (2, (1, 1)),
            (3, (2, 1)),
            (4, (2, 2)),
            (9, (5, 4)),
        ];
        for (connections, shares) in table {
            settings.connections = connections;
            assert_eq!(settings.shares(), shares, "{connections}");
        }
    }
}
