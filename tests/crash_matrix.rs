//! A crash, a lost connection or a timeout cuts a create at each of its steps, for each class of
//! answer and each provider. A table tells how many creates the provider sees, and the purchase's
//! end.

mod recorder;

use std::{
    os::unix::process::ExitStatusExt as _,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use tempfile::TempDir;
use tillwatch::{Error, Refusal};
use tillwatch_proto::v1::{
    CreatePurchaseRequest, Purchase, PurchaseState, create_purchase_request::Order,
    purchase_service_client::PurchaseServiceClient,
};
use tillwatch_sandbox::{PROVIDERS, Scenario};
use tonic::transport::{Channel, Endpoint};

use crate::{
    house::secrets,
    orders,
    process::{Log, Server, until, within},
    store::Store,
};
use recorder::{Recorder, Reply};

/// Cases that run at once: each mostly waits until a send's time has passed.
const AT_ONCE: usize = 12;
/// The signal by which a process aborts.
const SIGABRT: i32 = 6;
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The cut of the first create.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// The process dies at this failpoint.
    At(&'static str),
    /// The process is killed while the provider holds the request.
    Killed,
    /// The process lives.
    Nothing,
}

/// One case, and its end after the caller's repeat.
#[derive(Clone, Copy, Debug)]
struct Case {
    provider: &'static str,
    cut: Cut,
    reply: Reply,
    /// Creates that the provider has seen before the repeat, and after it.
    creates: (usize, usize),
    end: &'static str,
}

/// The further creates and the end of an unclear create, once its time has passed and the caller
/// has repeated it.
fn after_unclear(provider: &str) -> (usize, &'static str) {
    match provider {
        // Masumi refuses or takes a second create; Devdraft takes one for each key.
        "masumi" | "devdraft" => (1, "CREATED"),
        "phygitals" | "inabit" | "carbon" => (0, "OUTCOME_UNKNOWN"),
        _ => panic!("{provider} is not in this table"),
    }
}

fn accepted(provider: &str) -> &'static str {
    match provider {
        "phygitals" => "PROCESSING",
        "masumi" | "inabit" | "carbon" | "devdraft" => "CREATED",
        _ => panic!("{provider} is not in this table"),
    }
}

fn cases(provider: &'static str) -> Vec<Case> {
    let (more, unclear) = after_unclear(provider);
    let accepted = accepted(provider);
    let case = |cut, reply, creates, end| Case {
        provider,
        cut,
        reply,
        creates,
        end,
    };
    let mut cases = vec![
        case(Cut::At("before-intent"), Reply::Accept, (0, 1), accepted),
        case(
            Cut::At("intent-committed"),
            Reply::Accept,
            (0, more),
            unclear,
        ),
        case(Cut::Killed, Reply::Hang, (1, 1 + more), unclear),
    ];
    // The living process repeats a create at Devdraft by itself.
    let own = usize::from(provider == "devdraft");
    let alive = if own == 1 { 0 } else { more };
    for reply in [Reply::Close, Reply::Hang, Reply::Error, Reply::Garbage] {
        let creates = (1 + own, 1 + own + alive);
        cases.push(case(Cut::Nothing, reply, creates, unclear));
    }
    let all = [
        Reply::Accept,
        Reply::Refuse,
        Reply::Throttle,
        Reply::Unauthorized,
        Reply::Error,
        Reply::Garbage,
    ];
    for reply in all {
        cases.push(case(Cut::At("answered"), reply, (1, 1 + more), unclear));
        let (creates, end) = match reply {
            Reply::Accept => (1, accepted),
            Reply::Refuse => (1, "FAILED"),
            // Nothing was sent: the repeat is the first that counts.
            Reply::Throttle | Reply::Unauthorized => (2, accepted),
            _ => (1 + more, unclear),
        };
        cases.push(case(Cut::At("settled"), reply, (1, creates), end));
    }
    cases
}

/// A server with one account, whose provider is a recorder.
struct House {
    recorder: Recorder,
    folder: TempDir,
    log: Log,
    server: Server,
    /// Answers that said `replayed = false`.
    firsts: AtomicUsize,
}

impl House {
    async fn start(case: &Case, store: &Store) -> Self {
        let recorder = Recorder::start(case.provider, case.reply).await;
        let folder = tempfile::tempdir().unwrap();
        let secrets: String = secrets(case.provider)
            .iter()
            .map(|name| format!("{name} = \"x\"\n"))
            .collect();
        let text = format!(
            "[listen]\ngrpc = \"127.0.0.1:0\"\nops = \"\"\n\
             [store]\n{}\
             [callers.local]\nanonymous = true\naccounts = [\"*\"]\nscopes = [\"create\", \"read\"]\n\
             [accounts.main]\nprovider = \"{}\"\nbase_url = \"http://{}\"\n\
             allow_insecure = true\nallow_private_networks = true\n{secrets}\
             [accounts.main.polling]\ntimeout = \"1s\"\nrequests_per_minute = 0\n\
             creates_per_minute = 0\n",
            store.lines(folder.path()),
            case.provider,
            recorder.address,
        );
        std::fs::write(folder.path().join("tillwatch.toml"), text).unwrap();
        let log = Log::default();
        let arguments = match case.cut {
            Cut::At(point) => vec!["--failpoint", point],
            Cut::Killed | Cut::Nothing => vec![],
        };
        let config = folder.path().join("tillwatch.toml");
        let started = Server::start_with(&config, &log, &arguments).await;
        let Ok(server) = started else {
            panic!("{case:?}: {}", log.text());
        };
        Self {
            recorder,
            folder,
            log,
            server,
            firsts: AtomicUsize::new(0),
        }
    }

