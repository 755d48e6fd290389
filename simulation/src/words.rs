//! The providers' words, the meaning of each by the service's status table, and the ways that their
//! purchases can go. A second copy of the table, so that the first can be wrong.

use tillwatch_server::purchase::{
    Finality::{self, Final, Open, Terminal},
    State,
};

/// The simulated providers.
pub const PROVIDERS: [&str; 5] = ["phygitals", "masumi", "inabit", "carbon", "devdraft"];

type Row = (&'static str, State, Finality);

const PHYGITALS: &[Row] = &[
    ("pending", State::Processing, Open),
    ("processing", State::Processing, Open),
    ("fulfilled", State::Completed, Final),
    ("Transaction failed", State::Failed, Final),
];

/// A word with `null/` before it is an action while nothing is on chain.
const MASUMI: &[Row] = &[
    ("null/FundsLockingRequested", State::Created, Open),
    ("null/FundsLockingInitiated", State::Confirming, Open),
    ("null/WaitingForManualAction", State::OnHold, Open),
    ("null/Ignore", State::Canceled, Terminal),
    ("FundsLocked", State::Paid, Open),
    ("FundsOrDatumInvalid", State::OnHold, Open),
    ("ResultSubmitted", State::Delivered, Open),
    ("RefundRequested", State::RefundPending, Open),
    ("Disputed", State::Disputed, Open),
    ("Withdrawn", State::Completed, Terminal),
    ("RefundWithdrawn", State::Refunded, Terminal),
    ("DisputedWithdrawn", State::DisputeSettled, Terminal),
];

const INABIT: &[Row] = &[
    ("Initiated", State::Created, Open),
    ("Allocated", State::AwaitingPayment, Open),
    ("Undercharge", State::PartiallyPaid, Open),
    ("Unconfirmed", State::Confirming, Open),
    ("Confirming", State::Confirming, Open),
    ("PendingFork", State::Confirming, Open),
    ("Overcharge", State::Confirming, Open),
    ("Completed", State::Completed, Terminal),
    ("Swept", State::Completed, Final),
    ("Failed", State::Failed, Terminal),
    ("Expired", State::Expired, Terminal),
    ("UnderchargeExpired", State::Expired, Terminal),
];

/// A `-` behind a code leaves out the transaction's hash that usually comes with it.
const CARBON: &[Row] = &[
    ("-1", State::Created, Open),
    ("0", State::Delivered, Open),
    ("1-", State::Processing, Open),
    ("1", State::Delivered, Open),
    ("10-", State::Processing, Open),
    ("10", State::Delivered, Open),
    ("2", State::OnHold, Open),
    ("100", State::Completed, Final),
    ("3", State::Canceled, Final),
    ("7000", State::Failed, Final),
    ("70000", State::Failed, Terminal),
];

const DEVDRAFT: &[Row] = &[
    ("pending", State::Created, Open),
    ("AWAITING_FUNDS", State::AwaitingPayment, Open),
    ("IN_REVIEW", State::InReview, Open),
    ("FUNDS_RECEIVED", State::Paid, Open),
    ("PAYMENT_SUBMITTED", State::Processing, Open),
    ("PAYMENT_PROCESSED", State::Completed, Terminal),
    ("RETURNED", State::Returned, Terminal),
    ("UNDELIVERABLE", State::Failed, Terminal),
    ("ERROR", State::Failed, Terminal),
    ("DISPUTED", State::Disputed, Open),
    ("MISSING_RETURN_POLICY", State::OnHold, Open),
    ("REFUND_IN_FLIGHT", State::RefundPending, Open),
    ("REFUND_FAILED", State::OnHold, Open),
    ("REFUNDED", State::Refunded, Terminal),
    ("CANCELED", State::Canceled, Final),
];

/// The provider's rows of the status table.
pub fn rows(provider: &str) -> &'static [Row] {
    match provider {
        "phygitals" => PHYGITALS,
        "masumi" => MASUMI,
        "inabit" => INABIT,
        "carbon" => CARBON,
        "devdraft" => DEVDRAFT,
        other => panic!("{other} is not simulated"),
    }
}

/// The meaning of a word; `None` if it has no row.
pub fn meaning(provider: &str, word: &str) -> Option<(State, Finality)> {
    (rows(provider).iter())
        .find(|(known, _, _)| *known == word)
        .map(|(_, state, finality)| (*state, *finality))
}

/// The ways that a provider's purchases can go; each ends with a word that stays.
pub fn walks(provider: &str) -> &'static [&'static [&'static str]] {
    match provider {
        "phygitals" => &[
            &["pending", "processing", "fulfilled"],
            &["pending", "fulfilled"],
            &["pending", "Transaction failed"],
        ],
        "masumi" => &[
            &[
                "null/FundsLockingRequested",
                "null/FundsLockingInitiated",
                "FundsLocked",
                "ResultSubmitted",
                "Withdrawn",
            ],
            &[
                "null/FundsLockingRequested",
                "FundsLocked",
                "RefundRequested",
                "RefundWithdrawn",
            ],
            &[
                "null/FundsLockingRequested",
                "null/WaitingForManualAction",
                "null/FundsLockingInitiated",
                "FundsLocked",
                "ResultSubmitted",
                "Disputed",
                "DisputedWithdrawn",
            ],
            &["null/FundsLockingRequested", "null/Ignore"],
            &["null/FundsLockingRequested"],
        ],
        "inabit" => &[
            &[
                "Initiated",
                "Allocated",
                "Unconfirmed",
                "Confirming",
                "Completed",
            ],
            &["Initiated", "Allocated", "Overcharge", "Completed", "Swept"],
            &[
                "Initiated",
                "Allocated",
                "Undercharge",
                "UnderchargeExpired",
            ],
            &["Initiated", "Expired"],
            &[
                "Initiated",
                "Allocated",
                "Confirming",
                "PendingFork",
                "Failed",
            ],
        ],
        "carbon" => &[
            &["-1", "0", "10-", "10", "100"],
            &["-1", "1-", "1", "10", "100"],
            &["-1", "2", "3"],
            &["-1", "7000"],
            &["-1", "70000"],
        ],
        "devdraft" => &[
            &[
                "AWAITING_FUNDS",
                "FUNDS_RECEIVED",
                "PAYMENT_SUBMITTED",
                "PAYMENT_PROCESSED",
            ],
            &[
                "AWAITING_FUNDS",
                "FUNDS_RECEIVED",
                "IN_REVIEW",
                "FUNDS_RECEIVED",
                "PAYMENT_SUBMITTED",
                "PAYMENT_PROCESSED",
                "RETURNED",
                "REFUND_IN_FLIGHT",
                "REFUND_FAILED",
                "REFUND_IN_FLIGHT",
                "REFUNDED",
            ],
            &["AWAITING_FUNDS", "CANCELED"],
            &[
                "AWAITING_FUNDS",
                "FUNDS_RECEIVED",
                "PAYMENT_SUBMITTED",
                "MISSING_RETURN_POLICY",
                "UNDELIVERABLE",
            ],
            &["AWAITING_FUNDS", "FUNDS_RECEIVED", "ERROR"],
        ],
        other => panic!("{other} is not simulated"),
    }
}
