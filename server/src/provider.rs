//! The providers: each one's HTTP, words and rules in a file of its own, and the registry of them.
//!
//! A provider makes requests and reads answers; it sends nothing, waits for nothing and keeps
//! nothing but its credentials. This trait has everything that a sixth provider needs from the rest
//! of the house.

pub mod carbon;
pub mod devdraft;
mod error_answer;
pub mod inabit;
pub mod masumi;
pub mod phygitals;
mod rules;
pub mod sweep;
#[cfg(test)]
mod tests;
mod wire;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use ::http::HeaderValue;
use tillwatch_proto::v1::{ProviderReference, create_purchase_request::Order};

use crate::{
    cadence::Policy,
    observation::{self, Answer, Graph, Observation, Submitted},
    purchase::{PurchaseId, Reference, Secret, Status, Timestamp},
    upstream::{Request, Response},
};

/// A field of a request that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field's proto name, with dots if it is nested, relative to the order or reference.
    pub field: String,
    /// The rule: "must be …".
    pub rule: String,
}

impl Violation {
    /// A broken rule of one field.
    pub fn new(field: impl Into<String>, rule: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            rule: rule.into(),
        }
    }
}

/// A rule for a field of an order or a reference, in the words that callers, the contract's comments
/// and `docs/PROVIDERS.md` share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stated {
    /// The contract's message that has the field.
    pub message: &'static str,
    /// The field's name in that message.
    pub field: &'static str,
    /// The field's path below the order or reference.
    pub path: String,
    /// The words after "must be".
    pub rule: String,
    /// True if the field must be there.
    pub is_required: bool,
}

/// The facts of an order that are stored besides its fingerprints, so that an unclear submit can be
/// settled.
pub type Recovery = BTreeMap<String, String>;

/// The remedy for a submit whose outcome is unclear (promise C3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unclear {
    /// The provider cannot be asked: a person has to settle it.
    AskNobody,
    /// It can be looked up by its recovery facts.
    LookUp {
        /// True if a caller's repeat is safe at any time, since the provider refuses a second one.
        repeat_is_safe: bool,
    },
    /// It can be sent again with the same provider key, which the provider forgets after a while.
    RepeatWithKey {
        /// The time after the first send in which a repeat is safe.
        within: Duration,
    },
}

/// The known facts of a submit when its answer is read, or when it is looked up.
pub struct Intent<'a> {
    /// The purchase's id.
    pub purchase: PurchaseId,
    /// When the intent was recorded.
    pub create_time: Timestamp,
    /// The durable facts of the order.
    pub recovery: &'a Recovery,
    /// True if the order had this text in this field (proto name, with dots if nested). Fields of
    /// [`Provider::decimal_fields`] compare by value.
    pub matches: &'a (dyn Fn(&str, &str) -> bool + Send + Sync),
}

/// One provider with one account's credentials.
pub trait Provider: fmt::Debug + Send + Sync {
    /// Its row of the registry.
    fn row(&self) -> &'static Registered;

    /// The credentials as their headers carry them, which no text that a caller sees may repeat.
    fn secrets(&self) -> Vec<&HeaderValue>;

    /// The steps that its words can take.
    fn graph(&self) -> Graph;

    /// The time for which this terminal status is followed; `None` holds it open as long as it lasts.
    /// `configured` replaces the provider's own durations, never its reasons to hold.
    fn horizon(&self, status: &Status, configured: Option<Duration>) -> Option<Duration>;

    /// The time for which this open status may stay unchanged before somebody should look.
    fn stale_after(&self, status: &Status) -> Duration;

    /// The remedy for an unclear submit.
    fn unclear(&self) -> Unclear;

    /// The credential that names the client, if an order's key says something to that client alone.
    fn client(&self) -> Option<&HeaderValue> {
        None
    }

    /// Reads an order of this provider, once and for all that is done with it; `None` if it is
    /// another provider's.
    fn order(&self, order: &Order) -> Option<Arc<dyn Placed>>;

