//! The status table of `docs/PROVIDERS.md` as the expectation of every registered provider.
//!
//! Each word of each cell is put into an answer in its provider's shape, read by the provider, and
//! has to come out as its row says. A word that no provider maps, or that this file cannot put into
//! an answer, fails.

use std::{fs, path::PathBuf, sync::Arc};

use serde_json::{Value, json};
use tillwatch_proto::v1::{ProviderReference, create_purchase_request::Order};

use super::{fixture, reading, samples};
use crate::{
    observation::{Answer, Observation, Standing, Submitted},
    provider::{self, Provider, REGISTRY, Recovery},
    purchase::{AttentionReason, Finality, State},
    upstream::Response,
};

/// Phygitals' cells of delivered pieces.
const WHOLE: &str = "`nfts` with an identifier in each piece, no `status` beside them, and as many as \
                     pulled, if that is known";
const PARTIAL: &str = "`nfts` with identifiers, but fewer than pulled";

/// The cells of the table, without the line below its head.
fn table() -> Vec<Vec<String>> {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "docs", "PROVIDERS.md"]
        .iter()
        .collect();
    let text = fs::read_to_string(path).unwrap();
    let lines = text
        .lines()
        .skip_while(|line| !line.starts_with("| | Phygitals"));
    let rows = lines.take_while(|line| line.starts_with('|'));
    let cells = |line: &str| -> Vec<String> {
        let line = line.trim_start_matches('|').trim_end_matches('|');
        line.split('|').map(|cell| cell.trim().to_owned()).collect()
    };
    rows.filter(|line| !line.starts_with("|---"))
        .map(cells)
        .collect()
}

/// A row's state and finality, and whether it calls for a person.
fn row_head(head: &str) -> (State, Finality, bool) {
    let (head, attention) = match head.strip_suffix(", attention") {
        Some(head) => (head, true),
        None => (head, false),
    };
    let (state, finality) = head.split_once(" · ").unwrap();
    (
        State::from_text(state).unwrap_or_else(|| panic!("no state {state:?}")),
        Finality::from_text(finality).unwrap_or_else(|| panic!("no finality {finality:?}")),
        attention,
    )
}

/// A provider's sample purchase: what its fixtures are about.
pub(super) struct Sample {
    pub(super) name: &'static str,
    provider: Arc<dyn Provider>,
    order: Order,
    reference: ProviderReference,
}

impl Sample {
    fn new(name: &'static str, provider: Arc<dyn Provider>) -> Self {
        let order = samples::orders(name).remove(0);
        let reference = samples::reference(name);
        Self {
            name,
            provider,
            order,
            reference,
        }
    }

    /// The samples of all registered providers.
    pub(super) fn all() -> Vec<Self> {
        registered()
            .into_iter()
            .map(|(name, provider)| Self::new(name, provider))
            .collect()
    }

    /// The provider's reading of a status answer.
    pub(super) fn read(&self, answer: &Response) -> Answer {
        let reference = self.provider.reference(&self.reference).unwrap();
        self.provider
            .read_status(&reference, answer, fixture::now())
    }

    fn status(&self, answer: &Response) -> Observation {
        reading::observed(self.read(answer))
    }

    /// The provider's reading of a status fixture after a change of its body.
    fn changed(&self, file: &str, change: impl FnOnce(&mut Value)) -> Observation {
        let mut answer = fixture::answer(self.name, file);
        let mut body = answer.json().unwrap();
        change(&mut body);
        answer.body = body.to_string().into();
        self.status(&answer)
    }

    /// The provider's reading of a create's answer.
    pub(super) fn submitted(&self, answer: &Response) -> Submitted {
        let (order, provider) = (&self.order, &self.provider);
        let key = uuid::Uuid::from_u128(1);
        let placed = provider.order(order).unwrap();
        let recovery = placed.recovery(fixture::purchase(), key);
        let intent = fixture::intent_with(&recovery, &|_, _| true);
        placed.read(&intent, answer, fixture::now())
    }

