//! The server of the demo, configured as a user would: by a TOML file. It lies in a temporary
//! folder together with the journal, and both go when the server stops.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use tempfile::TempDir;
use tillwatch_sandbox::{PROVIDERS, Sandbox};
use tillwatch_server::{
    StartError, Supervisor,
    config::{Config, ConfigError},
    run_with,
};
use tokio::{
    sync::oneshot,
    task::{JoinError, JoinHandle},
};
use tokio_util::sync::CancellationToken;

/// The interval of polls at speed 1, and its bounds at any other speed.
const POLL: Duration = Duration::from_millis(400);
const POLL_MIN: Duration = Duration::from_millis(100);
const POLL_MAX: Duration = Duration::from_secs(2);

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServiceError {
    /// The folder or the file in it could not be made.
    #[error("cannot make a temporary folder for the demo")]
    Folder(#[source] io::Error),
    /// The settings are refused.
    #[error("the demo's settings are refused")]
    Settings(#[from] ConfigError),
    /// It could not start, or failed while serving.
    #[error("the server does not serve")]
    Start(#[from] StartError),
    /// It broke off.
    #[error("the server broke off")]
    Broken(#[from] JoinError),
    /// It ended without having served.
    #[error("the server ended before it served")]
    Silent,
}

/// A running server. It drains when this is dropped; [`Service::stop`] also waits for that.
#[derive(Debug)]
pub(crate) struct Service {
    address: String,
    task: JoinHandle<Result<(), StartError>>,
    shutdown: CancellationToken,
    /// Removed when it is dropped, which is after the drain in [`Service::stop`].
    _folder: TempDir,
}

impl Service {
    /// Starts a server in front of a sandbox, at the first of these addresses that is free.
    pub(crate) async fn start(
        sandbox: &Sandbox,
        addresses: &[String],
        speed: f64,
    ) -> Result<Self, ServiceError> {
        let mut started = Err(ServiceError::Silent);
        for address in addresses {
            started = Self::start_at(sandbox, address, speed).await;
            if !matches!(started, Err(ServiceError::Start(StartError::Listen { .. }))) {
                break;
            }
        }
        started
    }

    async fn start_at(sandbox: &Sandbox, listen: &str, speed: f64) -> Result<Self, ServiceError> {
        let folder = tempfile::Builder::new().prefix("tillwatch-demo-").tempdir();
        let folder = folder.map_err(ServiceError::Folder)?;
        let file = folder.path().join("tillwatch.toml");
        let database = folder.path().join("tillwatch.db");
        let text = settings(sandbox, listen, &database.display().to_string(), speed);
        write_private(&file, &text).map_err(ServiceError::Folder)?;
        // The environment stays out: it may name a real server's settings and accounts.
        let config = Config::load(Some(&file), std::iter::empty())?;
        let shutdown = CancellationToken::new();
        let (bound, address) = oneshot::channel();
        let task = tokio::spawn({
            let stop = shutdown.clone();
            async move {
                run_with(
                    config,
                    stop.cancelled_owned(),
                    None,
                    Supervisor::default(),
                    |address| {
                        // Nobody listens if the demo was interrupted while it started.
                        let _ = bound.send(address.to_owned());
                    },
                )
                .await
                .map(|_| ())
            }
        });
        match address.await {
            Ok(address) => Ok(Self {
                address,
                task,
                shutdown,
                _folder: folder,
            }),
            Err(_) => {
                task.await??;
                Err(ServiceError::Silent)
            }
        }
    }

    /// The address at which it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Drains it and removes its folder.
    pub(crate) async fn stop(mut self) -> Result<(), ServiceError> {
        self.shutdown.cancel();
        (&mut self.task).await??;
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn settings(sandbox: &Sandbox, listen: &str, database: &str, speed: f64) -> String {
    // A JSON string is a basic string of TOML as well.
    let url = serde_json::Value::String(format!("sqlite:{database}"));
    let mut text = format!(
        r#"[listen]
grpc = "{listen}"
ops = ""
drain = "2s"

[store]
url = {url}

[callers.local]
anonymous = true
accounts = ["*"]
scopes = ["create", "adopt", "read", "operate"]

[limits]
connections = 1000
"#
    );
    let poll = POLL.div_f64(speed).clamp(POLL_MIN, POLL_MAX).as_millis();
    for provider in PROVIDERS {
        let secrets = secrets(provider)
            .iter()
            .fold(String::new(), |mut all, secret| {
                // Writing to a string cannot fail.
                let _ = writeln!(all, "{secret} = \"sandbox-demo\"");
                all
            });
        text.push_str(&format!(
            r#"
[accounts.{provider}]
provider = "{provider}"
base_url = "{}"
allow_insecure = true
allow_private_networks = true
{secrets}
[accounts.{provider}.polling]
schedule = [{{ every = "{poll}ms" }}]
after_terminal = [{{ until = "5m", every = "1s" }}, {{ every = "1m" }}]
requests_per_minute = 0
creates_per_minute = 0
sweep = false
"#,
            sandbox.base_url(provider)
        ));
    }
    text
}

fn secrets(provider: &str) -> &'static [&'static str] {
    tillwatch_server::provider::registered(provider).map_or(&[], |row| row.secrets)
}

/// Writes a file that nobody else can read: settings hold credentials.
fn write_private(file: &Path, text: &str) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(file)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use tillwatch_sandbox::Options;

    use super::*;

    #[tokio::test]
    async fn a_taken_address_is_passed_over_and_nothing_is_left_behind() {
        let sandbox = Sandbox::start(Options::default()).await.unwrap();
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = taken
            .local_addr()
            .map(|address| (taken, address.to_string()));
        let (_held, taken) = taken.unwrap();
        let alone = Service::start(&sandbox, std::slice::from_ref(&taken), 1.0).await;
        assert!(matches!(
            alone.unwrap_err(),
            ServiceError::Start(StartError::Listen { .. })
        ));
        let addresses = [taken.clone(), "127.0.0.1:0".to_owned()];
        let service = Service::start(&sandbox, &addresses, 1.0).await.unwrap();
        assert_ne!(service.address(), taken);
        let address = service.address().to_owned();
        assert!(std::net::TcpStream::connect(&address).is_ok());
        let folder = service._folder.path().to_owned();
        assert!(folder.join("tillwatch.db").is_file());
        service.stop().await.unwrap();
        assert!(!folder.exists());
        assert!(std::net::TcpStream::connect(&address).is_err());
        sandbox.stop().await;
    }

    #[tokio::test]
    async fn the_settings_are_worth_no_warning_but_that_of_fast_polls() {
        let sandbox = Sandbox::start(Options::default()).await.unwrap();
        for speed in [0.001, 1.0, 10_000.0] {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("tillwatch.toml");
            let text = settings(&sandbox, "127.0.0.1:0", "/tmp/a \"b\".db", speed);
            write_private(&file, &text).unwrap();
            let config = Config::load(Some(&file), std::iter::empty()).unwrap();
            assert_eq!(config.accounts.len(), PROVIDERS.len());
            let others: Vec<_> = config
                .warnings()
                .iter()
                .filter(|warning| !warning.contains("faster than"))
                .collect();
            assert!(others.is_empty(), "{others:?}");
        }
        sandbox.stop().await;
    }
}
