//! The settings: read from a TOML file and the environment, and checked whole; at a start, at a reload,
//! and again when a file that they name has changed. The files of the listener's own TLS are read again
//! by `tls`.
//!
//! Nothing else reads settings' files or the environment. Every problem is collected and named with
//! its place, so that one run of `check-config` shows them all. No problem ever shows a value, since
//! any value could be a secret in the wrong place.

mod account;
mod caller;
mod duration;
mod file;
mod log_filter;
mod print;
mod restart;
mod secret;
mod server;
mod store;
mod telemetry;
mod tree;

pub use account::Account;
pub use caller::{Allowed, Caller, Jwt, SCOPES};
pub use server::{Address, Limits, Listen};
pub use store::{Database, FingerprintKeys, Store};
pub use telemetry::{LogFormat, Telemetry};

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
};

use crate::provider::{REGISTRY, Registered};

use secret::Secrets;
use tree::{Problems, Section};

/// All settings, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The addresses to listen on, and the times that connections and streams last.
    pub listen: Listen,
    /// The place of the journal.
    pub store: Store,
    /// The callers; at least one.
    pub callers: Vec<Caller>,
    /// The accounts at providers, by name.
    pub accounts: Vec<Account>,
    /// The limits on everything that can be open at once.
    pub limits: Limits,
    /// The log and the collector of traces.
    pub telemetry: Telemetry,
    warnings: Vec<String>,
    source: Source,
}

/// The text and the variables that settings were read from, which may hold secrets.
#[derive(Clone, Default)]
struct Source {
    path: Option<PathBuf>,
    text: String,
    environment: BTreeMap<String, String>,
}

impl fmt::Debug for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Source").field(&self.path).finish()
    }
}

impl Config {
    /// Reads the file, if there is one, then the environment over it, then all files with secrets.
    /// Blocks on those files.
    ///
    /// Reads only variables of the form `TILLWATCH_SECTION__KEY`: others with the prefix belong to
    /// the command-line client or to an orchestrator that announces its services.
    ///
    /// # Errors
    /// Lists everything that is wrong.
    pub fn load(
        path: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        Self::load_with(&REGISTRY, path, environment)
    }

    /// The same text and variables, with the files that they name as they are now. Blocks on those files.
    ///
    /// # Errors
    /// Lists everything that is wrong.
    pub fn with_files_of_now(&self) -> Result<Self, ConfigError> {
        Self::of(&REGISTRY, self.source.clone())
    }

    /// The settings that are allowed and yet deserve a look.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn load_with(
        registry: &[Registered],
        path: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let text = match path {
            Some(path) => std::fs::read_to_string(path).map_err(|source| ConfigError::Unread {
                path: path.to_owned(),
                source,
            })?,
            None => String::new(),
        };
        let source = Source {
            path: path.map(Path::to_owned),
            text,
            environment: environment.collect(),
        };
        Self::of(registry, source)
    }

    fn of(registry: &[Registered], source: Source) -> Result<Self, ConfigError> {
        let problems = Problems::default();
        let path = source.path.as_deref();
        let file = path.map_or_else(String::new, |path| path.display().to_string());
        let mut tree = tree::parse(&file, &source.text, &problems);
        // A half-read file would only make more problems out of one.
        problems.check()?;
        tree::overlay(&mut tree, &source.environment, &problems);
        let root = Section::root(tree, &problems);
        let mut warnings = Vec::new();
        warnings.extend(source.environment.iter().filter_map(ignored_proxy));
        warnings.extend(ignored_traces(&source.environment));
        let config = Self::read(registry, path, root, warnings, &problems);
        problems.check()?;
        Ok(Self { source, ..config })
    }

    fn read(
        registry: &[Registered],
        file: Option<&Path>,
        mut root: Section<'_>,
        mut warnings: Vec<String>,
        problems: &Problems,
    ) -> Self {
        let listen = server::listen(root.section("listen"), &mut warnings);
        let accounts = root.named("accounts");
        let known: Vec<String> = accounts.iter().map(|(name, _)| name.clone()).collect();
        if accounts.is_empty() {
            warnings.push("accounts: none is configured, so nothing can be bought".to_owned());
        }
        let mut reading = account::Reading {
            registry,
            secrets: Secrets {
                file,
                warnings: &mut warnings,
            },
        };
        let accounts = accounts
            .into_iter()
            .filter_map(|(name, section)| account::read(&mut reading, &name, section))
            .collect();
        let store = store::store(root.section("store"), &mut reading.secrets);
        let callers = root.named("callers");
        if callers.is_empty() {
            let rule = match file {
                Some(_) => "must have at least one caller",
                None => "must have at least one caller; no file was read (--config FILE)",
            };
            problems.add(None, "callers", rule);
        }
        let limits = server::limits(root.section("limits"));
        let usual = limits.per_caller;
        let callers = caller::read(callers, &known, &listen, usual, &mut warnings);
        let telemetry = telemetry::read(root.section("telemetry"), &mut warnings);
        let config = Self {
            listen,
            store,
            callers,
            accounts,
            limits,
            telemetry,
            warnings,
            source: Source::default(),
        };
        root.finish();
        config
    }
}

/// The warning about a variable that sends other programs through a proxy, and not this one.
fn ignored_proxy((variable, value): (&String, &String)) -> Option<String> {
    let name = variable.to_ascii_uppercase();
    let is_proxy = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"].contains(&name.as_str());
    (is_proxy && !value.is_empty())
        .then(|| format!("{variable}: has no effect here; an account's `proxy` has"))
}

/// The warning about variables that set up other programs' traces, and not this one's.
fn ignored_traces(environment: &BTreeMap<String, String>) -> Option<String> {
    let set = environment.iter().filter(|(_, value)| !value.is_empty());
    let names: Vec<&str> = set
        .map(|(name, _)| name.as_str())
        .filter(|name| name.starts_with("OTEL_"))
        .collect();
    let names = (!names.is_empty()).then(|| names.join(", "))?;
    Some(format!(
        "{names}: no effect here; the keys of `telemetry` have"
    ))
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: cannot be read", path.display())]
    Unread {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Something in the file or the environment is wrong.
    #[error("{}", lines(.0))]
    Refused(Vec<Problem>),
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `file:line` or the environment variable, if it is known.
    pub place: Option<String>,
    /// The key with its sections, such as `listen.grpc`; empty if the file is not TOML.
    pub key: String,
    /// The fault, or the rule.
    pub rule: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [self.place.as_deref().unwrap_or_default(), &self.key];
        for part in parts.iter().filter(|part| !part.is_empty()) {
            write!(formatter, "{part}: ")?;
        }
        formatter.write_str(&self.rule)
    }
}

fn lines(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests;