    fn created(&self, file: &str) -> Observation {
        reading::accepted(self.submitted(&fixture::answer(self.name, file)))
    }

    /// All observations that a cell stands for, each with its words as the table has them.
    fn observations(&self, cell: &str) -> Vec<(String, Observation)> {
        if self.name == "phygitals" {
            return self.of_phygitals(cell);
        }
        let mut observations = Vec::new();
        for group in cell.split("; ") {
            let (words, sent) = match (
                group.strip_suffix(" without `transactionHash`"),
                group.strip_suffix(" with `transactionHash`"),
            ) {
                (Some(words), _) => (words, Some(false)),
                (_, Some(words)) => (words, Some(true)),
                _ => (group, None),
            };
            for word in words.split(", ") {
                let bare = word.trim_end_matches(" (attention)");
                let observation = match self.name {
                    "masumi" => self.of_masumi(bare),
                    "inabit" => self.of_inabit(bare),
                    "carbon" => self.of_carbon(bare, sent),
                    "devdraft" => self.of_devdraft(bare),
                    name => panic!("{name} has no samples"),
                };
                // An end that only a deadline makes has no word to send; its provider tests it.
                if let Some(observation) = observation {
                    observations.push((word.to_owned(), observation));
                }
            }
        }
        observations
    }

    fn of_phygitals(&self, cell: &str) -> Vec<(String, Observation)> {
        let files: &[&str] = match cell {
            "no `nfts` yet, in each shape" => {
                &["status_pending_toplevel", "status_pending_empty_nfts"]
            }
            WHOLE | PARTIAL => &["status_fulfilled"],
            "400 \"Transaction failed\"" => &["status_error_400_failed"],
            _ => panic!("phygitals has no sample of {cell:?}"),
        };
        // The fixture has one piece.
        let pulls = if cell == PARTIAL { "2" } else { "1" };
        let recovery = Recovery::from([("pulls".to_owned(), pulls.to_owned())]);
        let read = |file: &&str| {
            let mut observation = self.changed(file, |_| ());
            self.provider.compare(&recovery, &mut observation);
            (cell.to_owned(), observation)
        };
        let mut observations: Vec<_> = files.iter().map(read).collect();
        if files.len() == 2 {
            let absent = self.changed("status_pending_empty_nfts", |body| {
                body["result"].as_object_mut().unwrap().remove("nfts");
            });
            let created = self.created("create_response_pending");
            observations
                .extend([absent, created].map(|observation| (cell.to_owned(), observation)));
        } else if cell == WHOLE {
            let created = self.created("create_response_fulfilled");
            observations.push((cell.to_owned(), created));
        }
        observations
    }

    fn of_masumi(&self, word: &str) -> Option<Observation> {
        if word == "see below" {
            return None;
        }
        if word == "or with any other action and an errorType" {
            return Some(self.changed("status_funds_locking_requested", |body| {
                body["data"]["NextAction"]["requestedAction"] = json!("WaitingForExternalAction");
                body["data"]["NextAction"]["errorType"] = json!("Unknown");
            }));
        }
        if let Some(action) = word.strip_prefix("null with ") {
            let file = "status_funds_locking_requested";
            return Some(self.changed(file, |body| {
                body["data"]["NextAction"]["requestedAction"] = json!(action);
            }));
        }
        Some(self.changed("status_funds_locked", |body| {
            body["data"]["onChainState"] = json!(word);
            body["data"]["CurrentTransaction"]["newOnChainState"] = json!(word);
            body["data"]["NextAction"]["requestedAction"] = json!("None");
        }))
    }

    fn of_inabit(&self, word: &str) -> Option<Observation> {
        if word == "accepted create (no word)" {
            return Some(self.created("create_response_201"));
        }
        Some(self.changed("status_allocated", |body| {
            body["data"]["status"] = json!(word);
        }))
    }

    fn of_carbon(&self, word: &str, sent: Option<bool>) -> Option<Observation> {
        if word == "accepted create (no word)" {
            return Some(self.created("create_response_3ds_enrolled"));
        }
        Some(self.changed("status_100_settled", |body| {
            body["details"]["status"] = json!(word);
            if sent == Some(false) {
                body["details"]["transactionHash"] = Value::Null;
            }
        }))
    }

