//! A purchase that exists at the provider already: read once, then tracked.

use std::sync::Arc;

use tillwatch_proto::v1::ProviderReference;

use super::{CreateError, Created, Inner, NewPurchase};
use crate::{
    account::{Class, Unheard},
    journal::{Binding, Write, Written},
    lifecycle,
    observation::Observation,
    purchase::{Cause, Finality, PurchaseId, Reference},
    trace::Place,
};

impl Inner {
    /// Takes over what a reference names. Nothing is written before the provider has answered.
    pub(super) async fn adopt(
        self: &Arc<Self>,
        new: &NewPurchase,
        message: &ProviderReference,
    ) -> Result<Created, CreateError> {
        // Its shape was checked before; a reference that cannot be read is one nobody has.
        let reference = (new.settings.provider.reference(message))
            .map_err(|_| CreateError::ReferenceUnknown)?;
        let known = self
            .journal
            .purchase_by_reference(&new.account.name, &reference)
            .await?;
        if let Some(known) = known {
            return self.adopted_before(new, known).await;
        }
        if self.tasks.is_closed() {
            return Err(CreateError::Draining { purchase: None });
        }
        let mut observation = self.first_read(new, &reference).await?;
        observation.reference = Some(reference);
        self.track(new, &observation).await
    }

    /// The reference is tracked. Its caller gets the purchase back, and the key names it from then on.
    async fn adopted_before(
        self: &Arc<Self>,
        new: &NewPurchase,
        known: PurchaseId,
    ) -> Result<Created, CreateError> {
        let record = self.journal.record(known).await?;
        let record = record.ok_or(CreateError::Journal { purchase: None })?;
        if record.purchase.caller != new.caller {
            return Err(CreateError::ReferenceTaken);
        }
        let binding = Binding {
            caller: new.caller.clone(),
            key: Arc::from(new.key.as_str()),
            purchase: known,
            fingerprints: self.fingerprints(new)?,
            bind_time: self.clock.now(),
        };
        match self.journal.write(Write::Bind(Box::new(binding))).await? {
            Written::Done => Ok(Created {
                purchase: record.purchase,
                replayed: true,
            }),
            Written::KeyTaken(other) => self.answer_known(*other, new).await,
            // Retention has taken the purchase in between.
            Written::Stale(_) | Written::ReferenceTaken(_) | Written::Fenced => {
                Err(CreateError::Journal { purchase: None })
            }
        }
    }

    async fn first_read(
        &self,
        new: &NewPurchase,
        reference: &Reference,
    ) -> Result<Box<Observation>, CreateError> {
        let account = &new.account;
        let unheard = |why| CreateError::Unheard {
            why,
            purchase: None,
        };
        let deadline = self.admission_deadline(new);
        let admitted = account.admit_for(Class::Adopt, &new.caller, deadline).await;
        let mut admission = admitted.map_err(|refusal| unheard(Unheard::Refused(refusal)))?;
        match account.read_status(&mut admission, reference).await.said {
            Ok(Some(observation)) => Ok(observation),
            Ok(None) => Err(CreateError::ReferenceUnknown),
            Err(trouble) => Err(unheard(account.unheard(trouble))),
        }
    }

    /// Commits revisions 1 and 2 together.
    async fn track(
        self: &Arc<Self>,
        new: &NewPurchase,
        observation: &Observation,
    ) -> Result<Created, CreateError> {
        let now = self.clock.now();
        let first = lifecycle::begun(now);
        let graph = new.settings.provider.graph();
        let second = lifecycle::observed(&first.status, observation, graph, Cause::Poll, now)
            .ok_or(CreateError::Journal { purchase: None })?;
        let id = self.clock.purchase_id();
        let record = self.record(
            new,
            id,
            &second.status,
            now,
            std::collections::BTreeMap::new(),
        )?;
        let purchase = record.purchase.clone();
        let begin = Write::Begin {
            record: Box::new(record),
            transitions: vec![first, second],
        };
        match self.journal.write(begin).await? {
            Written::Done => {
                if purchase.status.finality != Finality::Final {
                    self.creates.created(id, Place::current());
                }
                Ok(Created {
                    purchase,
                    replayed: false,
                })
            }
            Written::KeyTaken(known) => self.answer_known(*known, new).await,
            Written::ReferenceTaken(known) => self.adopted_before(new, known).await,
            Written::Stale(_) | Written::Fenced => Err(CreateError::Journal { purchase: None }),
        }
    }
}