    /// Order fields that hold decimal numbers, which are the same order when equal by value.
    fn decimal_fields(&self) -> &'static [&'static str] {
        &[]
    }

    /// Reads a reference of this provider, held to its id shape.
    fn reference(&self, message: &ProviderReference) -> Result<Reference, Vec<Violation>>;

    /// The request that looks an unclear submit up; `None` if the provider has no such request.
    fn look_up_request(&self, intent: &Intent<'_>) -> Option<Request> {
        let _ = intent;
        None
    }

    /// The meaning of the answer to a look-up. An observation carries a reference and is of our order;
    /// [`Answer::NotFound`] proves nothing.
    fn read_look_up(&self, intent: &Intent<'_>, answer: &Response, now: Timestamp) -> Answer {
        let _ = (intent, answer, now);
        Answer::NotFound
    }

    /// The request that reads many purchases at once; `None` if the provider has no such request.
    fn sweep(&self) -> Option<&dyn sweep::Sweep> {
        None
    }

    /// The request that reads one purchase's status.
    fn status_request(&self, reference: &Reference) -> Request;

    /// Corrects an observation by what was ordered, for what no answer tells alone. `recovery` is
    /// empty if the order was made elsewhere.
    fn compare(&self, recovery: &Recovery, observation: &mut Observation) {
        let _ = (recovery, observation);
    }

    /// The meaning of the answer to a status read. `now` is its arrival.
    fn read_status(&self, reference: &Reference, answer: &Response, now: Timestamp) -> Answer;
}

/// An order as its provider has read it, with the account's credentials: everything that can be done
/// with an order before the purchase has a reference.
pub trait Placed: Send + Sync {
    /// The rules that the order breaks now, by field. An order that broke none when it was new can
    /// break one later, and is repeated all the same.
    fn violations(&self, now: Timestamp) -> Vec<Violation>;

    /// The recovery facts. `key` is a new random UUID, for providers that take one.
    fn recovery(&self, purchase: PurchaseId, key: uuid::Uuid) -> Recovery;

    /// The request that submits the order.
    fn request(&self, intent: &Intent<'_>) -> Request;

    /// The meaning of the answer to that request, by the provider's rules. `now` is its arrival.
    fn read(&self, intent: &Intent<'_>, answer: &Response, now: Timestamp) -> Submitted;
}

/// An order holds personal data, so nothing of it is shown.
impl fmt::Debug for dyn Placed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Placed")
    }
}

/// The word that stands for a secret in a text.
const STRUCK: &str = "[secret]";

/// The provider's words about a refused order, for the caller who sent it: without the account's
/// credentials, should they be repeated there, and cut (promise D2).
pub fn told(provider: &dyn Provider, message: &str) -> String {
    let mut text: String = (message.chars())
        .filter(|character| !character.is_control())
        .collect();
    let mut secrets: Vec<String> = (provider.secrets().into_iter())
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        .map(|value| value.trim_start_matches("Bearer ").to_owned())
        .filter(|secret| !secret.is_empty())
        .collect();
    // The longest first: a secret may be a part of another.
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    for secret in secrets {
        text = text.replace(&secret, STRUCK);
    }
    observation::word(&text)
}

/// Why an account's settings make no provider.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A secret is missing.
    #[error("`{0}` (or `{0}_file`) is required")]
    Missing(&'static str),
    /// A secret cannot be sent as an HTTP header.
    #[error("`{0}` holds characters that no HTTP header can carry")]
    NoHeader(&'static str),
}

/// Makes a provider with an account's secrets.
pub type Build = fn(&BTreeMap<String, Secret>) -> Result<Arc<dyn Provider>, SettingsError>;

/// A row of the registry: all facts of a provider that need no account.
#[derive(Debug, Clone, Copy)]
pub struct Registered {
    /// The provider's name.
    pub name: &'static str,
    /// The names of its secrets in the configuration.
    pub secrets: &'static [&'static str],
    /// Its documented polling policy.
    pub policy: fn() -> Policy,
    /// Makes the provider with an account's secrets.
    pub build: Build,
    /// The contract's message of a reference.
    pub reference_message: fn(&Reference) -> ProviderReference,
    /// All rules for its orders' fields, then those for its references'.
    pub rules: fn() -> [Vec<Stated>; 2],
}

