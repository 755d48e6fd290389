//! The providers: each one's HTTP, words and rules in a file of its own, and the registry of them.
//!
//! A provider makes requests and reads answers; it sends nothing, waits for nothing and keeps
//! nothing but its credentials. Whatever a sixth provider needs from the rest of the house is in
//! this trait.

pub mod carbon;
pub mod devdraft;
mod error_answer;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod harmless_test;
pub mod inabit;
pub mod masumi;
pub mod phygitals;
#[cfg(test)]
mod reading;
mod rules;
pub mod sweep;
#[cfg(test)]
mod table_test;
#[cfg(test)]
mod told_test;
#[cfg(test)]
mod unread_id_test;
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
    /// The proto field's name, dotted where nested, relative to the order or reference.
    pub field: String,
    /// The rule, as a sentence about what is allowed.
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

/// What is durable of an order, besides its fingerprints, so that an unclear submit can be settled.
pub type Recovery = BTreeMap<String, String>;

/// What can be done about a submit whose outcome is unclear (promise C3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unclear {
    /// The provider cannot be asked: a person has to settle it.
    AskNobody,
    /// It can be looked up by its recovery facts.
    LookUp {
        /// Whether a caller's repeat is safe at any time, since the provider refuses a second one.
        repeat_is_safe: bool,
    },
    /// It can be sent again with the same provider key, which the provider forgets after a while.
    RepeatWithKey {
        /// How long after the first send a repeat is still safe.
        within: Duration,
    },
}

/// What is known of a submit when its answer is read, or when it is looked up.
pub struct Intent<'a> {
    /// The purchase's id.
    pub purchase: PurchaseId,
    /// When the intent was recorded.
    pub create_time: Timestamp,
    /// The durable facts of the order.
    pub recovery: &'a Recovery,
    /// Whether the order had this text in this field (proto name, dotted where nested). Fields of
    /// [`Provider::decimal_fields`] compare by value.
    pub matches: &'a (dyn Fn(&str, &str) -> bool + Send + Sync),
}

/// One provider with one account's credentials.
pub trait Provider: fmt::Debug + Send + Sync {
    /// Its stable name, as in the contract and the configuration.
    fn name(&self) -> &'static str;

    /// The credentials as their headers carry them, which no text that a caller sees may repeat.
    fn secrets(&self) -> Vec<&HeaderValue>;

    /// The steps that its words can take.
    fn graph(&self) -> Graph;

    /// How long this terminal status is followed; `None` holds it open for as long as it lasts.
    /// `configured` replaces the provider's own durations, never its reasons to hold.
    fn horizon(&self, status: &Status, configured: Option<Duration>) -> Option<Duration>;

    /// How long this open status may stay unchanged before somebody should look.
    fn stale_after(&self, status: &Status) -> Duration;

    /// What can be done about an unclear submit.
    fn unclear(&self) -> Unclear;

    /// Checks an order of this provider. Empty where the provider would take its form.
    fn check_order(&self, order: &Order, now: Timestamp) -> Vec<Violation>;

    /// Order fields that hold decimal numbers, which are the same order when equal by value.
    fn decimal_fields(&self) -> &'static [&'static str] {
        &[]
    }

    /// Reads a reference of this provider, held to its id shape.
    fn reference(&self, message: &ProviderReference) -> Result<Reference, Vec<Violation>>;

    /// The recovery facts of an order. `key` is a new random UUID, for providers that take one.
    fn recovery(&self, order: &Order, purchase: PurchaseId, key: uuid::Uuid) -> Recovery;

    /// The request that submits an order that [`Provider::check_order`] has passed.
    fn submit_request(&self, order: &Order, intent: &Intent<'_>) -> Request;

    /// What the answer to the submit of an order means, by each provider's rules. `now` is its
    /// arrival.
    fn read_submit(
        &self,
        order: &Order,
        intent: &Intent<'_>,
        answer: &Response,
        now: Timestamp,
    ) -> Submitted;

    /// The request that looks an unclear submit up; `None` where there is no such thing.
    fn look_up_request(&self, intent: &Intent<'_>) -> Option<Request> {
        let _ = intent;
        None
    }

    /// What the answer to a look-up means. An observation carries a reference and is of our order;
    /// [`Answer::NotFound`] proves nothing.
    fn read_look_up(&self, intent: &Intent<'_>, answer: &Response, now: Timestamp) -> Answer {
        let _ = (intent, answer, now);
        Answer::NotFound
    }

    /// The request that reads many purchases at once; `None` where there is none.
    fn sweep(&self) -> Option<&dyn sweep::Sweep> {
        None
    }

    /// The request that reads one purchase's status.
    fn status_request(&self, reference: &Reference) -> Request;

    /// Corrects an observation by what was ordered, for what no answer tells alone. `recovery` is
    /// empty where the order was made elsewhere.
    fn compare(&self, recovery: &Recovery, observation: &mut Observation) {
        let _ = (recovery, observation);
    }

    /// What the answer to a status read means. `now` is its arrival.
    fn read_status(&self, reference: &Reference, answer: &Response, now: Timestamp) -> Answer;
}

/// What stands for a secret in a text.
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
    // The longest first: one may be a part of another.
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

/// One row of the registry: what there is to know of a provider before an account exists.
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
}

/// All providers.
pub const REGISTRY: [Registered; 5] = [
    phygitals::REGISTERED,
    masumi::REGISTERED,
    inabit::REGISTERED,
    carbon::REGISTERED,
    devdraft::REGISTERED,
];

/// The registry's row with this name.
pub fn registered(name: &str) -> Option<&'static Registered> {
    REGISTRY.iter().find(|row| row.name == name)
}

/// The contract's message of a provider's reference.
pub fn reference_message(name: &str, reference: &Reference) -> Option<ProviderReference> {
    registered(name).map(|row| (row.reference_message)(reference))
}

/// What keeps an order from being submitted, each by its path inside the request.
pub fn check_order(provider: &dyn Provider, order: &Order, now: Timestamp) -> Vec<Violation> {
    within(provider.name(), provider.check_order(order, now))
}

/// The reference that a message means.
///
/// # Errors
/// What is wrong with it, by the path below `path`, which is where the request has the message.
pub fn reference(
    provider: &dyn Provider,
    path: &str,
    message: &ProviderReference,
) -> Result<Reference, Vec<Violation>> {
    let name = provider.name();
    if of_reference(message) != Some(name) {
        let rule = format!("must be a reference of {name}");
        return Err(vec![Violation::new(path, rule)]);
    }
    let path = format!("{path}.{name}");
    (provider.reference(message)).map_err(|violations| within(&path, violations))
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
