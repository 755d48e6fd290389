//! `[accounts.NAME]`: a provider's credentials, its origin, and its polling.

mod tls;

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use url::{Host, Url};

use crate::{
    cadence::{Phase, Policy, Schedule},
    provider::Registered,
    purchase::{AccountName, Secret},
    upstream::{address, tls::Tls},
};

use super::{
    secret::Secrets,
    server::TEN_YEARS,
    tree::{Section, Text},
};

/// The most requests per minute that a limit may name.
const PER_MINUTE_MAX: u32 = 10_000_000;

/// One configured account.
#[derive(Debug, Clone, PartialEq)]
pub struct Account {
    /// Its name.
    pub name: AccountName,
    /// Its provider's name in the registry.
    pub provider: &'static str,
    /// The provider's origin, with the path of its API.
    pub base_url: Url,
    /// True if the origin may be http.
    pub allow_insecure: bool,
    /// True if the origin may lie outside the public internet.
    pub allow_private_networks: bool,
    /// The HTTP proxy for its requests, as a URL: it can hold a password.
    pub proxy: Option<Secret>,
    /// The authorities that its provider is checked against, and the certificate that is shown to it.
    pub tls: Tls,
    /// The provider's secrets by name; optional secrets may be missing.
    pub secrets: BTreeMap<String, Secret>,
    /// The provider's documented policy, with the account's own settings over it.
    pub policy: Policy,
}

/// The things that are read beside the section itself.
pub(super) struct Reading<'a> {
    pub(super) registry: &'a [Registered],
    pub(super) secrets: Secrets<'a>,
}

/// Reads one account; `None` if it is refused.
pub(super) fn read(
    reading: &mut Reading<'_>,
    name: &str,
    mut section: Section<'_>,
) -> Option<Account> {
    let Some(provider) = section.text("provider") else {
        section.refuse(None, "provider", "is required");
        return None;
    };
    let Some(row) = reading
        .registry
        .iter()
        .find(|row| row.name == provider.text)
    else {
        let names: Vec<&str> = reading.registry.iter().map(|row| row.name).collect();
        let rule = format!("must be one of {}", names.join(", "));
        section.refuse(provider.place.as_deref(), "provider", rule);
        return None;
    };
    let secrets: BTreeMap<String, Secret> = row
        .secrets
        .iter()
        .filter_map(|key| {
            let given = reading.secrets.read(&mut section, key)?;
            Some(((*key).to_owned(), given.secret))
        })
        .collect();
    let unread = section.is_refused();
    let allow_insecure = section.truth("allow_insecure", false);
    let allow_private_networks = section.truth("allow_private_networks", false);
    let proxy = reading.secrets.read(&mut section, "proxy");
    let proxy = proxy.map(|given| given.secret);
    if let Some(proxy) = &proxy
        && let Err(rule) = check_proxy(proxy.expose(), allow_private_networks)
    {
        section.refuse(None, "proxy", rule);
    }
    let base_url = base_url(&mut section, allow_insecure, allow_private_networks);
    let is_plain = base_url.as_ref().is_some_and(|url| url.scheme() == "http");
    let tls = tls::read(reading, &mut section, row.secrets, is_plain);
    let documented = (row.policy)();
    let policy = policy(section.section("polling"), &documented);
    if is_faster(&policy.schedule, &documented.schedule)
        || is_faster(&policy.after_terminal, &documented.after_terminal)
    {
        reading.secrets.warnings.push(format!(
            "accounts.{name}.polling: faster than {}'s default schedule",
            row.name
        ));
    }
    // Only the provider knows the secrets that it needs and their rules. If a secret's file could not
    // be read, that is a problem already.
    if !unread && let Err(error) = (row.build)(&secrets) {
        section.refuse(None, "", error.to_string());
    }
    section.finish();
    Some(Account {
        name: AccountName::new(name),
        provider: row.name,
        base_url: base_url?,
        proxy,
        tls: tls.unwrap_or_default(),
        allow_insecure,
        allow_private_networks,
        secrets,
        policy,
    })
}

fn base_url(section: &mut Section<'_>, insecure: bool, private: bool) -> Option<Url> {
    let Some(Text { text, place, .. }) = section.text("base_url") else {
        section.refuse(None, "base_url", "is required");
        return None;
    };
    match checked_url(&text, insecure, private) {
        Ok(url) => Some(url),
        Err(rule) => {
            section.refuse(place.as_deref(), "base_url", rule);
            None
        }
    }
}

