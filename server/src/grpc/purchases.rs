//! Lists and streams: a caller's views of its purchases.

use std::{sync::Arc, time::Duration};

use prost::Message as _;
use tillwatch_proto::v1 as message;
use tokio::time::Instant;

use super::{
    Asker, Service, as_of, convert,
    convert::View,
    error::{Failure, Reason},
    stream::{self, Permit, Responses},
    token::{self, Binding, PageCursor},
    validate,
};
use crate::{
    feed::{Event, FeedEvent, Rhythm},
    identity::{Caller, Scope},
    journal::{Filter, Listed, Position},
    provider::Violation,
    purchase::{Purchase, Revision},
};

/// The size at which a page ends early: clients of any language take 4 MiB by default, and a Masumi
/// purchase alone can have 8,000 bytes of reference.
const PAGE_BYTES_MAX: usize = 3 * 1024 * 1024;
/// The longest answer, in bytes: a page, the one purchase by which it may exceed its limit, and its
/// tokens.
pub const ANSWER_BYTES_MAX: usize = PAGE_BYTES_MAX + 128 * 1024;
/// The part of its maximum age by which a stream may end earlier: a fifth.
const AGE_JITTER: u32 = 5;

impl Service {
    /// The right of a caller to one more stream.
    pub(super) fn stream_of(&self, caller: &Caller) -> Result<Permit, Failure> {
        let most = (caller.limits().streams, self.bounds.get().streams);
        self.limits.open(caller.name(), most)
    }

    /// The rhythm of a new stream.
    fn rhythm(&self, heartbeat: Duration) -> Rhythm {
        let age = self.bounds.get().stream_age;
        let age = age.map(|age| age - self.rooms.clock.up_to(age / AGE_JITTER));
        Rhythm {
            heartbeat,
            ends_at: age.map(|age| Instant::now() + age),
        }
    }

    pub(super) async fn watch(
        &self,
        asker: &Asker,
        request: message::WatchStatusRequest,
    ) -> Result<Responses<message::WatchStatusResponse>, Failure> {
        let id = validate::purchase_id(&request.purchase_id)?;
        let invalid = |violation| Failure::invalid(vec![violation]);
        let until = validate::until(request.until).map_err(invalid)?;
        let beat = validate::heartbeat(request.heartbeat_interval.as_ref()).map_err(invalid)?;
        let permit = self.stream_of(&asker.caller)?;
        let cursor = request.after_revision.map(Revision);
        let rhythm = self.rhythm(beat);
        let opened = self.rooms.feed.watch(id, cursor, until, rhythm).await?;
        let Some((record, watch)) = opened else {
            return Err(Failure::not_found());
        };
        if !Self::sees(&asker.caller, &record.purchase) {
            return Err(Failure::not_found());
        }
        let newest = record.purchase.status.revision;
        if cursor.is_some_and(|cursor| cursor > newest) {
            return Err(Failure::ahead(newest));
        }
        let rooms = self.rooms.clone();
        let shows_caller = asker.caller.may(Scope::Operate);
        let mut purchase = record.purchase;
        // A stream holds the purchase for its life, which is longer than the life of a buyer action.
        Arc::make_mut(&mut purchase.status).buyer_action = None;
        let converted = move |event: Event| {
            use message::watch_status_response::Event as Sent;
            let view = View {
                shows_caller,
                shows_actions: true,
                now: rooms.clock.now(),
            };
            let event = match event {
                Event::Snapshot(status) => {
                    Sent::Snapshot(convert::status(&purchase, &status, view))
                }
                Event::Transition(step) => {
                    Sent::Transition(convert::transition(&purchase, &step, view))
                }
                Event::Heartbeat { revision } => Sent::Heartbeat(message::Heartbeat {
                    revision: revision.0,
                    server_time: Some(convert::timestamp(view.now)),
                    freshness: Some(convert::freshness(rooms.tracker.freshness(&purchase))),
                    as_of_time: Some(convert::timestamp(as_of(&rooms.feed))),
                }),
            };
            message::WatchStatusResponse { event: Some(event) }
        };
        Ok(stream::responses(
            watch,
            converted,
            asker.caller.clone(),
            asker.deadline,
            rhythm.ends_at,
            permit,
            self.rooms.clock.clone(),
        ))
    }

    /// The filter narrowed to the purchases that a caller sees.
    fn seen(caller: &Caller, filter: Filter) -> Filter {
        if caller.may(Scope::Operate) {
            // An operator sees every caller's; `narrowed` keeps only the accounts that it may use.
            return filter;
        }
        Filter {
            caller: Some(caller.name().clone()),
            ..filter
        }
    }

