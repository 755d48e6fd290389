//! The settings as they are in effect, as text that the server itself would read: defaults and
//! environment included, secrets left out.

use std::{collections::BTreeMap, fmt::Write as _};

use toml::Value;

use super::{
    Account, Address, Caller, Config, Database, LogFormat, Store, Telemetry,
    duration::show,
    server::PerCaller,
    tree::{self, Node, Problems},
};
use crate::{
    cadence::{Policy, Schedule},
    outlet::Target,
    telemetry::traces::Protocol,
};

/// One key of a section.
enum Item {
    Value(Value),
    /// Named, and its value left out.
    Secret,
    Section(Section),
}

/// A section's keys.
type Section = BTreeMap<String, Item>;

/// The keys of an account whose values may be shown. The rest are its provider's secrets, the proxy
/// and whatever else may hold a password.
const OPEN: [&str; 2] = ["provider", "base_url"];
/// The end of a key that names a file.
const OF_FILE: &str = "_file";

impl Config {
    /// The settings in effect, as TOML. A secret is a comment that names its key; a file with a secret
    /// is named. The text with the secrets added makes the same settings.
    pub fn print(&self) -> String {
        let mut root = self.known();
        // Keys without a default are printed if the operator has set them.
        let problems = Problems::default();
        let mut written = tree::parse("", &self.source.text, &problems);
        tree::overlay(&mut written, &self.source.environment, &problems);
        add(&mut root, &written, &[]);
        // A URL is given in one way.
        if let Some(Item::Section(store)) = root.get_mut("store")
            && store.contains_key("url_file")
        {
            store.remove("url");
        }
        let mut text = String::new();
        write(&mut text, &root, "");
        text.trim_start().to_owned()
    }

    /// All keys that have a default, and some that are required.
    fn known(&self) -> Section {
        let accounts = self.accounts.iter();
        let accounts = accounts.map(|account| (account.name.to_string(), of_account(account)));
        let callers = self.callers.iter();
        let callers = callers.map(|caller| (caller.name.to_string(), of_caller(caller)));
        let (listen, store, telemetry) = (&self.listen, &self.store, &self.telemetry);
        let mut limits = per_caller(&self.limits.per_caller);
        limits.insert("streams".to_owned(), count(self.limits.streams));
        limits.insert("connections".to_owned(), count(self.limits.connections));
        let stream_age = listen.stream_age.unwrap_or_default();
        section([
            (
                "listen",
                Item::Section(section([
                    ("grpc", text(address(&listen.grpc))),
                    (
                        "ops",
                        text(listen.ops.as_ref().map_or_else(String::new, address)),
                    ),
                    ("reflection", Item::Value(listen.reflection.into())),
                    (
                        "web_origins",
                        Item::Value(listen.web_origins.clone().into()),
                    ),
                    ("threads", count(listen.threads)),
                    ("drain", text(show(listen.drain))),
                    ("stream_age", text(show(stream_age))),
                ])),
            ),
            ("store", Item::Section(of_store(store))),
            ("callers", Item::Section(callers.collect())),
            ("accounts", Item::Section(accounts.collect())),
            ("limits", Item::Section(limits)),
            ("telemetry", Item::Section(of_telemetry(telemetry))),
        ])
    }
}

/// A URL of PostgreSQL can hold a password.
fn of_store(store: &Store) -> Section {
    let (key, value) = match &store.database {
        Database::Sqlite(path) => ("url", text(format!("sqlite:{}", path.display()))),
        Database::Postgres(settings) => {
            let connections = i64::try_from(settings.connections).unwrap_or(i64::MAX);
            ("connections", Item::Value(Value::Integer(connections)))
        }
    };
    section([(key, value), ("retention", text(show(store.retention)))])
}

fn of_telemetry(telemetry: &Telemetry) -> Section {
    let mut items = section([
        ("log", text(telemetry.log.clone())),
        (
            "audit_log",
            text(match &telemetry.audit_log {
                None => String::new(),
                Some(Target::Stderr) => "stderr".to_owned(),
                Some(Target::File(path)) => path.display().to_string(),
            }),
        ),
        (
            "log_format",
            text(match telemetry.log_format {
                LogFormat::Text => "text",
                LogFormat::Json => "json",
            }),
        ),
    ]);
    let Some(traces) = &telemetry.traces else {
        items.insert("otlp_endpoint".to_owned(), text(""));
        return items;
    };
    let protocol = match traces.protocol {
        Protocol::Grpc => "grpc",
        Protocol::Http => "http",
    };
    items.extend(section([
        ("otlp_endpoint", text(traces.endpoint.as_str())),
        ("otlp_protocol", text(protocol)),
        ("trace_sample", text(traces.sample.to_string())),
    ]));
    items
}

