//! `[callers.NAME]`: callers, their proofs of identity, and their rights.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use crate::{
    jwt::{Keys, Terms},
    purchase::{AccountName, CallerName},
};

use super::{
    server::{Listen, PerCaller},
    tree::{Section, Text},
};

/// The words of a caller's scopes.
pub const SCOPES: [&str; 4] = ["create", "adopt", "read", "operate"];

/// The accounts that a caller may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allowed {
    /// All of them.
    All,
    /// These.
    These(BTreeSet<AccountName>),
}

/// One configured caller.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Its name: the tenant.
    pub name: CallerName,
    /// The SHA-256 of each of its tokens.
    pub token_sha256: Vec<[u8; 32]>,
    /// The alternative names of its client certificates.
    pub cert_san: Vec<String>,
    /// The tokens of its workload.
    pub jwt: Option<Jwt>,
    /// True if calls without a token are its.
    pub anonymous: bool,
    /// The accounts that it may use.
    pub accounts: Allowed,
    /// Its rights: words of [`SCOPES`].
    pub scopes: BTreeSet<&'static str>,
    /// Its limits.
    pub limits: PerCaller,
}

/// The tokens of a workload that are a caller's.
#[derive(Debug, Clone, PartialEq)]
pub struct Jwt {
    /// The claims that they make.
    pub terms: Terms,
    /// The file with the keys that sign them.
    pub jwks_file: Box<Path>,
    /// The keys.
    pub keys: Keys,
}

