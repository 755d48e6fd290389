//! The settings of a server under measurement.

use std::{net::SocketAddr, path::Path};

use sha2::{Digest as _, Sha256};

/// The account of every benchmark.
pub const ACCOUNT: &str = "devdraft";
/// The caller's first token.
pub const TOKEN: &str = "the token of a benchmark's load";
/// The name in the caller's certificate.
pub const NAME: &str = "load.example";

/// Settings in which benchmarks differ, as they are changed while a server runs.
#[derive(Debug, Clone)]
pub struct Settings {
    upstream: SocketAddr,
    /// The caller's token.
    pub token: &'static str,
    /// A second account.
    pub second: Option<&'static str>,
    /// The caller's feeds. None: as many as the default says.
    pub feeds: Option<u32>,
    /// Lines of the section `telemetry`.
    pub telemetry: String,
}

impl Settings {
    /// The usual settings in front of this upstream.
    pub fn new(upstream: SocketAddr) -> Self {
        Self {
            upstream,
            token: TOKEN,
            second: None,
            feeds: None,
            telemetry: String::new(),
        }
    }

    /// The text of the configuration. With TLS, `tls.crt`, `tls.key` and `ca.crt` lie in the folder; the
    /// account's secret lies in `secret`, if it is there.
    pub fn text(&self, folder: &Path, is_tls: bool) -> String {
        let path = folder.display();
        let tls = if is_tls {
            format!(
                "tls_cert = \"{path}/tls.crt\"\ntls_key = \"{path}/tls.key\"\n\
                 tls_client_ca = \"{path}/ca.crt\"\n"
            )
        } else {
            String::new()
        };
        let hash: String = Sha256::digest(self.token)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let names = if is_tls {
            format!("cert_san = [\"{NAME}\"]\n")
        } else {
            String::new()
        };
        let feeds = self.feeds.map_or_else(String::new, |feeds| {
            format!("[callers.load.limits]\nfeeds_per_caller = {feeds}\n")
        });
        let accounts: String = [Some(ACCOUNT), self.second]
            .into_iter()
            .flatten()
            .map(|name| self.account(name, folder))
            .collect();
        format!(
            "[listen]\ngrpc = \"127.0.0.1:0\"\nops = \"\"\n{tls}\
             [store]\nurl = \"sqlite:{path}/tillwatch.db\"\n\
             [callers.load]\ntoken_sha256 = [\"{hash}\"]\n{names}accounts = [\"*\"]\n\
             scopes = [\"adopt\", \"read\"]\n{feeds}{accounts}[telemetry]\n{}",
            self.telemetry
        )
    }

    fn account(&self, name: &str, folder: &Path) -> String {
        let secret = folder.join("secret");
        let secret = if secret.exists() {
            format!("client_secret_file = \"{}\"", secret.display())
        } else {
            "client_secret = \"secret\"".to_owned()
        };
        format!(
            "[accounts.{name}]\nprovider = \"devdraft\"\nbase_url = \"http://{}\"\n\
             allow_insecure = true\nallow_private_networks = true\n\
             client_key = \"key\"\n{secret}\n\
             [accounts.{name}.polling]\nschedule = [{{ every = \"1s\" }}]\n\
             after_terminal = [{{ every = \"1s\" }}]\nrequests_per_minute = 0\n",
            self.upstream
        )
    }
}
