//! The identity of callers: bearer tokens, workloads' tokens and certificates to callers, and the rights
//! of each.
//!
//! Identity comes from the `authorization` header alone; no forwarded header and no peer address
//! ever decides it. Tokens are known here by their SHA-256 only.

mod workloads;

pub use workloads::Workload;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use subtle::{ConditionallySelectable as _, ConstantTimeEq as _};

use crate::{
    jwt,
    purchase::{AccountName, CallerName, Secret, Timestamp},
};
use workloads::Workloads;

/// The beginning of every token, by which a scanner recognises a leaked one.
const TOKEN_PREFIX: &str = "tw_";
/// The longest token that is looked at, in bytes.
const TOKEN_BYTES_MAX: usize = jwt::BYTES_MAX;

/// A right of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Create purchases.
    Create,
    /// Track purchases that exist at the provider.
    Adopt,
    /// Read and watch, ask for a refresh, list accounts.
    Read,
    /// See all callers' purchases, and resolve them.
    Operate,
}

impl Scope {
    /// The scope with this word in the configuration.
    pub fn named(word: &str) -> Option<Self> {
        Some(match word {
            "create" => Self::Create,
            "adopt" => Self::Adopt,
            "read" => Self::Read,
            "operate" => Self::Operate,
            _ => return None,
        })
    }

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Adopt => "adopt",
            Self::Read => "read",
            Self::Operate => "operate",
        }
    }
}

/// An authenticated client. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Caller {
    grant: Arc<Grant>,
    /// True once a right of the grant is gone. All grants of one name have one flag, as long as each
    /// gives what the last one gave.
    is_revoked: Arc<AtomicBool>,
    /// True once the key is gone that has signed the caller's token; `None` if no key has.
    key_is_gone: Option<Arc<AtomicBool>>,
}

/// The limits of one caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallerLimits {
    /// Open streams.
    pub streams: u32,
    /// Open streams over many purchases; they count as streams too.
    pub feeds: u32,
    /// Pages of lists at once.
    pub lists: u32,
    /// Creates in a second; 0 stands for no limit.
    pub creates_per_second: u32,
    /// Open purchases; 0 stands for no limit.
    pub open_purchases: u32,
}

impl Default for CallerLimits {
    /// No limits.
    fn default() -> Self {
        Self {
            streams: u32::MAX,
            feeds: u32::MAX,
            lists: u32::MAX,
            creates_per_second: 0,
            open_purchases: 0,
        }
    }
}

/// The rights that one caller is given.
#[derive(Debug, Clone)]
pub struct Grant {
    /// Its name: the tenant.
    pub name: CallerName,
    /// Its scopes.
    pub scopes: BTreeSet<Scope>,
    /// The accounts that it may use; `None` stands for all.
    pub accounts: Option<BTreeSet<AccountName>>,
    /// Its limits.
    pub limits: CallerLimits,
}

impl Caller {
    /// A caller with this grant.
    pub fn new(grant: Grant) -> Self {
        Self {
            grant: Arc::new(grant),
            is_revoked: Arc::default(),
            key_is_gone: None,
        }
    }

    /// The same caller, known by a token whose key has this flag.
    fn proved_by(self, key_is_gone: Arc<AtomicBool>) -> Self {
        Self {
            key_is_gone: Some(key_is_gone),
            ..self
        }
    }

    /// True if a right that this caller had is gone by now, or the key of its token: its streams have to
    /// end.
    pub fn is_revoked(&self) -> bool {
        let key_is_gone = self.key_is_gone.as_ref();
        self.is_revoked.load(Ordering::Relaxed)
            || key_is_gone.is_some_and(|gone| gone.load(Ordering::Relaxed))
    }

    /// Its name.
    pub fn name(&self) -> &CallerName {
        &self.grant.name
    }

    /// True if it may do this.
    pub fn may(&self, scope: Scope) -> bool {
        self.grant.scopes.contains(&scope)
    }

    /// The accounts that it may use; `None` for all.
    pub fn accounts(&self) -> Option<&BTreeSet<AccountName>> {
        self.grant.accounts.as_ref()
    }

    /// Its limits.
    pub fn limits(&self) -> CallerLimits {
        self.grant.limits
    }

    /// True if it may use this account.
    pub fn may_use(&self, account: &AccountName) -> bool {
        (self.grant.accounts.as_ref()).is_none_or(|accounts| accounts.contains(account))
    }
}

