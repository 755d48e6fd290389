//! A base URL whose path leads nowhere. The server there answers 404, and callers and operators
//! hear of a wrong path, not of a purchase that is gone.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tillwatch::Refusal;
use tillwatch_proto::v1::{
    Account, AccountHealth, CreatePurchaseRequest, ListAccountsRequest, ProviderReference,
    PurchaseState, PurchaseStatus, RefreshStatusRequest, create_purchase_request::Order,
    get_status_request::Key,
};
use tillwatch_sandbox::{Fault, PROVIDERS, Scenario, Target};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tonic::Status;

use crate::{
    house::{House, Settings, account, refusal},
    orders::request,
    process::{until, within},
};

/// The words that every caller and operator reads.
const NOWHERE: &str = "the base URL leads nowhere";
/// Purchases of an account with a list: enough that the service reads the list.
const LISTED: usize = 4;
/// The answers behind wrong base URLs: of web servers, proxies and gateways, and of the providers'
/// own framework to a route that it does not have.
const PAGES: [(&str, &str); 7] = [
    (
        "text/html",
        "<html><body><h1>404 Not Found</h1></body></html>",
    ),
    ("text/plain", "404 page not found\n"),
    ("text/plain", ""),
    (
        "application/json",
        r#"{"message":"no Route matched with those values"}"#,
    ),
    (
        "application/json",
        r#"{"statusCode":404,"message":"Cannot GET /v1/x","error":"Not Found"}"#,
    ),
    (
        "application/json",
        r#"{"code":404,"message":"Resource not found"}"#,
    ),
    (
        "application/json",
        r#"{"error":{"code":"404","message":"The page could not be found"}}"#,
    ),
];

/// A server without any page.
struct Nothing {
    address: SocketAddr,
    page: Arc<Mutex<(&'static str, &'static str)>>,
}

impl Nothing {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let page = Arc::new(Mutex::new(PAGES[0]));
        let shown = Arc::clone(&page);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&shown)));
            }
        });
        Self { address, page }
    }

    fn shows(&self, page: (&'static str, &'static str)) {
        *self.page.lock().unwrap() = page;
    }
}

async fn answer(mut stream: TcpStream, page: Arc<Mutex<(&'static str, &'static str)>>) {
    let mut heard = Vec::new();
    let mut part = [0; 4096];
    loop {
        match stream.read(&mut part).await {
            Ok(read @ 1..) => heard.extend_from_slice(&part[..read]),
            _ => return,
        }
        if is_whole(&heard) {
            break;
        }
    }
    let (kind, body) = *page.lock().unwrap();
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 404 Not Found\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    );
    let _ = stream.write_all(answer.as_bytes()).await;
}

/// True if a request has arrived with all of its body.
fn is_whole(heard: &[u8]) -> bool {
    let text = String::from_utf8_lossy(heard).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    length.is_none_or(|length| body.len() >= length.parse().unwrap())
}

async fn accounts(house: &House) -> Vec<Account> {
    let mut desk = house.stub("desk").await;
    let answer = desk.list_accounts(ListAccountsRequest {}).await.unwrap();
    answer.into_inner().accounts
}

/// A figure of the server's metrics.
async fn figure(house: &House, labels: &str) -> f64 {
    let text = house.metrics().await;
    let line = text.lines().find_map(|line| line.strip_prefix(labels));
    line.map_or(0.0, |figure| figure.trim().parse().unwrap())
}

