//! The Masumi payment service: escrow on Cardano, self-hosted, one per merchant.
//!
//! Requests and rules; `order` holds the form and its checks, `answer` reads what comes back. Facts
//! without another source are from masumi-payment-service at aca38338a68b (2026-07-20).

mod answer;
mod order;
mod sweep;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ::http::{HeaderName, HeaderValue, Method};
use serde_json::json;
use tillwatch_proto::v1::{
    MasumiOrder, MasumiReference, ProviderReference, create_purchase_request::Order,
    provider_reference::Reference as Named,
};

use super::{
    Intent, Placed, Provider, Recovery, Registered, SettingsError, Stated, Unclear, Violation,
    rules::{Form, Row, Table},
    sweep::Sweep,
    wire,
};
use crate::{
    cadence::{Policy, Schedule},
    observation::{Answer, Graph, Submitted},
    purchase::{PurchaseId, Reference, Secret, State, Status, Timestamp},
    upstream::{Connection, Request, Response},
};

/// The parts of a reference, which are the recovery facts of an order as well.
const IDENTIFIER: &str = "blockchain_identifier";
const NETWORK: &str = "network";

/// The networks of the provider's schema.
const NETWORKS: &[&str] = &["Preprod", "Mainnet"];

/// Ours: refunds and roll-backs show within hours of an end.
const HORIZON: Duration = Duration::from_secs(24 * 3_600);
/// Ours.
const STALE_AFTER: Duration = Duration::from_secs(7 * 86_400);

/// Words from the provider's table of redeemers, partly inferred. While nothing is on chain the
/// action is the word, and the actions can follow each other in any order.
const GRAPH: Graph = Graph::inferred(&[
    (
        "FundsLockingRequested",
        &[
            "FundsLockingInitiated",
            "WaitingForManualAction",
            "Ignore",
            "FundsLocked",
            "FundsOrDatumInvalid",
        ],
    ),
    (
        "FundsLockingInitiated",
        &[
            "FundsLockingRequested",
            "WaitingForManualAction",
            "Ignore",
            "FundsLocked",
            "FundsOrDatumInvalid",
        ],
    ),
    (
        "WaitingForManualAction",
        &[
            "FundsLockingRequested",
            "FundsLockingInitiated",
            "Ignore",
            "FundsLocked",
            "FundsOrDatumInvalid",
        ],
    ),
    (
        "Ignore",
        &[
            "FundsLockingRequested",
            "FundsLockingInitiated",
            "WaitingForManualAction",
            "FundsLocked",
            "FundsOrDatumInvalid",
        ],
    ),
    ("FundsOrDatumInvalid", &[]),
    (
        "FundsLocked",
        &["ResultSubmitted", "RefundRequested", "RefundWithdrawn"],
    ),
    ("ResultSubmitted", &["Disputed", "Withdrawn"]),
    (
        "RefundRequested",
        &["Disputed", "RefundWithdrawn", "FundsLocked"],
    ),
    (
        "Disputed",
        &[
            "RefundRequested",
            "RefundAuthorized",
            "WithdrawAuthorized",
            "ResultSubmitted",
            "DisputedWithdrawn",
        ],
    ),
    ("RefundAuthorized", &["RefundWithdrawn"]),
    ("WithdrawAuthorized", &["Withdrawn"]),
    ("Withdrawn", &[]),
    ("RefundWithdrawn", &[]),
    ("DisputedWithdrawn", &[]),
]);

/// The registry's row.
pub const REGISTERED: Registered = Registered {
    name: "masumi",
    secrets: &["token"],
    policy,
    build,
    reference_message,
    rules: stated,
};

/// The provider reads the chain about every 3 minutes and its wallets every minute
/// (`CHECK_TX_INTERVAL` and its neighbours), so asking faster than this gains nothing. It documents
/// and enforces no limit on purchases: the requests per minute are ours.
fn policy() -> Policy {
    Policy::common(Schedule::of(&[], 15_000))
}

fn build(secrets: &BTreeMap<String, Secret>) -> Result<Arc<dyn Provider>, SettingsError> {
    Ok(Arc::new(Masumi {
        token: wire::secret_header(secrets, "token", "")?,
    }))
}

/// One payment service with one of its API keys.
#[derive(Debug, Clone)]
struct Masumi {
    /// Sent as it is in the header `token`; shown nowhere.
    token: HeaderValue,
}

impl Masumi {
    fn request<const N: usize>(&self, path: [&str; N], body: &serde_json::Value) -> Request {
        Request::new(Method::POST, path)
            .header(HeaderName::from_static("token"), self.token.clone())
            .json(body)
    }
}

/// The reference that an order's recovery facts name.
fn reference_of(recovery: &Recovery) -> Option<Reference> {
    Some(Reference::new([
        (IDENTIFIER, recovery.get(IDENTIFIER)?),
        (NETWORK, recovery.get(NETWORK)?),
    ]))
}