fn section<const N: usize>(items: [(&str, Item); N]) -> Section {
    let items = items.into_iter();
    items.map(|(key, item)| (key.to_owned(), item)).collect()
}

fn text(text: impl Into<String>) -> Item {
    Item::Value(Value::String(text.into()))
}

fn count(count: u32) -> Item {
    Item::Value(Value::Integer(count.into()))
}

fn address(address: &Address) -> String {
    match address {
        Address::Tcp(address) => address.clone(),
        Address::Unix(path) => format!("unix:{}", path.display()),
    }
}

fn per_caller(limits: &PerCaller) -> Section {
    section([
        ("streams_per_caller", count(limits.streams)),
        ("feeds_per_caller", count(limits.feeds)),
        ("lists_per_caller", count(limits.lists)),
        (
            "creates_per_second_per_caller",
            count(limits.creates_per_second),
        ),
        ("open_purchases_per_caller", count(limits.open_purchases)),
    ])
}

fn of_caller(caller: &Caller) -> Item {
    let mut items = section([("limits", Item::Section(per_caller(&caller.limits)))]);
    if !caller.token_sha256.is_empty() {
        items.insert("token_sha256".to_owned(), Item::Secret);
    }
    Item::Section(items)
}

fn of_account(account: &Account) -> Item {
    Item::Section(section([
        ("provider", text(account.provider)),
        ("base_url", text(account.base_url.as_str())),
        ("allow_insecure", Item::Value(account.allow_insecure.into())),
        (
            "allow_private_networks",
            Item::Value(account.allow_private_networks.into()),
        ),
        ("polling", Item::Section(polling(&account.policy))),
    ]))
}

fn polling(policy: &Policy) -> Section {
    section([
        ("schedule", schedule(&policy.schedule)),
        ("after_terminal", schedule(&policy.after_terminal)),
        ("requests_per_minute", count(policy.requests_per_minute)),
        ("creates_per_minute", count(policy.creates_per_minute)),
        ("max_in_flight", count(policy.max_in_flight)),
        ("timeout", text(show(policy.timeout))),
        ("sweep", Item::Value(policy.sweep.into())),
        ("give_up_after", text(show(policy.give_up_after))),
    ])
}

fn schedule(schedule: &Schedule) -> Item {
    let phases = schedule.phases().iter().map(|phase| {
        let until = phase.until.map(|until| ("until".to_owned(), show(until)));
        let every = ("every".to_owned(), show(phase.every));
        let keys = until.into_iter().chain([every]);
        Value::Table(keys.map(|(key, time)| (key, Value::String(time))).collect())
    });
    Item::Value(Value::Array(phases.collect()))
}

/// Adds the keys of a written section that are not known, at `path`.
fn add(known: &mut Section, written: &Node, path: &[&str]) {
    let Some(entries) = written.entries() else {
        return;
    };
    for (key, node) in entries {
        match known.get_mut(key) {
            Some(Item::Section(section)) => add(section, node, &[path, &[key.as_str()]].concat()),
            Some(Item::Value(_) | Item::Secret) => {}
            None if may_be_shown(path, key) => {
                if let Some(value) = node.to_toml() {
                    known.insert(key.clone(), Item::Value(value));
                }
            }
            None => {
                known.insert(key.clone(), Item::Secret);
            }
        }
    }
}

/// True if the value of a key of a section cannot be a secret.
fn may_be_shown(path: &[&str], key: &str) -> bool {
    match path {
        ["store"] => key != "url",
        ["accounts", _] => OPEN.contains(&key) || key.ends_with(OF_FILE),
        _ => true,
    }
}

/// Writes a section's own keys, then its sections.
fn write(text: &mut String, section: &Section, path: &str) {
    let is_own = |item: &Item| !matches!(item, Item::Section(_));
    if section.values().any(is_own) {
        let _ = writeln!(text, "\n[{path}]");
    }
    for (key, item) in section {
        let _ = match item {
            Item::Value(value) => writeln!(text, "{} = {value}", quoted(key)),
            Item::Secret => writeln!(text, "# {} = \"[redacted]\"", quoted(key)),
            Item::Section(_) => Ok(()),
        };
    }
    for (key, item) in section {
        if let Item::Section(inner) = item {
            let dot = if path.is_empty() { "" } else { "." };
            write(text, inner, &format!("{path}{dot}{}", quoted(key)));
        }
    }
}

/// A key as TOML takes it: names may have dots.
fn quoted(key: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    match !key.is_empty() && key.bytes().all(is_bare) {
        true => key.to_owned(),
        false => Value::String(key.to_owned()).to_string(),
    }
}