/// A house whose providers' base URLs lead nowhere now, with purchases from before.
struct Moved {
    house: House,
    nothing: Nothing,
    /// Provider, id, state and reference of purchases that are open.
    known: Vec<(&'static str, String, PurchaseState, ProviderReference)>,
    /// Provider and id of purchases whose create is unclear.
    unclear: Vec<(&'static str, String)>,
}

impl Moved {
    async fn start() -> Self {
        let mut house = House::start(Settings::default().swept()).await;
        house.sandbox.pause();
        let mut known = Vec::new();
        for provider in PROVIDERS {
            for number in 0..LISTED {
                let order = request(&format!("{provider}-{number}"), provider, Scenario::Stuck);
                let id = house.create("shop", order).await.id;
                let status = house
                    .settled("a reference", &id, |status| status.reference.is_some())
                    .await;
                known.push((provider, id, status.state(), status.reference.unwrap()));
            }
        }
        let mut unclear = Vec::new();
        for provider in ["masumi", "inabit"] {
            let sandbox = &house.sandbox;
            sandbox.fault_on(provider, Target::Create, Fault::ResetBefore, 1);
            let order = request(&format!("unclear-{provider}"), provider, Scenario::Stuck);
            unclear.push((provider, house.create("shop", order).await.id));
        }
        let nothing = Nothing::start().await;
        house.server.kill().await;
        house.settings.front = Some(nothing.address);
        house.restart().await;
        let mut moved = Self {
            house,
            nothing,
            known: Vec::new(),
            unclear,
        };
        // Until the house moved, a poll may have brought news.
        for (_, id, state, _) in &mut known {
            *state = moved.status(id).await.state();
        }
        moved.known = known;
        moved
    }

    /// One of each provider's purchases.
    fn firsts(
        &self,
    ) -> impl Iterator<Item = &(&'static str, String, PurchaseState, ProviderReference)> {
        self.known.iter().step_by(LISTED)
    }

    /// The refusal of a refresh that has asked the provider: none asks within 100 ms of a poll.
    async fn refresh(&self, id: &str) -> Refusal {
        let mut shop = self.house.stub("shop").await;
        let refused: Result<(), Status> = within("a refresh that asks", async {
            loop {
                let purchase_id = id.to_owned();
                shop.refresh_status(RefreshStatusRequest { purchase_id })
                    .await?;
            }
        })
        .await;
        refusal(refused)
    }

    async fn status(&self, id: &str) -> PurchaseStatus {
        let client = self.house.client("shop");
        let answer = client.get(Key::PurchaseId(id.to_owned())).await.unwrap();
        answer.purchase.unwrap().status.unwrap()
    }
}

/// Asserts that a refusal tells of a base URL that leads nowhere.
fn is_nowhere(refused: &Refusal, case: &str) {
    assert_eq!(
        refused.reason, "PROVIDER_UNREACHABLE",
        "{case}: {refused:?}"
    );
    assert!(refused.message.contains(NOWHERE), "{case}: {refused:?}");
}

/// The labels of a provider's account in metrics.
fn labels(provider: &str) -> String {
    format!("account=\"{}\",provider=\"{provider}\"", account(provider))
}

#[tokio::test]
async fn a_read_and_a_look_up_that_lead_nowhere_say_so_and_nothing_about_the_purchase() {
    let moved = Moved::start().await;
    let firsts = moved.firsts().map(|(provider, id, ..)| (*provider, id));
    let unclear = moved.unclear.iter().map(|(provider, id)| (*provider, id));
    let asked: Vec<_> = firsts.chain(unclear).collect();
    for page in PAGES {
        moved.nothing.shows(page);
        for (provider, id) in &asked {
            let refused = moved.refresh(id).await;
            is_nowhere(&refused, &format!("{provider} {page:?}"));
        }
    }
    for (provider, id, state, _) in &moved.known {
        let status = moved.status(id).await;
        assert_eq!(status.state(), *state, "{provider}");
        assert_eq!(status.attention, None, "{provider}: nothing is known of it");
    }
    for provider in PROVIDERS {
        until("the account's note says so", async || {
            let accounts = accounts(&moved.house).await;
            let found = accounts.iter().find(|one| one.provider == provider);
            let found = found.unwrap();
            found.health() == AccountHealth::Degraded && found.note.contains(NOWHERE)
        })
        .await;
        let counted = format!("tillwatch_nowhere_answers_total{{{}}}", labels(provider));
        assert!(figure(&moved.house, &counted).await >= 1.0, "{provider}");
    }
    for provider in ["masumi", "inabit"] {
        let of = labels(provider);
        let pages = format!(
            "tillwatch_upstream_requests_total{{{of},class=\"sweep\",outcome=\"refused\"}}"
        );
        until("the service reads a page of a list", async || {
            figure(&moved.house, &pages).await >= 1.0
        })
        .await;
    }
}

#[tokio::test]
async fn a_create_that_leads_nowhere_is_not_sent_and_its_caller_and_operators_read_why() {
    let mut house = House::still().await;
    let nothing = Nothing::start().await;
    house.server.kill().await;
    house.settings.front = Some(nothing.address);
    house.restart().await;
    for (number, page) in PAGES.into_iter().enumerate() {
        nothing.shows(page);
        for provider in PROVIDERS {
            let case = format!("{provider} {page:?}");
            let order = request(&format!("{provider}-{number}"), provider, Scenario::Stuck);
            let refused = house.refused("shop", order).await;
            is_nowhere(&refused, &case);
            let key = Key::PurchaseId(refused.purchase_id.expect("a purchase that waits"));
            let waits = house.client("shop").get(key).await.unwrap();
            let waits = waits.purchase.unwrap().status.unwrap();
            assert_eq!(waits.state(), PurchaseState::Pending, "{case}");
            assert_eq!(waits.attention.unwrap().reason, "REPEAT_WANTED", "{case}");
        }
        for found in accounts(&house).await {
            assert_eq!(found.health(), AccountHealth::Degraded, "{found:?}");
            assert!(found.note.contains(NOWHERE), "{found:?}");
        }
    }
    for provider in PROVIDERS {
        let counted = format!("tillwatch_nowhere_answers_total{{{}}}", labels(provider));
        assert!(figure(&house, &counted).await >= 7.0, "{provider}");
    }
}

#[tokio::test]
async fn an_adoption_that_leads_nowhere_does_not_say_that_the_reference_is_unknown() {
    let mut moved = Moved::start().await;
    moved.house.server.kill().await;
    moved.house.forget();
    moved.house.restart().await;
    for (provider, _, _, reference) in moved.firsts() {
        for page in PAGES {
            moved.nothing.shows(page);
            let existing = CreatePurchaseRequest {
                order: Some(Order::Existing(reference.clone())),
                ..request(&format!("existing-{provider}"), provider, Scenario::Stuck)
            };
            let refused = moved.house.refused("shop", existing).await;
            is_nowhere(&refused, &format!("{provider} {page:?}"));
        }
    }
}
