//! Open streams while certificates, authorities, tokens, secrets, accounts and limits are renewed.
//!
//! Half of the connections show a token, half a certificate. After each renewal has taken effect, the
//! provider has news of every purchase, and every stream has to hear of it once, in order.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tillwatch_proto::v1::{
    WatchPurchasesRequest, WatchStatusRequest, WatchUntil, watch_status_response::Event,
};
use tokio::task::JoinSet;
use tonic::{Code, Streaming};

use crate::{
    Failure,
    authority::Authority,
    caller::{SERVER_NAME, Stub, Way, adopt},
    server::{Folder, Server},
    settings::{ACCOUNT, NAME, Settings, TOKEN},
    table::Table,
    upstream::{Upstream, on_this_thread},
};

const STREAMS_PER_CONNECTION: usize = 500;
const PURCHASES: usize = 100;
/// The longest wait for a renewal, and for its news.
const PATIENCE: Duration = Duration::from_secs(90);
/// The interval of looks at a condition.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const NEW_TOKEN: &str = "the next token of a benchmark's load";
const SECOND: &str = "second";

/// The renewals, each with the provider's word after it. The words follow each other at Devdraft.
const RENEWALS: [(Renewal, &str); 6] = [
    (Renewal::Certificate, "FUNDS_RECEIVED"),
    (Renewal::ClientAuthority, "IN_REVIEW"),
    (Renewal::Token, "PAYMENT_SUBMITTED"),
    (Renewal::Secret, "PAYMENT_PROCESSED"),
    (Renewal::Account, "REFUND_IN_FLIGHT"),
    (Renewal::Limit, "REFUNDED"),
];

#[derive(Debug, Clone, Copy)]
enum Renewal {
    Certificate,
    ClientAuthority,
    Token,
    Secret,
    Account,
    Limit,
}

/// The news that all streams have heard, counted together.
#[derive(Debug, Default)]
struct Heard {
    /// Revisions that came next after the one before.
    in_order: AtomicUsize,
    /// Revisions that did not.
    out_of_order: AtomicUsize,
    /// Streams that ended.
    ended: AtomicUsize,
}

/// The house under renewal.
struct House {
    folder: Folder,
    server: Server,
    upstream: Upstream,
    settings: Settings,
    authority: Authority,
    way: Way,
    mutual: Way,
}

/// The table.
///
/// # Errors
/// A server does not start, or a renewal does not take effect within 90 s.
pub fn table(streams: usize) -> Result<Table, Failure> {
    on_this_thread(run(streams))?
}

async fn run(streams: usize) -> Result<Table, Failure> {
    let mut house = House::open().await?;
    let mut stub = house.way.stub(house.server.address).await?;
    let mut purchases = Vec::new();
    for number in 0..u32::try_from(PURCHASES)? {
        purchases.push(adopt(&mut stub, ACCOUNT, number).await?);
    }
    let heard = Arc::new(Heard::default());
    let mut watching = JoinSet::new();
    house
        .watch(streams, &purchases, &heard, &mut watching)
        .await?;
    // Adopted: revision 1 and the provider's first word.
    let mut revisions = 2;
    heard.reaches(streams * revisions).await?;

    let title = format!("{streams} open streams of {PURCHASES} purchases during renewals");
    let columns = ["renewed", "after", "open", "lost", "not in order"];
    let mut table = Table::new(&title, &columns);
    for (renewal, word) in RENEWALS {
        let began = Instant::now();
        house.renew(renewal).await?;
        let after = began.elapsed();
        house.upstream.tell(word);
        revisions += 1;
        let due = streams * revisions;
        let _ = heard.reaches(due).await;
        let cells = [
            format!("{:.1} s", after.as_secs_f64()),
            (streams - heard.ended.load(Ordering::Relaxed)).to_string(),
            (due - heard.in_order.load(Ordering::Relaxed)).to_string(),
            heard.out_of_order.load(Ordering::Relaxed).to_string(),
        ];
        table.row(&format!("{renewal:?}"), cells);
    }
    Ok(table)
}

impl Heard {
    async fn reaches(&self, count: usize) -> Result<(), Failure> {
        let is_there = async || Ok(self.in_order.load(Ordering::Relaxed) >= count);
        until("news on all streams", is_there).await
    }