impl Grant {
    /// True if a newer grant gives all that this one gives. Limits are no rights.
    fn is_kept_by(&self, newer: &Self) -> bool {
        let keeps_accounts = match (&self.accounts, &newer.accounts) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(own), Some(newer)) => own.is_subset(newer),
        };
        keeps_accounts && self.scopes.is_subset(&newer.scopes)
    }
}

/// The callers that are known now. Clones are the same directory.
#[derive(Debug, Clone, Default)]
pub struct Directory(Arc<RwLock<Callers>>);

impl Directory {
    /// A directory of these callers.
    pub fn new(callers: Callers) -> Self {
        Self(Arc::new(RwLock::new(callers)))
    }

    /// As [`Callers::authenticate`].
    ///
    /// # Errors
    /// Nobody shows this.
    pub fn authenticate(
        &self,
        authorization: Option<&str>,
        names: &[String],
        now: Timestamp,
    ) -> Result<Caller, Unauthenticated> {
        let callers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        callers.authenticate(authorization, names, now)
    }

    /// True if a caller is known by the lack of a header.
    pub fn has_anonymous(&self) -> bool {
        let callers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        callers.has_anonymous()
    }

    /// True if some caller may not have as many open purchases as it likes.
    pub fn limit_open_purchases(&self) -> bool {
        let callers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        callers.limit_open_purchases()
    }

    /// Knows these callers from now on. A caller that is gone, or that has lost a right, is revoked, and
    /// so is what was opened with the tokens of a key that is gone. It returns the number of those
    /// callers and keys.
    pub fn replace(&self, mut newer: Callers) -> usize {
        let mut callers = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let older = callers.by_name();
        let newest = newer.by_name();
        let mut revoked = newer.workloads.succeed(&callers.workloads);
        let mut kept = BTreeMap::new();
        for (name, old) in older {
            let is_kept = newest
                .get(&name)
                .is_some_and(|new| old.grant.is_kept_by(&new.grant));
            if is_kept {
                kept.insert(name, old.is_revoked);
            } else {
                old.is_revoked.store(true, Ordering::Relaxed);
                revoked += 1;
            }
        }
        *callers = newer.with_flags(&kept);
        revoked
    }
}

/// No caller is known by what a request has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unauthenticated {
    /// There is no `authorization` header, and no anonymous caller.
    #[error("an authorization header with a bearer token is required")]
    Missing,
    /// There is no `authorization` header, and no caller has a name of the client's certificate.
    #[error("no caller has a name of this client certificate")]
    UnknownCertificate,
    /// The header is no bearer token, or no caller has it.
    #[error("the bearer token is not known")]
    Unknown,
    /// The header is a workload's token that proves nobody. The caller learns no more than if the token
    /// were unknown, unless the token was good once.
    #[error("{}", told(*.0))]
    Token(jwt::Refusal),
}

fn told(refusal: jwt::Refusal) -> &'static str {
    match refusal {
        jwt::Refusal::Expired => "the bearer token has expired",
        jwt::Refusal::NotYet => "the bearer token is not valid yet",
        _ => "the bearer token is not known",
    }
}

impl Unauthenticated {
    /// All of them, in the order of their counters.
    pub fn all() -> impl Iterator<Item = Self> {
        let own = [Self::Missing, Self::UnknownCertificate, Self::Unknown];
        own.into_iter().chain(jwt::Refusal::ALL.map(Self::Token))
    }

    /// Its word in the audit log and in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Missing => "NO_TOKEN",
            Self::UnknownCertificate => "UNKNOWN_CERTIFICATE",
            Self::Unknown => "UNKNOWN_TOKEN",
            Self::Token(refusal) => refusal.word(),
        }
    }
}

/// All callers, by what proves them.
#[derive(Clone, Default)]
pub struct Callers {
    /// One entry per token, so that a comparison over all of them tells nothing by its time.
    tokens: Vec<([u8; 32], Caller)>,
    /// By a name in the client's certificate.
    names: BTreeMap<String, Caller>,
    workloads: Workloads,
    anonymous: Option<Caller>,
}

impl fmt::Debug for Callers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Callers({} tokens)", self.tokens.len())
    }
}