    fn of_devdraft(&self, word: &str) -> Option<Observation> {
        if word == "`state: pending`" {
            return Some(self.created("create_response_201"));
        }
        Some(self.changed("status_awaiting_funds", |body| {
            body["status"] = json!(word);
        }))
    }
}

/// The registered providers with all their secrets.
fn registered() -> Vec<(&'static str, Arc<dyn Provider>)> {
    let secrets = |names: &'static [&'static str]| -> Vec<(&str, &str)> {
        names.iter().map(|name| (*name, "TESTONLY")).collect()
    };
    REGISTRY
        .iter()
        .map(|row| (row.name, fixture::build(row, &secrets(row.secrets))))
        .collect()
}

#[test]
fn each_word_of_the_table_is_mapped_as_its_row_says() {
    let table = table();
    let (head, rows) = table.split_first().unwrap();
    for (name, provider) in registered() {
        let place = head
            .iter()
            .position(|cell| cell.to_lowercase().split(' ').next() == Some(name))
            .unwrap_or_else(|| panic!("{name} has no column"));
        let sample = Sample::new(name, provider);
        let mut words = 0;
        for row in rows {
            assert_eq!(row.len(), head.len(), "{row:?}");
            let (state, finality, attention) = row_head(&row[0]);
            if row[place].is_empty() {
                continue;
            }
            for (word, observation) in sample.observations(&row[place]) {
                let what = format!("{name}: {word} in {}", row[0]);
                assert_eq!(
                    observation.standing,
                    Standing::Mapped(state, finality),
                    "{what}"
                );
                let wanted = (attention || word.ends_with(" (attention)"))
                    .then_some(AttentionReason::ProviderManualAction);
                assert_eq!(observation.attention, wanted, "{what}");
                let failed = matches!(
                    state,
                    State::Failed | State::Expired | State::Canceled | State::Returned
                );
                assert_eq!(observation.failure.is_some(), failed, "{what}");
                words += 1;
            }
        }
        assert!(words > 0, "{name} has no word in the table");
    }
}

#[test]
fn each_word_of_a_graph_stands_in_the_table() {
    let table = table();
    let (head, rows) = table.split_first().unwrap();
    for (name, provider) in registered() {
        // The words of these two stand in their column one by one, so that none can be missed.
        if !["inabit", "carbon"].contains(&name) {
            continue;
        }
        let place = head
            .iter()
            .position(|cell| cell.to_lowercase() == name)
            .unwrap();
        let column: Vec<&str> = rows
            .iter()
            .flat_map(|row| row[place].split([';', ',', ' ']))
            .collect();
        let steps = provider.graph().steps.iter();
        for word in steps.flat_map(|(from, to)| to.iter().chain([from])) {
            assert!(column.contains(word), "{name}: {word} is in no row");
        }
    }
}

#[test]
#[should_panic(expected = "assertion `left == right` failed")]
fn a_word_without_a_mapping_is_found() {
    let (name, provider) = registered()
        .into_iter()
        .find(|(name, _)| *name == "inabit")
        .unwrap();
    let read = Sample::new(name, provider).observations("Allocated, Conjured");
    for (word, observation) in read {
        assert_eq!(
            observation.standing,
            Standing::Mapped(State::AwaitingPayment, Finality::Open),
            "{word}"
        );
    }
}

#[test]
fn the_registry_keeps_the_tables_order() {
    let table = table();
    let column = |name: &str| {
        let is_its = |cell: &String| cell.to_lowercase().starts_with(name);
        table[0].iter().position(is_its)
    };
    let columns: Vec<_> = REGISTRY.iter().map(|row| column(row.name)).collect();
    assert!(columns.iter().all(Option::is_some));
    assert!(columns.is_sorted());
    for row in REGISTRY {
        assert_eq!(provider::registered(row.name).unwrap().name, row.name);
    }
}