    /// Follows a stream to its end.
    async fn follow(
        self: Arc<Self>,
        mut stream: Streaming<tillwatch_proto::v1::WatchStatusResponse>,
    ) {
        let mut last = 0;
        while let Ok(Some(message)) = stream.message().await {
            let Some(Event::Transition(transition)) = message.event else {
                continue;
            };
            let revision = transition.status.map_or(0, |status| status.revision);
            let counter = if revision == last + 1 {
                &self.in_order
            } else {
                &self.out_of_order
            };
            counter.fetch_add(1, Ordering::Relaxed);
            last = revision;
        }
        self.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits until a condition holds.
async fn until(
    what: &str,
    mut holds: impl AsyncFnMut() -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let end = Instant::now() + PATIENCE;
    while !holds().await? {
        if Instant::now() > end {
            return Err(format!("{what}: not within {PATIENCE:?}").into());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

impl House {
    async fn open() -> Result<Self, Failure> {
        let upstream = Upstream::start()?;
        upstream.demand("secret");
        let authority = Authority::new()?;
        let folder = Folder::new()?;
        let pair = authority.sign(SERVER_NAME)?;
        folder.put("tls.crt", &pair.certificate)?;
        folder.put("tls.key", &pair.key)?;
        folder.put("ca.crt", &authority.pem())?;
        folder.put("secret", "secret")?;
        let settings = Settings::new(upstream.address);
        folder.put("tillwatch.toml", &settings.text(folder.path(), true))?;
        let way = Way {
            trusted: Some(authority.pem()),
            token: Some(TOKEN),
            pair: None,
        };
        let mutual = Way {
            pair: Some(authority.sign(NAME)?),
            token: None,
            ..way.clone()
        };
        let server = Server::start(folder.path()).await?;
        Ok(Self {
            folder,
            server,
            upstream,
            settings,
            authority,
            way,
            mutual,
        })
    }

    /// Opens the streams.
    async fn watch(
        &self,
        streams: usize,
        purchases: &[String],
        heard: &Arc<Heard>,
        watching: &mut JoinSet<()>,
    ) -> Result<(), Failure> {
        let mut ways = [&self.way, &self.mutual].into_iter().cycle();
        let mut stub: Option<Stub> = None;
        for (number, purchase) in (0..streams).zip(purchases.iter().cycle()) {
            if number % STREAMS_PER_CONNECTION == 0 {
                let way = ways.next().ok_or("no way")?;
                stub = Some(way.stub(self.server.address).await?);
            }
            let request = WatchStatusRequest {
                purchase_id: purchase.clone(),
                after_revision: Some(0),
                until: WatchUntil::Final.into(),
                ..WatchStatusRequest::default()
            };
            let stub = stub.as_mut().ok_or("no connection")?;
            let stream = stub.watch_status(request).await?.into_inner();
            watching.spawn(Arc::clone(heard).follow(stream));
        }
        Ok(())
    }

    fn put_settings(&self) -> Result<(), Failure> {
        let text = self.settings.text(self.folder.path(), true);
        self.folder.put("tillwatch.toml", &text)?;
        self.server.reload()
    }

    /// The code of a feed by this way; `None` if no connection came to be.
    async fn code(&self, way: &Way) -> Option<Code> {
        let mut stub = way.stub(self.server.address).await.ok()?;
        match stub.watch_purchases(WatchPurchasesRequest::default()).await {
            Ok(_) => Some(Code::Ok),
            Err(status) => Some(status.code()),
        }
    }

    /// Renews and waits until that has taken effect.
    async fn renew(&mut self, renewal: Renewal) -> Result<(), Failure> {
        match renewal {
            Renewal::Certificate => self.renew_certificate().await,
            Renewal::ClientAuthority => self.renew_client_authority().await,
            Renewal::Token => self.renew_token().await,
            Renewal::Secret => {
                self.folder.put("secret", "next")?;
                self.upstream.demand("next");
                Ok(())
            }
            Renewal::Account => {
                self.settings.second = Some(SECOND);
                self.put_settings()?;
                until("a second account", async || {
                    let mut stub = self.way.stub(self.server.address).await?;
                    Ok(adopt(&mut stub, SECOND, 1).await.is_ok())
                })
                .await
            }
            Renewal::Limit => {
                self.settings.feeds = Some(1);
                self.put_settings()?;
                let mut stub = self.way.stub(self.server.address).await?;
                until("a limit of feeds", async || {
                    let request = WatchPurchasesRequest::default;
                    let _held = stub.watch_purchases(request()).await;
                    let second = stub.watch_purchases(request()).await;
                    Ok(second.is_err_and(|status| status.code() == Code::ResourceExhausted))
                })
                .await
            }
        }
    }

    /// Files alone, which the server looks at by itself.
    async fn renew_certificate(&mut self) -> Result<(), Failure> {
        let next = Authority::new()?;
        let pair = next.sign(SERVER_NAME)?;
        self.folder.put("tls.crt", &pair.certificate)?;
        self.folder.put("tls.key", &pair.key)?;
        for way in [&mut self.way, &mut self.mutual] {
            way.trusted = Some(next.pem());
        }
        until("a new certificate", async || {
            Ok(self.code(&self.way).await == Some(Code::Ok))
        })
        .await
    }

    async fn renew_client_authority(&mut self) -> Result<(), Failure> {
        let next = Authority::new()?;
        self.folder.put("ca.crt", &next.pem())?;
        let old = self.mutual.clone();
        self.mutual.pair = Some(next.sign(NAME)?);
        self.authority = next;
        until("a new authority", async || {
            let is_new = self.code(&self.mutual).await == Some(Code::Ok);
            Ok(is_new && self.code(&old).await != Some(Code::Ok))
        })
        .await
    }

    async fn renew_token(&mut self) -> Result<(), Failure> {
        self.settings.token = NEW_TOKEN;
        self.put_settings()?;
        let old = self.way.clone();
        self.way.token = Some(NEW_TOKEN);
        until("a new token", async || {
            let is_new = self.code(&self.way).await == Some(Code::Ok);
            Ok(is_new && self.code(&old).await == Some(Code::Unauthenticated))
        })
        .await
    }
}
