//! The record of everything that reached the sandbox.
//! It holds neither bodies nor credentials, and a bounded number of requests.

use std::{
    collections::{BTreeMap, VecDeque},
    time::SystemTime,
};

/// The most bytes of a path or a query that are kept.
const TEXT_MAX: usize = 2048;

/// One request that reached the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedRequest {
    /// The provider's name.
    pub provider: &'static str,
    /// The HTTP method.
    pub method: String,
    /// The path below the provider's base URL.
    pub path: String,
    /// The query as sent, without the question mark; empty if there is none.
    pub query: String,
    /// The `idempotency-key` header, if it was sent.
    pub idempotency_key: Option<String>,
    /// The reference of the purchase that this request created, if it created one.
    pub created: Option<String>,
    /// The HTTP status answered; none while under way, and if no answer was given.
    pub status: Option<u16>,
    /// The time of its arrival.
    pub at: SystemTime,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    calls: u64,
    created: u64,
}

/// The requests so far, the oldest dropped first, and counters of all of them.
#[derive(Debug)]
pub(crate) struct Record {
    first: u64,
    requests: VecDeque<RecordedRequest>,
    requests_max: usize,
    counts: BTreeMap<&'static str, Count>,
}

impl Record {
    pub(crate) fn new(requests_max: usize) -> Self {
        Self {
            first: 0,
            requests: VecDeque::new(),
            requests_max,
            counts: BTreeMap::new(),
        }
    }

    /// Notes an arrival and returns its number.
    pub(crate) fn arrived(&mut self, mut request: RecordedRequest) -> u64 {
        self.counts.entry(request.provider).or_default().calls += 1;
        cut(&mut request.path);
        cut(&mut request.query);
        let number = self.first + self.requests.len() as u64;
        self.requests.push_back(request);
        while self.requests.len() > self.requests_max {
            self.requests.pop_front();
            self.first += 1;
        }
        number
    }

    /// Notes a purchase that a request has created.
    pub(crate) fn created(&mut self, provider: &'static str, number: u64, reference: &str) {
        self.counts.entry(provider).or_default().created += 1;
        if let Some(request) = self.find(number) {
            request.created = Some(reference.to_owned());
        }
    }

    /// Notes the answer to a request.
    pub(crate) fn answered(&mut self, number: u64, status: u16) {
        if let Some(request) = self.find(number) {
            request.status = Some(status);
        }
    }

    pub(crate) fn all(&self) -> Vec<RecordedRequest> {
        self.requests.iter().cloned().collect()
    }

    pub(crate) fn calls(&self, provider: &str) -> u64 {
        self.counts.get(provider).map_or(0, |count| count.calls)
    }

    pub(crate) fn created_count(&self, provider: &str) -> u64 {
        self.counts.get(provider).map_or(0, |count| count.created)
    }

    fn find(&mut self, number: u64) -> Option<&mut RecordedRequest> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.requests.get_mut(index)
    }
}

fn cut(text: &mut String) {
    if text.len() > TEXT_MAX {
        let end = (0..=TEXT_MAX)
            .rev()
            .find(|place| text.is_char_boundary(*place))
            .unwrap_or(0);
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_drops_the_oldest_and_counts_all() {
        let mut record = Record::new(2);
        for path in ["/1", "/2", "/3"] {
            let request = RecordedRequest {
                provider: "carbon",
                method: "GET".to_owned(),
                path: path.to_owned(),
                query: String::new(),
                idempotency_key: None,
                created: None,
                status: None,
                at: SystemTime::now(),
            };
            let number = record.arrived(request);
            record.created("carbon", number, "r");
            record.answered(number, 200);
        }
        record.answered(0, 500);
        let paths: Vec<_> = record
            .all()
            .into_iter()
            .map(|request| (request.path, request.status))
            .collect();
        assert_eq!(
            paths,
            [("/2".to_owned(), Some(200)), ("/3".to_owned(), Some(200))]
        );
        assert_eq!(record.calls("carbon"), 3);
        assert_eq!(record.created_count("carbon"), 3);
    }
}