fn checked_url(text: &str, insecure: bool, private: bool) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "must be a URL such as https://api.example.com/v1")?;
    match url.scheme() {
        "https" => {}
        "http" if insecure => {}
        "http" => return Err("must be https, unless `allow_insecure` is set"),
        _ => return Err("must be an https URL"),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must have no user and no password");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must have no query and no fragment");
    }
    check_host(&url, private)?;
    Ok(url)
}

fn check_host(url: &Url, private: bool) -> Result<(), &'static str> {
    let is_public = match url.host() {
        None => return Err("must have a host"),
        // A name's addresses are checked at each connection; this name always means our own machine.
        Some(Host::Domain(name)) => private || name.rsplit('.').next() != Some("localhost"),
        Some(Host::Ipv4(literal)) => address::allowed(IpAddr::V4(literal), private),
        Some(Host::Ipv6(literal)) => address::allowed(IpAddr::V6(literal), private),
    };
    match is_public {
        true => Ok(()),
        false => Err("must be a public address, unless `allow_private_networks` is set"),
    }
}

/// Checks a proxy's URL, which may have credentials.
fn check_proxy(text: &str, private: bool) -> Result<(), &'static str> {
    const RULE: &str = "must be a URL such as http://proxy.example.com:3128";
    let url = Url::parse(text).map_err(|_| RULE)?;
    let has_more = url.path() != "/" || url.query().is_some() || url.fragment().is_some();
    if url.scheme() != "http" || has_more {
        return Err(RULE);
    }
    check_host(&url, private)
}

/// The documented policy with an account's own settings over it.
fn policy(mut section: Section<'_>, documented: &Policy) -> Policy {
    let second = Duration::from_secs(1);
    let documented = documented.clone();
    let policy = Policy {
        schedule: schedule(&mut section, "schedule").unwrap_or(documented.schedule),
        after_terminal: schedule(&mut section, "after_terminal")
            .unwrap_or(documented.after_terminal),
        requests_per_minute: section.count(
            "requests_per_minute",
            0..=PER_MINUTE_MAX,
            documented.requests_per_minute,
        ),
        creates_per_minute: section.count(
            "creates_per_minute",
            0..=PER_MINUTE_MAX,
            documented.creates_per_minute,
        ),
        max_in_flight: section.count("max_in_flight", 1..=10_000, documented.max_in_flight),
        timeout: section
            .duration("timeout", Duration::from_millis(100)..=second * 600)
            .unwrap_or(documented.timeout),
        sweep: sweep(&mut section, documented.sweep),
        horizon: section
            .duration("horizon", Duration::ZERO..=TEN_YEARS)
            .or(documented.horizon),
        stale_after: section
            .duration("stale_after", second..=TEN_YEARS)
            .or(documented.stale_after),
        give_up_after: section
            .duration("give_up_after", second..=TEN_YEARS)
            .unwrap_or(documented.give_up_after),
        long_poll: documented.long_poll,
        held_max: documented.held_max,
    };
    section.finish();
    policy
}

/// True if lists are read; refused if the provider has none, since it would do nothing.
fn sweep(section: &mut Section<'_>, documented: bool) -> bool {
    let place = section.place("sweep");
    let sweep = section.truth("sweep", documented);
    if sweep && !documented {
        let rule = "must be left out or false: the provider has no list that tells states";
        section.refuse(place.as_deref(), "sweep", rule);
    }
    sweep
}

/// A schedule; `None` if it is missing or refused.
fn schedule(section: &mut Section<'_>, key: &str) -> Option<Schedule> {
    let place = section.place(key)?;
    let range = Duration::ZERO..=TEN_YEARS;
    let mut phases = Vec::new();
    for mut phase in section.sections(key)? {
        let until = phase.duration("until", range.clone());
        let every = phase.duration("every", range.clone());
        if every.is_none() && !phase.is_refused() {
            phase.refuse(None, "every", "is required");
        }
        phase.finish();
        phases.push(Phase {
            until,
            every: every?,
        });
    }
    match Schedule::new(phases) {
        Ok(schedule) => Some(schedule),
        Err(error) => {
            section.refuse(Some(&place), key, error.to_string());
            None
        }
    }
}

/// True if a schedule asks more often than another at any age.
fn is_faster(schedule: &Schedule, than: &Schedule) -> bool {
    let bounds = schedule.phases().iter().chain(than.phases());
    bounds
        .filter_map(|phase| phase.until)
        .chain([Duration::ZERO])
        .any(|age| schedule.every(age) < than.every(age))
}
