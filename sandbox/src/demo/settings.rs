//! The settings of the demo's servers, as a user would write them.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::Duration,
};

use tempfile::TempDir;
use tillwatch_sandbox::{PROVIDERS, Sandbox};

use super::service::ServiceError;

/// The interval of polls at speed 1, and its bounds at any other speed.
const POLL: Duration = Duration::from_millis(400);
const POLL_MIN: Duration = Duration::from_millis(100);
const POLL_MAX: Duration = Duration::from_secs(2);

/// One server's.
#[derive(Debug)]
pub(super) struct Settings<'a> {
    /// The address at which it serves: `host:port`, or `unix:` and a path.
    pub(super) listen: &'a str,
    /// The URL of its journal.
    pub(super) store: &'a str,
    /// The file of its fingerprint keys, if it needs one.
    pub(super) fingerprint_keys: Option<&'a Path>,
    /// The file of its audit log, if it is a process of its own. Its log has errors alone then, since the
    /// page shares the terminal with it.
    pub(super) audit_log: Option<&'a Path>,
    /// Purchases live this many times faster than written.
    pub(super) speed: f64,
}

impl Settings<'_> {
    /// Writes them to a file that nobody else can read.
    ///
    /// # Errors
    /// The file cannot be made.
    pub(super) fn write(&self, file: &Path, sandbox: &Sandbox) -> Result<(), ServiceError> {
        write_private(file, &self.text(sandbox)).map_err(ServiceError::Folder)
    }

    fn text(&self, sandbox: &Sandbox) -> String {
        let Self { listen, speed, .. } = self;
        let (url, keys) = (quoted(self.store), self.fingerprint_keys);
        let keys = keys.map_or(String::new(), |file| {
            format!(
                "fingerprint_key_file = {}\n",
                quoted(&file.display().to_string())
            )
        });
        let telemetry = self.audit_log.map_or(String::new(), |file| {
            let file = quoted(&file.display().to_string());
            format!("\n[telemetry]\nlog = \"error\"\naudit_log = {file}\n")
        });
        let mut text = format!(
            r#"[listen]
grpc = {}
ops = ""
drain = "2s"

[store]
url = {url}
{keys}
[callers.local]
anonymous = true
accounts = ["*"]
scopes = ["create", "adopt", "read", "operate"]

[limits]
connections = 1000
{telemetry}"#,
            quoted(listen)
        );
        let poll = POLL.div_f64(*speed).clamp(POLL_MIN, POLL_MAX).as_millis();
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
}

/// A basic string of TOML: a string of JSON is one as well.
fn quoted(text: &str) -> String {
    serde_json::Value::String(text.to_owned()).to_string()
}

/// A temporary folder for the demo.
///
/// # Errors
/// It cannot be made.
pub(super) fn folder() -> Result<TempDir, ServiceError> {
    let folder = tempfile::Builder::new().prefix("tillwatch-demo-").tempdir();
    folder.map_err(ServiceError::Folder)
}

fn secrets(provider: &str) -> &'static [&'static str] {
    tillwatch_server::provider::registered(provider).map_or(&[], |row| row.secrets)
}

/// Writes a file that nobody else can read: settings hold credentials.
pub(super) fn write_private(file: &Path, text: &str) -> io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(file)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use tillwatch_sandbox::Options;
    use tillwatch_server::config::Config;

    use super::*;

    #[tokio::test]
    async fn the_settings_are_worth_no_warning_but_that_of_fast_polls() {
        let sandbox = Sandbox::start(Options::default()).await.unwrap();
        for speed in [0.001, 1.0, 10_000.0] {
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("tillwatch.toml");
            let settings = Settings {
                listen: "127.0.0.1:0",
                store: "sqlite:/tmp/a \"b\".db",
                fingerprint_keys: None,
                audit_log: Some(Path::new("/tmp/audit")),
                speed,
            };
            settings.write(&file, &sandbox).unwrap();
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