/// All providers.
pub const REGISTRY: [Registered; 5] = [
    phygitals::REGISTERED,
    masumi::REGISTERED,
    inabit::REGISTERED,
    carbon::REGISTERED,
    devdraft::REGISTERED,
];

/// The names of all providers, in the registry's order.
#[expect(
    clippy::indexing_slicing,
    reason = "both have the same length, and the compiler walks them"
)]
pub const NAMES: [&str; REGISTRY.len()] = {
    let mut names = [""; REGISTRY.len()];
    let mut place = 0;
    while place < names.len() {
        names[place] = REGISTRY[place].name;
        place += 1;
    }
    names
};

/// The registry's row with this name.
pub fn registered(name: &str) -> Option<&'static Registered> {
    REGISTRY.iter().find(|row| row.name == name)
}

/// The contract's message of a provider's reference.
pub fn reference_message(name: &str, reference: &Reference) -> Option<ProviderReference> {
    registered(name).map(|row| (row.reference_message)(reference))
}

/// The order as its provider reads it.
///
/// # Errors
/// The order is another provider's.
pub fn order(provider: &dyn Provider, order: &Order) -> Result<Arc<dyn Placed>, Violation> {
    let name = provider.row().name;
    let foreign = || Violation::new("order", format!("must be an order of {name}"));
    provider.order(order).ok_or_else(foreign)
}

/// The rules that an order breaks, each by its field's path inside the request.
pub fn violations(provider: &dyn Provider, order: &dyn Placed, now: Timestamp) -> Vec<Violation> {
    within(provider.row().name, order.violations(now))
}

/// The reference that a message means.
///
/// # Errors
/// The broken rules, by their fields' paths. The request has the message at `path`.
pub fn reference(
    provider: &dyn Provider,
    path: &str,
    message: &ProviderReference,
) -> Result<Reference, Vec<Violation>> {
    let name = provider.row().name;
    if of_reference(message) != Some(name) {
        let rule = format!("must be a reference of {name}");
        return Err(vec![Violation::new(path, rule)]);
    }
    let path = format!("{path}.{name}");
    (provider.reference(message)).map_err(|violations| within(&path, violations))
}

/// The violation of a reference that is another provider's.
fn foreign(name: &str) -> Vec<Violation> {
    vec![Violation::new(
        "reference",
        format!("must be a reference of {name}"),
    )]
}

/// Violations whose fields lie below a path.
fn within(path: &str, violations: Vec<Violation>) -> Vec<Violation> {
    let below = |one: Violation| Violation::new(format!("{path}.{}", one.field), one.rule);
    violations.into_iter().map(below).collect()
}

/// The name of the provider that an order is for: the contract's oneof field name.
pub fn of_order(order: &Order) -> Option<&'static str> {
    Some(match order {
        Order::Phygitals(_) => "phygitals",
        Order::Masumi(_) => "masumi",
        Order::Inabit(_) => "inabit",
        Order::Carbon(_) => "carbon",
        Order::Devdraft(_) => "devdraft",
        Order::Existing(reference) => return of_reference(reference),
    })
}

/// The name of the provider that a reference belongs to: the contract's oneof field name.
pub fn of_reference(message: &ProviderReference) -> Option<&'static str> {
    use tillwatch_proto::v1::provider_reference::Reference as Named;
    Some(match message.reference.as_ref()? {
        Named::Phygitals(_) => "phygitals",
        Named::Masumi(_) => "masumi",
        Named::Inabit(_) => "inabit",
        Named::Carbon(_) => "carbon",
        Named::Devdraft(_) => "devdraft",
    })
}