    async fn restart(&mut self) {
        let config = self.folder.path().join("tillwatch.toml");
        let started = Server::start(&config, &self.log).await;
        self.server = started.unwrap_or_else(|_| panic!("{}", self.log.text()));
    }

    async fn create(&self, order: &Order) -> Result<(Purchase, bool), Option<Refusal>> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.server.grpc)).unwrap();
        let channel: Channel = within("a connection", endpoint.connect()).await.unwrap();
        let request = CreatePurchaseRequest {
            idempotency_key: "the key".to_owned(),
            account: "main".to_owned(),
            order: Some(order.clone()),
            ..CreatePurchaseRequest::default()
        };
        let mut stub = PurchaseServiceClient::new(channel);
        match within("an answer", stub.create_purchase(request)).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                let first = usize::from(!answer.replayed);
                self.firsts.fetch_add(first, Ordering::Relaxed);
                Ok((answer.purchase.unwrap(), answer.replayed))
            }
            Err(status) => Err(Error::from(status).refusal().cloned()),
        }
    }

    /// Repeats the create until an answer has the promised end, or until answers have stayed the
    /// same for as long as a send, or the wait for a repeat by the process itself, may be under way.
    async fn repeated(&self, case: &Case, order: &Order) -> String {
        let mut told = String::new();
        let mut since = tokio::time::Instant::now();
        while since.elapsed() < Duration::from_secs(15) {
            let word = match self.create(order).await {
                Ok((purchase, _)) => {
                    let state = purchase.status.unwrap().state();
                    word(state).to_owned()
                }
                Err(Some(refusal)) if refusal.reason == "PROVIDER_REJECTED" => "FAILED".to_owned(),
                Err(refusal) => format!("{refusal:?}"),
            };
            if word == case.end {
                return word;
            }
            if word != told {
                told = word;
                since = tokio::time::Instant::now();
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        told
    }
}

fn word(state: PurchaseState) -> &'static str {
    state
        .as_str_name()
        .strip_prefix("PURCHASE_STATE_")
        .unwrap_or_default()
}

async fn check(case: Case, store: Store) -> Result<(), String> {
    let order = orders::order(case.provider, Scenario::Paid);
    let mut house = House::start(&case, &store).await;
    match case.cut {
        Cut::At(_) => {
            let cut = house.create(&order).await;
            // A connection that broke: the transport's error has no reason of the service's.
            let is_cut = matches!(&cut, Err(refusal)
                if refusal.as_ref().is_none_or(|refusal| refusal.reason.is_empty()));
            if !is_cut {
                return Err(format!("{case:?}: {cut:?}"));
            }
            let exit = house.server.exit().await;
            if exit.signal() != Some(SIGABRT) {
                return Err(format!("{case:?}: {exit}"));
            }
            house.restart().await;
        }
        Cut::Killed => {
            let recorder = house.recorder.clone();
            let kill = async {
                until("the provider has the request", async || {
                    recorder.creates() == 1
                })
                .await;
            };
            tokio::select! {
                answer = house.create(&order) => return Err(format!("{case:?}: {answer:?}")),
                () = kill => {}
            }
            house.server.kill().await;
            house.restart().await;
        }
        Cut::Nothing => {
            let first = house.create(&order).await;
            let state =
                first.map(|(purchase, replayed)| (purchase.status.unwrap().state(), replayed));
            if state.as_ref().ok() != Some(&(PurchaseState::OutcomeUnknown, false)) {
                return Err(format!("{case:?}: {state:?}"));
            }
            let recorder = house.recorder.clone();
            until("the living process repeats as promised", async || {
                recorder.creates() >= case.creates.0
            })
            .await;
        }
    }
    let before = house.recorder.creates();
    let end = house.repeated(&case, &order).await;
    // Another repeat gets the same answer, and sends nothing more.
    let again = house.repeated(&case, &order).await;
    let seen = (before, house.recorder.creates());
    let keys = house.recorder.keys();
    let firsts = house.firsts.load(Ordering::Relaxed);
    let is_sent_anew = matches!(case.cut, Cut::At("before-intent"))
        || (case.cut == Cut::At("settled")
            && matches!(case.reply, Reply::Throttle | Reply::Unauthorized));
    if firsts > 1 || (is_sent_anew && firsts == 0) {
        return Err(format!("{case:?}: {firsts} answers said that it is new"));
    }
    if (end.as_str(), again.as_str(), seen) != (case.end, case.end, case.creates) || keys > 1 {
        let log = house.log.text();
        return Err(format!(
            "{case:?}: {end}, then {again}, creates {seen:?} with {keys} keys\n{log}"
        ));
    }
    Ok(())
}

/// C2, C3 and C4 through real crashes: a buyer never pays twice, and gets the answer of the table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_cuts_a_create_its_repeat_sends_only_what_is_safe_and_tells_what_is_true() {
    let all: Vec<Case> = PROVIDERS.into_iter().flat_map(cases).collect();
    assert!(all.len() > 90, "the whole matrix: {}", all.len());
    all_hold(all, || Store::Sqlite).await;
}

/// The same, with a provider whose creates can be repeated and one whose cannot: the ways of the others
/// meet the same commits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_cuts_a_create_on_postgresql_its_repeat_sends_only_what_is_safe() {
    let all = ["devdraft", "carbon"].into_iter().flat_map(cases);
    all_hold(all.collect(), Store::postgres).await;
}

async fn all_hold(cases: Vec<Case>, store: impl Fn() -> Store) {
    let wrong: Vec<String> = stream::iter(cases)
        .map(|case| check(case, store()))
        .buffer_unordered(AT_ONCE)
        .filter_map(|result| async { result.err() })
        .collect()
        .await;
    assert!(wrong.is_empty(), "{}\n{}", wrong.len(), wrong.join("\n\n"));
}