/// The form of the identifier, which an order and a reference have under one name. Inferred from
/// every identifier seen, which are hexadecimal, and older ones in words.
const IDENTIFIER_FORM: Form = Form::Visible(1, 8_000);
/// The form of the network, which both have as well.
const NETWORK_FORM: Form = Form::Words(NETWORKS);

const REFERENCE: Table<MasumiReference> = Table {
    message: "MasumiReference",
    path: "",
    rows: &[
        Row::required(IDENTIFIER, IDENTIFIER_FORM, |named| {
            &named.blockchain_identifier
        }),
        Row::required(NETWORK, NETWORK_FORM, |named| &named.network),
    ],
};

fn stated() -> [Vec<Stated>; 2] {
    [order::stated(), REFERENCE.stated()]
}

fn reference_message(reference: &Reference) -> ProviderReference {
    ProviderReference {
        reference: Some(Named::Masumi(MasumiReference {
            blockchain_identifier: reference.part(IDENTIFIER).to_owned(),
            network: reference.part(NETWORK).to_owned(),
        })),
    }
}

impl Provider for Masumi {
    fn row(&self) -> &'static Registered {
        &REGISTERED
    }

    fn secrets(&self) -> Vec<&HeaderValue> {
        vec![&self.token]
    }

    fn graph(&self) -> Graph {
        GRAPH
    }

    fn horizon(&self, status: &Status, configured: Option<Duration>) -> Option<Duration> {
        let on_chain_end = matches!(
            status.state,
            State::Completed | State::Refunded | State::DisputeSettled
        );
        // A rolled back transaction leaves the last on-chain state and shows in the action alone.
        let at_work = status
            .facts
            .get("requestedAction")
            .is_some_and(|action| action != "None");
        if on_chain_end && at_work {
            return None;
        }
        Some(configured.unwrap_or(HORIZON))
    }

    fn stale_after(&self, _status: &Status) -> Duration {
        STALE_AFTER
    }

    fn unclear(&self) -> Unclear {
        // The identifier is unique at the provider, which refuses a second one with 409.
        Unclear::LookUp {
            repeat_is_safe: true,
        }
    }

    fn order(&self, order: &Order) -> Option<Arc<dyn Placed>> {
        let Order::Masumi(order) = order else {
            return None;
        };
        Some(Arc::new(Escrow {
            masumi: self.clone(),
            order: order.clone(),
        }))
    }

    fn reference(&self, message: &ProviderReference) -> Result<Reference, Vec<Violation>> {
        let Some(Named::Masumi(named)) = &message.reference else {
            return Err(super::foreign(REGISTERED.name));
        };
        let violations = REFERENCE.check(named, Timestamp::default());
        if !violations.is_empty() {
            return Err(violations);
        }
        Ok(Reference::new([
            (IDENTIFIER, &named.blockchain_identifier),
            (NETWORK, &named.network),
        ]))
    }

    fn look_up_request(&self, intent: &Intent<'_>) -> Option<Request> {
        Some(self.status_request(&reference_of(intent.recovery)?))
    }

    fn read_look_up(&self, intent: &Intent<'_>, answer: &Response, now: Timestamp) -> Answer {
        match reference_of(intent.recovery) {
            Some(reference) => answer::look_up(intent, &reference, answer, now),
            None => Answer::NotFound,
        }
    }

    fn sweep(&self) -> Option<&dyn Sweep> {
        Some(self)
    }

    fn status_request(&self, reference: &Reference) -> Request {
        self.request(
            ["api", "v1", "purchase", "resolve-blockchain-identifier"],
            &json!({
                "blockchainIdentifier": reference.part(IDENTIFIER),
                "network": reference.part(NETWORK),
                "includeHistory": "false",
            }),
        )
    }

    fn read_status(&self, reference: &Reference, answer: &Response, now: Timestamp) -> Answer {
        answer::status(reference, answer, now)
    }
}

/// An order of a purchase in escrow.
struct Escrow {
    masumi: Masumi,
    order: MasumiOrder,
}

impl Placed for Escrow {
    fn violations(&self, now: Timestamp) -> Vec<Violation> {
        order::violations(&self.order, now)
    }

    fn recovery(&self, _: PurchaseId, _: uuid::Uuid) -> Recovery {
        Recovery::from([
            (
                IDENTIFIER.to_owned(),
                self.order.blockchain_identifier.clone(),
            ),
            (NETWORK.to_owned(), self.order.network.clone()),
        ])
    }

    fn request(&self, _: &Intent<'_>) -> Request {
        (self.masumi)
            .request(["api", "v1", "purchase"], &order::body(&self.order))
            .on(Connection::Fresh)
    }

    fn read(&self, intent: &Intent<'_>, answer: &Response, now: Timestamp) -> Submitted {
        let reference = Reference::new([
            (IDENTIFIER, &self.order.blockchain_identifier),
            (NETWORK, &self.order.network),
        ]);
        answer::submit(intent, &reference, answer, now)
    }
}
