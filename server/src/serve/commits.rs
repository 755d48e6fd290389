//! The lines of the audit log that follow from commits: whatever became of a call, its purchase is
//! there.

use std::sync::Arc;

use crate::{
    audit::{Audit, Event},
    journal::{Committed, Journal},
    purchase::{Cause, Finality, Revision},
};

/// Tells the audit log of creates, adoptions and stops from now on. An operator's stop is told by the
/// call, which knows the operator.
pub(super) fn tell(journal: &dyn Journal, audit: Audit) {
    journal.observe_own(Arc::new(move |committed| {
        for (place, one) in committed.iter().enumerate() {
            if let Some(event) = event(one, committed.get(place + 1)) {
                audit.tell(event, &one.purchase, one.cause.as_str());
            }
        }
    }));
}

fn event(one: &Committed, next: Option<&Arc<Committed>>) -> Option<Event> {
    let status = &one.purchase.status;
    if status.revision == Revision(1) {
        // An adoption's first two revisions are one commit. A create's first is committed alone, before
        // its provider is asked.
        let is_adoption = next.is_some_and(|next| next.purchase.id == one.purchase.id);
        return Some(match is_adoption {
            true => Event::Adoption,
            false => Event::Create,
        });
    }
    let is_stop = status.finality == Finality::Final && one.cause == Cause::Deadline;
    is_stop.then_some(Event::Stop)
}