    /// Narrows an operator's view to the accounts that it may use, configured or not; `None` if
    /// nothing is left.
    fn narrowed(caller: &Caller, mut filter: Filter) -> Option<Filter> {
        let (None, Some(usable)) = (&filter.caller, caller.accounts()) else {
            return Some(filter);
        };
        let usable: Vec<String> = usable.iter().map(ToString::to_string).collect();
        filter.accounts = match filter.accounts.is_empty() {
            true => usable,
            false => filter
                .accounts
                .into_iter()
                .filter(|name| usable.contains(name))
                .collect(),
        };
        (!filter.accounts.is_empty()).then_some(filter)
    }

    pub(super) async fn list(
        &self,
        asker: &Asker,
        request: message::ListPurchasesRequest,
    ) -> Result<message::ListPurchasesResponse, Failure> {
        let invalid = |violation| Failure::invalid(vec![violation]);
        let size = validate::page_size(request.page_size).map_err(invalid)?;
        let filter = Self::seen(&asker.caller, validate::filter(request.filter.as_ref())?);
        let journal = &self.rooms.journal;
        let binding = Binding {
            epoch: journal.epoch(),
            caller: asker.caller.name().as_str(),
        };
        // The position is read before the first page: a later purchase is in the feed after it.
        let (after, position) = if request.page_token.is_empty() {
            (None, journal.head())
        } else {
            let rule =
                || Violation::new("page_token", "must be the next_page_token of the same list");
            let page = token::read_page(binding, &request.page_token)
                .filter(|page| page.is_of(&filter))
                .ok_or_else(|| invalid(rule()))?;
            (
                Some(page.last().ok_or_else(|| invalid(rule()))?),
                page.position(),
            )
        };
        let _turn = self
            .lists
            .begin(asker.caller.name(), asker.caller.limits().lists)?;
        let listed = match Self::narrowed(&asker.caller, filter.clone()) {
            Some(narrowed) => journal.list(&narrowed, after, size).await?,
            None => Listed::default(),
        };
        let view = View {
            shows_actions: false,
            ..self.view(&asker.caller)
        };
        let messages = page(&listed.purchases, view);
        let shown = listed.purchases.get(..messages.len()).unwrap_or_default();
        let next = match shown.last() {
            Some(last) if shown.len() < listed.purchases.len() => Some((last.create_time, last.id)),
            _ => listed.next,
        };
        let next_page_token = next.map_or_else(String::new, |next| {
            token::page(binding, &PageCursor::after(next, position, &filter))
        });
        Ok(message::ListPurchasesResponse {
            purchases: messages,
            next_page_token,
            resume_token: token::resume(binding, position),
        })
    }

    pub(super) async fn watch_all(
        &self,
        asker: &Asker,
        request: message::WatchPurchasesRequest,
    ) -> Result<Responses<message::WatchPurchasesResponse>, Failure> {
        let invalid = |violation| Failure::invalid(vec![violation]);
        let beat = validate::heartbeat(request.heartbeat_interval.as_ref()).map_err(invalid)?;
        let filter = Self::seen(&asker.caller, validate::filter(request.filter.as_ref())?);
        let after = self.feed_start(&asker.caller, &request).await?;
        let caller = asker.caller.name();
        let limits = asker.caller.limits();
        let permit = (
            self.feeds.open(caller, (limits.feeds, u32::MAX))?,
            self.stream_of(&asker.caller)?,
        );
        let filter = Self::narrowed(&asker.caller, filter).unwrap_or_else(|| Filter {
            // The filter admits nothing: no account has an empty name.
            accounts: vec![String::new()],
            ..Filter::default()
        });
        let rhythm = self.rhythm(beat);
        let watch = self.rooms.feed.watch_all(filter, after, rhythm);
        let rooms = self.rooms.clone();
        let caller = asker.caller.clone();
        let shows_caller = caller.may(Scope::Operate);
        let converted = move |(event, position): (FeedEvent, Position)| {
            use message::watch_purchases_response::Event as Sent;
            let view = View {
                shows_caller,
                shows_actions: false,
                now: rooms.clock.now(),
            };
            let binding = Binding {
                epoch: rooms.journal.epoch(),
                caller: caller.name().as_str(),
            };
            let event = match event {
                FeedEvent::Transition(committed) => {
                    Sent::Transition(convert::purchase_transition(&committed, view))
                }
                FeedEvent::Heartbeat => Sent::Heartbeat(message::FeedHeartbeat {
                    server_time: Some(convert::timestamp(view.now)),
                    as_of_time: Some(convert::timestamp(as_of(&rooms.feed))),
                }),
            };
            let resume_token = token::resume(binding, position);
            message::WatchPurchasesResponse {
                event: Some(event),
                resume_token,
            }
        };
        Ok(stream::responses(
            watch,
            converted,
            asker.caller.clone(),
            asker.deadline,
            rhythm.ends_at,
            permit,
            self.rooms.clock.clone(),
        ))
    }