impl Callers {
    /// The callers with one more, known by tokens with these SHA-256, and by the lack of a header if it
    /// is anonymous. Of two anonymous callers the later one counts.
    #[must_use]
    pub fn with(mut self, caller: Caller, token_sha256: &[[u8; 32]], anonymous: bool) -> Self {
        if anonymous {
            self.anonymous = Some(caller.clone());
        }
        let entries = token_sha256.iter().map(|hash| (*hash, caller.clone()));
        self.tokens.extend(entries);
        self
    }

    /// With the names in client certificates by which a caller is known, too. Of two callers with one
    /// name the later one counts.
    #[must_use]
    pub fn with_names(mut self, caller: &Caller, names: &[String]) -> Self {
        let entries = names.iter().map(|name| (name.clone(), caller.clone()));
        self.names.extend(entries);
        self
    }

    /// With tokens of a workload by which a caller is known, too.
    #[must_use]
    pub fn with_workload(mut self, caller: &Caller, workload: Workload) -> Self {
        self.workloads.add(workload, caller.clone());
        self
    }

    /// True if some caller may not have as many open purchases as it likes.
    fn limit_open_purchases(&self) -> bool {
        self.all().any(|caller| caller.limits().open_purchases > 0)
    }

    fn all(&self) -> impl Iterator<Item = &Caller> {
        let by_token = self.tokens.iter().map(|(_, caller)| caller);
        by_token
            .chain(self.names.values())
            .chain(self.workloads.callers())
            .chain(&self.anonymous)
    }

    fn by_name(&self) -> BTreeMap<CallerName, Caller> {
        let named = |caller: &Caller| (caller.name().clone(), caller.clone());
        self.all().map(named).collect()
    }

    /// The same callers with these flags, by name.
    fn with_flags(mut self, flags: &BTreeMap<CallerName, Arc<AtomicBool>>) -> Self {
        let by_token = self.tokens.iter_mut().map(|(_, caller)| caller);
        for caller in by_token
            .chain(self.names.values_mut())
            .chain(self.workloads.callers_mut())
            .chain(&mut self.anonymous)
        {
            if let Some(flag) = flags.get(caller.name()) {
                caller.is_revoked = Arc::clone(flag);
            }
        }
        self
    }

    /// True if a caller is known by the lack of a header.
    pub fn has_anonymous(&self) -> bool {
        self.anonymous.is_some()
    }

    /// The caller that shows this `authorization` header, or without a header the caller that has one
    /// of these names in its client certificate; of several callers, that of the first name. A wrong
    /// token is nobody's: neither the certificate's caller's nor the anonymous caller's. `now` is the
    /// time against which workloads' tokens are held.
    ///
    /// # Errors
    /// Nobody does.
    pub fn authenticate(
        &self,
        authorization: Option<&str>,
        names: &[String],
        now: Timestamp,
    ) -> Result<Caller, Unauthenticated> {
        let Some(authorization) = authorization else {
            let named = names.iter().find_map(|name| self.names.get(name));
            let missing = match names {
                [] => Unauthenticated::Missing,
                _ => Unauthenticated::UnknownCertificate,
            };
            return named.or(self.anonymous.as_ref()).cloned().ok_or(missing);
        };
        let token = bearer(authorization).ok_or(Unauthenticated::Unknown)?;
        let hash: [u8; 32] = Sha256::digest(token).into();
        // Every entry is compared, and the one that fits is remembered without a branch.
        let mut fitting = u64::MAX;
        for (index, (known, _)) in (0_u64..).zip(&self.tokens) {
            fitting.conditional_assign(&index, hash.ct_eq(known));
        }
        let place = usize::try_from(fitting).ok();
        match place.and_then(|place| self.tokens.get(place)) {
            Some((_, caller)) => Ok(caller.clone()),
            None => self.workloads.authenticate(token, hash, now),
        }
    }
}

/// The token of a bearer header; the scheme's case does not matter (RFC 9110, 11.1).
fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, token) = authorization.split_once(' ')?;
    let token = token.trim_matches(' ');
    let is_token = !token.is_empty() && token.len() <= TOKEN_BYTES_MAX;
    (scheme.eq_ignore_ascii_case("bearer") && is_token).then_some(token)
}

/// A new token made of 32 random bytes, and its SHA-256 in hexadecimal digits.
pub fn new_token(random: [u8; 32]) -> (Secret, String) {
    let token = format!("{TOKEN_PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(random));
    let hash = hex::encode(Sha256::digest(&token));
    (Secret::new(token), hash)
}

#[cfg(test)]
mod tests;
