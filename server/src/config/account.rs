//! `[accounts.NAME]`: a provider's credentials, its origin, and how it is polled.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use url::{Host, Url};

use crate::{
    cadence::{Phase, Policy, Schedule},
    provider::Registered,
    purchase::{AccountName, Secret},
    upstream::address,
};

use super::{
    server::TEN_YEARS,
    tree::{Section, Text},
};

/// The most requests per minute that a limit may name.
const PER_MINUTE_MAX: u32 = 10_000_000;

/// One configured account.
#[derive(Debug, Clone)]
pub struct Account {
    /// Its name.
    pub name: AccountName,
    /// Its provider's name in the registry.
    pub provider: &'static str,
    /// The provider's origin, with the path below which its API lies.
    pub base_url: Url,
    /// Whether the origin may be http.
    pub allow_insecure: bool,
    /// Whether the origin may lie outside the public internet.
    pub allow_private_networks: bool,
    /// The provider's secrets by name; those that are optional may be missing.
    pub secrets: BTreeMap<String, Secret>,
    /// The provider's documented policy, with the account's own settings over it.
    pub policy: Policy,
}

/// Reads one account; `None` where it is refused.
pub(super) fn read(
    registry: &[Registered],
    name: &str,
    mut section: Section<'_>,
    warnings: &mut Vec<String>,
) -> Option<Account> {
    let Some(provider) = section.text("provider") else {
        section.refuse(None, "provider", "is required");
        return None;
    };
    let Some(row) = registry.iter().find(|row| row.name == provider.text) else {
        let names: Vec<&str> = registry.iter().map(|row| row.name).collect();
        let rule = format!("is one of {}", names.join(", "));
        section.refuse(provider.place.as_deref(), "provider", rule);
        return None;
    };
    let secrets: BTreeMap<String, Secret> = row
        .secrets
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), secret(&mut section, name)?)))
        .collect();
    let unread = section.is_refused();
    let allow_insecure = section.truth("allow_insecure", false);
    let allow_private_networks = section.truth("allow_private_networks", false);
    let base_url = base_url(&mut section, allow_insecure, allow_private_networks);
    let documented = (row.policy)();
    let policy = policy(section.section("polling"), &documented);
    if is_faster(&policy.schedule, &documented.schedule)
        || is_faster(&policy.after_terminal, &documented.after_terminal)
    {
        warnings.push(format!(
            "accounts.{name}.polling: faster than {}'s default schedule",
            row.name
        ));
    }
    // The provider alone knows which secrets it needs and what they may hold. A secret whose file
    // could not be read is a problem already.
    if !unread && let Err(error) = (row.build)(&secrets) {
        section.refuse(None, "", error.to_string());
    }
    section.finish();
    Some(Account {
        name: AccountName::new(name),
        provider: row.name,
        base_url: base_url?,
        allow_insecure,
        allow_private_networks,
        secrets,
        policy,
    })
}

/// A secret that is given as itself or by the file that holds it.
fn secret(section: &mut Section<'_>, key: &str) -> Option<Secret> {
    let file_key = format!("{key}_file");
    let inline = section.text(key);
    let Some(file) = section.text(&file_key) else {
        return inline.map(|inline| Secret::new(inline.text));
    };
    let place = file.place.as_deref();
    if inline.is_some() {
        let rule = format!("either `{key}` or `{file_key}`, not both");
        section.refuse(place, &file_key, rule);
        return None;
    }
    match std::fs::read_to_string(&file.text) {
        Ok(text) => {
            // Editors and `echo` end a file with a newline, which is no part of a secret.
            let text = text.strip_suffix('\n').unwrap_or(&text);
            Some(Secret::new(text.strip_suffix('\r').unwrap_or(text)))
        }
        Err(error) => {
            let rule = format!("the file cannot be read: {error}");
            section.refuse(place, &file_key, rule);
            None
        }
    }
}

fn base_url(section: &mut Section<'_>, insecure: bool, private: bool) -> Option<Url> {
    let Some(Text { text, place }) = section.text("base_url") else {
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
    let url = Url::parse(text).map_err(|_| "is a URL such as https://api.example.com/v1")?;
    match url.scheme() {
        "https" => {}
        "http" if insecure => {}
        "http" => return Err("is https, unless `allow_insecure` is set"),
        _ => return Err("is an https URL"),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has no user and no password");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has no query and no fragment");
    }
    let is_public = match url.host() {
        None => return Err("has a host"),
        // What a name stands for is judged at each connection; this one always stands for us.
        Some(Host::Domain(name)) => private || name.rsplit('.').next() != Some("localhost"),
        Some(Host::Ipv4(literal)) => address::allowed(IpAddr::V4(literal), private),
        Some(Host::Ipv6(literal)) => address::allowed(IpAddr::V6(literal), private),
    };
    if !is_public {
        return Err("is a public address, unless `allow_private_networks` is set");
    }
    Ok(url)
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
        sweep: section.truth("sweep", documented.sweep),
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

/// A schedule; `None` where it is missing or refused.
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

/// Whether a schedule asks more often than another at any age.
fn is_faster(schedule: &Schedule, than: &Schedule) -> bool {
    let bounds = schedule.phases().iter().chain(than.phases());
    bounds
        .filter_map(|phase| phase.until)
        .chain([Duration::ZERO])
        .any(|age| schedule.every(age) < than.every(age))
}