/// Reads all callers.
pub(super) fn read(
    sections: Vec<(String, Section<'_>)>,
    known: &[String],
    listen: &Listen,
    usual: PerCaller,
    warnings: &mut Vec<String>,
) -> Vec<Caller> {
    let mut callers = Vec::new();
    let mut taken = Taken::default();
    for (name, mut section) in sections {
        let caller = one(&name, &mut section, known, usual, &mut taken);
        if caller.anonymous {
            refuse_anonymous_abroad(&section, listen);
            if !listen.web_origins.is_empty() {
                let rule = "must be left out if listen.web_origins lets pages of browsers in";
                section.refuse(None, "anonymous", rule);
            }
        }
        let is_asked = listen
            .tls
            .as_ref()
            .is_some_and(|tls| tls.client_ca.is_some());
        if !caller.cert_san.is_empty() && !is_asked {
            warnings.push(format!(
                "callers.{name}.cert_san: has no effect without listen.tls_client_ca"
            ));
        }
        section.finish();
        callers.push(caller);
    }
    callers
}

/// The things that can belong to one caller only.
#[derive(Default)]
struct Taken {
    tokens: BTreeSet<[u8; 32]>,
    names: BTreeSet<String>,
    workloads: BTreeSet<Terms>,
    anonymous: bool,
}

fn one(
    name: &str,
    section: &mut Section<'_>,
    known: &[String],
    usual: PerCaller,
    taken: &mut Taken,
) -> Caller {
    let mut own = section.section("limits");
    let limits = PerCaller::read(&mut own, usual);
    own.finish();
    let place = section.place("anonymous");
    let anonymous = section.truth("anonymous", false);
    let has_proof = anonymous
        || ["token_sha256", "cert_san", "jwt"]
            .iter()
            .any(|key| section.place(key).is_some());
    if !has_proof {
        section.refuse(
            None,
            "",
            "must have token_sha256, cert_san, jwt or anonymous",
        );
    }
    if anonymous && std::mem::replace(&mut taken.anonymous, true) {
        let rule = "must be left out: only one caller can be anonymous";
        section.refuse(place.as_deref(), "anonymous", rule);
    }
    Caller {
        name: CallerName::new(name),
        token_sha256: tokens(section, taken),
        cert_san: names(section, taken),
        jwt: jwt(section, taken),
        anonymous,
        accounts: accounts(section, known),
        scopes: scopes(section),
        limits,
    }
}

/// The tokens of a workload. Their keys are read here, so that a check of the settings and a start refuse
/// the same files.
fn jwt(section: &mut Section<'_>, taken: &mut Taken) -> Option<Jwt> {
    const KEYS: [&str; 4] = ["issuer", "audience", "subject", "jwks_file"];
    section.place("jwt")?;
    let mut section = section.section("jwt");
    let texts = KEYS.map(|key| {
        let text = section.text(key);
        if text.as_ref().is_none_or(|text| text.text.is_empty()) {
            let place = text.as_ref().and_then(|text| text.place.as_deref());
            section.refuse(place, key, "is required");
        }
        text
    });
    let jwt = match texts {
        [Some(issuer), Some(audience), Some(subject), Some(file)] if !section.is_refused() => {
            let terms = Terms {
                issuer: issuer.text,
                audience: audience.text,
                subject: subject.text,
            };
            if !taken.workloads.insert(terms.clone()) {
                let rule = "issuer, audience and subject together must belong to one caller";
                section.refuse(None, "", rule);
            }
            keys(&section, &file).map(|keys| Jwt {
                terms,
                jwks_file: Path::new(&file.text).into(),
                keys,
            })
        }
        _ => None,
    };
    section.finish();
    jwt
}

fn keys(section: &Section<'_>, file: &Text) -> Option<Keys> {
    let refuse = |error| {
        let rule = format!("must be usable: {error}");
        section.refuse(file.place.as_deref(), "jwks_file", rule);
    };
    let read = Keys::read(Path::new(&file.text)).map_err(refuse);
    read.ok()
}

/// A list that may be missing, but not be empty.
fn listed(section: &mut Section<'_>, key: &str) -> Vec<Text> {
    let place = section.place(key);
    let texts = section.texts(key);
    if texts.as_ref().is_some_and(Vec::is_empty) {
        section.refuse(place.as_deref(), key, "must have at least one entry");
    }
    texts.unwrap_or_default()
}

/// A list that must be given.
fn required(section: &mut Section<'_>, key: &str) -> Vec<Text> {
    if section.place(key).is_none() {
        section.refuse(None, key, "is required");
    }
    listed(section, key)
}

fn tokens(section: &mut Section<'_>, taken: &mut Taken) -> Vec<[u8; 32]> {
    const KEY: &str = "token_sha256";
    let mut tokens = Vec::new();
    for Text { text, place, .. } in listed(section, KEY) {
        let mut token = [0; 32];
        if hex::decode_to_slice(&text, &mut token).is_err() {
            let rule = "each entry must be a token's SHA-256 as 64 hexadecimal digits";
            section.refuse(place.as_deref(), KEY, rule);
        } else if taken.tokens.insert(token) {
            tokens.push(token);
        } else {
            let rule = "each entry must belong to one caller, and be named once";
            section.refuse(place.as_deref(), KEY, rule);
        }
    }
    tokens
}

fn names(section: &mut Section<'_>, taken: &mut Taken) -> Vec<String> {
    const KEY: &str = "cert_san";
    let mut names = Vec::new();
    for Text { text, place, .. } in listed(section, KEY) {
        if text.is_empty() {
            let rule = "each entry must be a DNS name or a URI of client certificates";
            section.refuse(place.as_deref(), KEY, rule);
        } else if taken.names.insert(text.clone()) {
            names.push(text);
        } else {
            let rule = "each entry must belong to one caller, and be named once";
            section.refuse(place.as_deref(), KEY, rule);
        }
    }
    names
}

fn accounts(section: &mut Section<'_>, known: &[String]) -> Allowed {
    const KEY: &str = "accounts";
    let listed = required(section, KEY);
    if listed.iter().any(|account| account.text == "*") {
        if listed.len() > 1 {
            section.refuse(None, KEY, "\"*\" must stand alone");
        }
        return Allowed::All;
    }
    let mut accounts = BTreeSet::new();
    for Text { text, place, .. } in listed {
        if !known.contains(&text) {
            let rule = "each entry must be the name of a configured account, or \"*\"";
            section.refuse(place.as_deref(), KEY, rule);
        }
        accounts.insert(AccountName::new(&text));
    }
    Allowed::These(accounts)
}

fn scopes(section: &mut Section<'_>) -> BTreeSet<&'static str> {
    const KEY: &str = "scopes";
    let words: BTreeMap<&str, &'static str> = SCOPES.iter().map(|word| (*word, *word)).collect();
    let mut scopes = BTreeSet::new();
    for Text { text, place, .. } in required(section, KEY) {
        match words.get(text.as_str()) {
            Some(word) => {
                scopes.insert(*word);
            }
            None => {
                let rule = format!("each entry must be one of {}", SCOPES.join(", "));
                section.refuse(place.as_deref(), KEY, rule);
            }
        }
    }
    scopes
}

/// Refuses an anonymous caller if a listener can be reached from other machines: anybody there could
/// call without a token.
fn refuse_anonymous_abroad(section: &Section<'_>, listen: &Listen) {
    let addresses = [Some(&listen.grpc), listen.ops.as_ref()];
    if !addresses
        .into_iter()
        .flatten()
        .all(|address| address.is_local())
    {
        let rule = "must be left out unless every listen address is loopback or a Unix socket";
        section.refuse(None, "anonymous", rule);
    }
}