    /// The position after which a stream of many purchases begins.
    async fn feed_start(
        &self,
        caller: &Caller,
        request: &message::WatchPurchasesRequest,
    ) -> Result<Position, Failure> {
        let journal = &self.rooms.journal;
        match (request.resume_token.as_str(), request.from_beginning) {
            ("", false) => Ok(journal.head()),
            ("", true) => Ok(Position(0)),
            (_, true) => Err(Failure::invalid_field(
                "from_beginning",
                "must be false if there is a resume_token",
            )),
            (text, false) => {
                let binding = Binding {
                    epoch: journal.epoch(),
                    caller: caller.name().as_str(),
                };
                let position = match token::read_resume(binding, text) {
                    Ok(position) => position,
                    // As after a restored backup: the token's transitions are not here.
                    Err(token::Unusable::OtherStore) => {
                        let problem = "the token is of another store";
                        return Err(Failure::new(Reason::ResumeTokenExpired, problem));
                    }
                    Err(token::Unusable::Foreign) => {
                        let rule = "must be the resume_token of an earlier message";
                        return Err(Failure::invalid_field("resume_token", rule));
                    }
                };
                let problem = match position {
                    _ if position < journal.floor().await? => {
                        "the position is older than all that the journal holds"
                    }
                    // Transitions that callers saw after a backup are not in the restored journal. If
                    // another replica has given the token, this one may not have heard of them yet: its
                    // stream begins there all the same, and goes on once they have passed.
                    _ if position > journal.head() && position > journal.newest().await? => {
                        "the position is newer than all that the journal holds"
                    }
                    _ => return Ok(position),
                };
                Err(Failure::new(Reason::ResumeTokenExpired, problem))
            }
        }
    }
}

/// The messages of a page: no more than fit, but at least one if there is one.
fn page(purchases: &[Purchase], view: View) -> Vec<message::Purchase> {
    let mut bytes = 0;
    let fits = |one: &message::Purchase| {
        let is_first = bytes == 0;
        bytes += one.encoded_len();
        is_first || bytes <= PAGE_BYTES_MAX
    };
    let messages = purchases.iter().map(|one| convert::purchase(one, view));
    messages.take_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        identity::{CallerLimits, Grant},
        purchase::{AccountName, CallerName, PurchaseId, Status, Timestamp},
    };

    #[test]
    fn a_page_ends_early_where_a_client_could_not_take_it() {
        let of = |bytes: usize| Purchase {
            id: PurchaseId::from_u128(1),
            account: AccountName::new("a"),
            provider: "masumi".into(),
            caller: CallerName::new("shop"),
            idempotency_key: "k".repeat(bytes).into(),
            labels: Arc::default(),
            create_time: Timestamp::default(),
            status: Status::pending(Timestamp::default()).into(),
        };
        let view = View {
            shows_caller: false,
            shows_actions: false,
            now: Timestamp::default(),
        };
        let count = |bytes| page(&vec![of(bytes); 1_000], view).len();
        assert_eq!(count(10), 1_000);
        let cut = count(9_000);
        assert!((330..350).contains(&cut), "{cut}");
        assert_eq!(count(PAGE_BYTES_MAX + 1), 1, "one fits always");
    }

    #[test]
    fn an_operator_sees_the_accounts_that_it_may_use_and_no_other() {
        let caller = |accounts: Option<&[&str]>| {
            let named = |names: &[&str]| names.iter().map(|name| AccountName::new(name)).collect();
            Caller::new(Grant {
                name: CallerName::new("desk"),
                scopes: [Scope::Operate].into(),
                accounts: accounts.map(named),
                limits: CallerLimits::default(),
            })
        };
        let check = |accounts: Option<&[&str]>, asked: &[&str], expected: Option<&[&str]>| {
            let caller = caller(accounts);
            let filter = Filter {
                accounts: asked.iter().map(ToString::to_string).collect(),
                ..Filter::default()
            };
            let narrowed = Service::narrowed(&caller, Service::seen(&caller, filter));
            let seen = narrowed.map(|filter| filter.accounts);
            let expected = expected.map(|names| names.iter().map(ToString::to_string).collect());
            assert_eq!(seen, expected, "{accounts:?} {asked:?}");
        };
        check(None, &[], Some(&[]));
        check(None, &["a"], Some(&["a"]));
        // The same holds if no other account is configured any more: its purchases still exist.
        check(Some(&["a", "b"]), &[], Some(&["a", "b"]));
        check(Some(&["a", "b"]), &["b", "c"], Some(&["b"]));
        check(Some(&["a", "b"]), &["c"], None);
    }
}
