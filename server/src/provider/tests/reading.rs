//! The readings that tests expect, in few words: `PAID OPEN FundsLocked`, `not found`, `refused`.

use crate::{
    observation::{Answer, Observation, Standing, Submitted, Trouble, word},
    purchase::{Amount, UnreadId},
};

/// An observation's state, finality and code.
pub(in crate::provider) fn brief(observation: &Observation) -> String {
    match observation.standing {
        Standing::Mapped(state, finality) => {
            let (state, finality) = (state.as_str(), finality.as_str());
            format!("{state} {finality} {}", observation.code)
        }
        Standing::Unmapped => format!("UNMAPPED {}", observation.code),
    }
}

/// As [`brief`], with the rest of the observation.
fn whole(observation: &Observation) -> String {
    let attention = observation
        .attention
        .map(|reason| format!("!{}", reason.as_str()));
    let failure = observation.failure;
    let failure = failure.map(|reason| format!("failure {}", reason.as_str()));
    let cause = observation
        .cause
        .map(|cause| format!("cause {}", cause.as_str()));
    let amounts = observation.amounts.iter().map(|amount| {
        let unit: String = amount.unit.chars().take(12).collect();
        format!("{} {} {unit}", amount.role.as_str(), amount.value)
    });
    let hashes = observation.transaction_hashes.iter().flatten();
    let hashes = hashes.map(|hash| format!("tx {}", hash.chars().take(6).collect::<String>()));
    let parts = [Some(brief(observation)), attention, failure, cause];
    let parts: Vec<String> = (parts.into_iter().flatten())
        .chain(amounts)
        .chain(hashes)
        .collect();
    parts.join(", ")
}

fn trouble(trouble: &Trouble) -> &'static str {
    match trouble {
        Trouble::Throttled { .. } => "throttled",
        Trouble::Unauthorized => "unauthorized",
        Trouble::Unreachable { sent: true, .. } => "unreachable",
        Trouble::Unreachable { sent: false, .. } => "not reached",
        Trouble::Nowhere => "nowhere",
        Trouble::Unreadable { .. } => "unreadable",
    }
}

/// The result of a read, in its first words.
pub(in crate::provider) fn said(answer: &Answer) -> String {
    match answer {
        Answer::Observed(observation) => brief(observation),
        Answer::NotFound => "not found".to_owned(),
        Answer::Trouble(it) => trouble(it).to_owned(),
    }
}

/// The result of a read, as a whole line.
pub(in crate::provider) fn answer_line(answer: &Answer) -> String {
    match answer {
        Answer::Observed(observation) => whole(observation),
        Answer::NotFound | Answer::Trouble(_) => said(answer),
    }
}

/// The end of a submit, in its first words.
pub(in crate::provider) fn outcome(submitted: &Submitted) -> &'static str {
    match submitted {
        Submitted::Accepted(_) => "accepted",
        Submitted::AcceptedWithoutReference => "accepted without reference",
        Submitted::Refused { .. } => "refused",
        Submitted::Taken => "taken",
        Submitted::NotSent(_) => "not sent",
        Submitted::Unclear { .. } => "unclear",
    }
}

/// The end of a submit, as a whole line.
pub(in crate::provider) fn submit_line(submitted: &Submitted) -> String {
    let outcome = outcome(submitted);
    match submitted {
        Submitted::Accepted(observation) => format!("{outcome} {}", whole(observation)),
        Submitted::Refused { message } => format!("{outcome} {}", word(message)),
        Submitted::NotSent(it) => format!("{outcome}, {}", trouble(it)),
        Submitted::Unclear { unread_id, .. } => {
            let kept = unread_id.as_ref().and_then(UnreadId::kept);
            kept.map_or(outcome.to_owned(), |id| format!("{outcome} as {id}"))
        }
        Submitted::AcceptedWithoutReference | Submitted::Taken => outcome.to_owned(),
    }
}

/// The observation in an answer that has to have one.
#[track_caller]
pub(in crate::provider) fn observed(answer: Answer) -> Observation {
    match answer {
        Answer::Observed(observation) => *observation,
        other => panic!("nothing observed: {other:?}"),
    }
}

/// The observation in a submit that has to be accepted.
#[track_caller]
pub(in crate::provider) fn accepted(submitted: Submitted) -> Observation {
    match submitted {
        Submitted::Accepted(observation) => *observation,
        other => panic!("not accepted: {other:?}"),
    }
}

/// Amounts as `ROLE value unit`.
pub(in crate::provider) fn amounts(amounts: &[Amount]) -> Vec<String> {
    let text = |amount: &Amount| {
        format!("{} {} {}", amount.role.as_str(), amount.value, amount.unit)
            .trim_end()
            .to_owned()
    };
    amounts.iter().map(text).collect()
}
