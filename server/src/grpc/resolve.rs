//! An operator's decision about a purchase: checked, made, and told to the audit log.

use tillwatch_proto::v1 as message;

use super::{Asker, Service, convert, error::Failure, validate};
use crate::{
    audit::Event,
    intake::{Resolution, ResolveError},
    provider::Violation,
    purchase::{Cause, Revision},
};

impl Service {
    pub(super) async fn resolve(
        &self,
        asker: &Asker,
        request: message::ResolvePurchaseRequest,
    ) -> Result<message::ResolvePurchaseResponse, Failure> {
        use message::resolve_purchase_request::Resolution as Wanted;
        let mut violations = Vec::new();
        if request.expected_revision == 0 {
            violations.push(Violation::new(
                "expected_revision",
                "must be the newest revision",
            ));
        }
        let noted = |field: &str, note: &str, violations: &mut Vec<Violation>| {
            validate::note(field, note).unwrap_or_else(|violation| {
                violations.push(violation);
                String::new()
            })
        };
        let resolution = match request.resolution {
            None => {
                violations.push(Violation::new("resolution", "must have one of its fields"));
                None
            }
            Some(Wanted::Reference(reference)) => Some(Resolution::Reference(reference)),
            Some(Wanted::NotCreated(wanted)) => {
                let note = noted("not_created.note", &wanted.note, &mut violations);
                Some(Resolution::NotCreated(note))
            }
            Some(Wanted::StopTracking(wanted)) => {
                let note = noted("stop_tracking.note", &wanted.note, &mut violations);
                Some(Resolution::StopTracking(note))
            }
        };
        let resolution = match resolution {
            Some(resolution) if violations.is_empty() => resolution,
            _ => return Err(Failure::invalid(violations)),
        };
        let id = validate::purchase_id(&request.purchase_id)?;
        let record = self.record(&asker.caller, id).await?;
        let (event, reason) = match &resolution {
            Resolution::Reference(_) => (Event::Resolve, "REFERENCE"),
            Resolution::NotCreated(_) => (Event::Resolve, "NOT_CREATED"),
            Resolution::StopTracking(_) => (Event::Stop, Cause::Operator.as_str()),
        };
        let (audit, caller) = (&self.rooms.audit, asker.caller.name());
        let decision = audit.begin(event, caller, &record.purchase, reason);
        let expected = Revision(request.expected_revision);
        let purchase = match self.rooms.intake.resolve(id, expected, resolution).await {
            Ok(purchase) => purchase,
            Err(error) => {
                // A journal that fails may have committed all the same.
                if !matches!(error, ResolveError::Journal(_)) {
                    decision.refused();
                }
                return Err(error.into());
            }
        };
        decision.told();
        Ok(message::ResolvePurchaseResponse {
            purchase: Some(convert::purchase(&purchase, self.view(&asker.caller))),
        })
    }
}
