//! The demo in this process, at a high speed, into a buffer.

use std::{
    collections::BTreeMap,
    future::pending,
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use tillwatch::proto::v1::PurchaseFilter;
use tokio_util::sync::CancellationToken;

use super::*;

/// A buffer that can be read while it is written to, and says when a text has come.
#[derive(Clone)]
struct Shared {
    bytes: Arc<Mutex<Vec<u8>>>,
    awaited: &'static str,
    came: CancellationToken,
}

impl Shared {
    fn awaiting(awaited: &'static str) -> Self {
        Self {
            bytes: Arc::default(),
            awaited,
            came: CancellationToken::new(),
        }
    }

    fn text(&self) -> String {
        String::from_utf8(self.bytes.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.text().contains(self.awaited) {
            self.came.cancel();
        }
        Ok(())
    }
}

fn options(scenario: Option<Scenario>) -> Options {
    Options {
        listen: vec!["127.0.0.1:0".to_owned()],
        speed: 20.0,
        scenario,
        replicas: None,
        keep: false,
        command: "tillwatch".to_owned(),
    }
}

/// Runs a demo to its end; what it ended with and what it showed.
async fn shown(options: &Options, color: bool) -> (Ended, String) {
    let mut buffer = Vec::new();
    let mut page = Page::new(&mut buffer, color);
    let ended = run(options, &mut page, pending()).await.unwrap();
    (ended, String::from_utf8(buffer).unwrap())
}

/// The revisions shown for each provider, in the order of their lines.
fn revisions(text: &str) -> BTreeMap<String, Vec<u32>> {
    let mut all: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let [provider, id, revision, ..] = words.as_slice()
            && id.starts_with('…')
        {
            let revisions = all.entry((*provider).to_owned()).or_default();
            revisions.push(revision.parse().unwrap());
        }
    }
    all
}

#[tokio::test]
async fn each_transition_is_shown_with_its_revision_until_all_five_have_ended() {
    let (ended, text) = shown(&options(None), false).await;
    assert_eq!(ended, Ended::Well, "{text}");
    assert!(!text.contains('\u{1b}'), "{text}");
    assert!(text.contains("Nothing was lost: 5 purchases"), "{text}");
    let revisions = revisions(&text);
    assert_eq!(revisions.len(), PROVIDERS.len(), "{text}");
    let (_, table) = text.split_once("requests").unwrap();
    for (provider, revisions) in revisions {
        let dense: Vec<u32> = (1..).take(revisions.len()).collect();
        assert_eq!(revisions, dense, "{provider}: {text}");
        let row = table.lines().find(|line| line.contains(&provider)).unwrap();
        let told: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(told[2], revisions.len().to_string(), "{row}");
        assert!(told[4].parse::<u64>().unwrap() > 1, "{row}");
        assert!(row.contains("PENDING → "), "{row}");
    }
    assert!(text.contains("REFUNDED"), "{text}");
    assert!(text.contains("↳ POST a form of"), "{text}");
}

#[tokio::test]
async fn what_fails_at_every_provider_is_no_loss() {
    let (ended, text) = shown(&options(Some(Scenario::Declined)), true).await;
    assert_eq!(ended, Ended::Well, "{text}");
    assert!(!text.contains("COMPLETED"), "{text}");
    assert!(text.contains('\u{1b}'), "{text}");
}

#[tokio::test]
async fn it_goes_on_serving_when_asked_to() {
    let mut shared = Shared::awaiting("WatchStatus");
    let read = shared.clone();
    let served = CancellationToken::new();
    let seen = served.clone();
    let stop = async move {
        read.came.cancelled().await;
        let text = read.text();
        let (_, rest) = text.split_once("server   ").unwrap();
        let address = rest.split_whitespace().next().unwrap();
        let client = Client::connect(Config::new(address)).unwrap();
        let mut pages = client.list(PurchaseFilter::default(), 0);
        let page = pages.next().await.unwrap().unwrap();
        assert_eq!(page.purchases.len(), PROVIDERS.len());
        seen.cancel();
        Stop::Interrupt
    };
    let options = Options {
        keep: true,
        ..options(Some(Scenario::Paid))
    };
    let mut page = Page::new(&mut shared, false);
    let ended = run(&options, &mut page, stop).await.unwrap();
    assert_eq!(ended, Ended::Well, "{}", shared.text());
    assert!(served.is_cancelled(), "it ended without being stopped");
    assert!(shared.text().contains("--after 0"), "{}", shared.text());
}

#[tokio::test]
async fn a_signal_ends_it_before_the_end() {
    let mut shared = Shared::awaiting("PENDING");
    let came = shared.came.clone();
    let stop = async move {
        came.cancelled().await;
        Stop::Interrupt
    };
    let mut page = Page::new(&mut shared, false);
    let options = Options {
        speed: 0.01,
        ..options(None)
    };
    let ended = run(&options, &mut page, stop).await.unwrap();
    assert_eq!(ended, Ended::Stopped(Stop::Interrupt));
    let text = shared.text();
    assert!(text.contains("Interrupted"), "{text}");
    assert!(!text.contains("requests"), "{text}");
    let (_, rest) = text.split_once("server   ").unwrap();
    let address = rest.split_whitespace().next().unwrap();
    assert!(std::net::TcpStream::connect(address).is_err());
}

#[tokio::test]
async fn whatever_is_lost_is_named() {
    let sandbox = Sandbox::start(tillwatch_sandbox::Options::default())
        .await
        .unwrap();
    let status = |revision, finality: Finality| PurchaseStatus {
        revision,
        finality: finality.into(),
        ..PurchaseStatus::default()
    };
    let check = |revisions: &[u32], finality, ended, expected: &str| {
        let mut purchase = Purchase::of("carbon");
        for revision in revisions {
            purchase.take(status(*revision, finality));
        }
        purchase.ended = ended;
        purchase.settle(&sandbox);
        let mut buffer = Vec::new();
        let mut page = Page::new(&mut buffer, false);
        page.table(&[purchase], Duration::ZERO).unwrap();
        let text = String::from_utf8(buffer).unwrap();
        assert!(
            text.contains(&format!("Lost: carbon: {expected}")),
            "{text}"
        );
        assert!(!text.contains("Nothing was lost"), "{text}");
    };
    let gap = "revision 3 came in place of 2";
    check(&[1, 3], Finality::Final, true, gap);
    let twice = "revision 1 came in place of 2";
    check(&[1, 1], Finality::Final, true, twice);
    let open = "its stream ended at revision 1, which is no end";
    check(&[1], Finality::Open, true, open);
    let slow = "its stream stands at revision 1";
    check(&[1], Finality::Open, false, slow);
    let count = "the provider has 0 purchases in place of 1";
    check(&[1], Finality::Final, true, count);
    sandbox.stop().await;
}

#[test]
fn exit_codes_tell_how_it_ended() {
    assert_eq!(Ended::Well.code(), 0);
    assert_eq!(Ended::Lost.code(), 1);
    assert_eq!(Ended::Stopped(Stop::Interrupt).code(), 130);
    assert_eq!(Ended::Stopped(Stop::Terminate).code(), 143);
}
