//! Secrets and personal data, planted wherever there is room for them, are nowhere afterwards.

use std::{
    fs, io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, OnceLock},
};

use serde_json::Value;
use tillwatch_cluster::{Cluster, Database, Options};
use tillwatch_proto::v1::{
    CreatePurchaseRequest, Finality, ListAccountsRequest, PurchaseStatus, get_status_request::Key,
};
use tillwatch_sandbox::{Fault, PROVIDERS, Scenario, Target};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::{
    collector::Collector,
    house::{House, Settings, token},
    orders::{order, planted, request},
    process::within,
    store::Store,
};

/// In every secret and in every field that must not be kept.
const CANARY: &str = "canary7f3a";

/// A place between a server and its sandbox that puts the canary into every object of every answer,
/// under names that no provider documents. It passes on to the address that is set.
#[derive(Clone, Default)]
struct Poisoner {
    behind: Arc<OnceLock<SocketAddr>>,
    /// The heads of all requests.
    heads: Arc<Mutex<String>>,
}

impl Poisoner {
    async fn start() -> (SocketAddr, Self) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let poisoner = Self::default();
        let own = poisoner.clone();
        tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                let own = own.clone();
                // A caller that hangs up in between is nothing that a test is about.
                tokio::spawn(async move { own.pass_on(caller).await });
            }
        });
        (address, poisoner)
    }

    /// Passes one request on, and its answer back.
    async fn pass_on(&self, mut caller: TcpStream) -> io::Result<()> {
        let target = *self
            .behind
            .get()
            .expect("a sandbox before the first request");
        let (head, body) = message(&mut caller).await?;
        self.heads.lock().unwrap().push_str(&head);
        answer(caller, target, &head, &body).await
    }
}

async fn answer(
    mut caller: TcpStream,
    target: SocketAddr,
    head: &str,
    body: &[u8],
) -> io::Result<()> {
    let mut provider = TcpStream::connect(target).await?;
    let head = head.replacen("\r\n", "\r\nconnection: close\r\n", 1);
    provider.write_all(head.as_bytes()).await?;
    provider.write_all(body).await?;
    let (head, body) = message(&mut provider).await?;
    let body = match serde_json::from_slice::<Value>(&body) {
        Ok(mut answer) => {
            poison(&mut answer);
            answer.to_string().into_bytes()
        }
        Err(_) => [&body[..], CANARY.as_bytes()].concat(),
    };
    let kept = head.lines().filter(|line| {
        let line = line.to_ascii_lowercase();
        !line.is_empty() && !line.starts_with("content-length") && !line.starts_with("connection")
    });
    let mut head = kept.collect::<Vec<_>>().join("\r\n");
    head.push_str(&format!(
        "\r\ncontent-length: {}\r\nconnection: close\r\nx-note: {CANARY}\r\n\r\n",
        body.len()
    ));
    caller.write_all(head.as_bytes()).await?;
    caller.write_all(&body).await
}

/// The head and the body of the next message of HTTP/1.1 with a length.
pub async fn message(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some(end) = bytes.windows(4).position(|part| part == b"\r\n\r\n") else {
            continue;
        };
        let head = String::from_utf8_lossy(&bytes[..end + 4]).into_owned();
        let length = head.lines().find_map(|line| {
            let (name, length) = line.split_once(':')?;
            let is_length = name.eq_ignore_ascii_case("content-length");
            is_length.then(|| length.trim().parse::<usize>().unwrap())
        });
        if bytes.len() >= end + 4 + length.unwrap_or(0) {
            return Ok((head, bytes.split_off(end + 4)));
        }
    }
}

fn poison(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(poison);
            for name in ["email", "cardholder", "note", "customer"] {
                fields.insert(name.to_owned(), Value::String(format!("{name}-{CANARY}")));
            }
        }
        Value::Array(rows) => rows.iter_mut().for_each(poison),
        _ => {}
    }
}

/// Fails where a text or the hexadecimal or base64 form of it is in these bytes.
fn clean(place: &str, bytes: &[u8], canary: &str) {
    let forms = [
        canary.to_owned(),
        hex::encode(canary),
        canary.to_uppercase(),
    ];
    for form in forms {
        let found = bytes
            .windows(form.len())
            .position(|part| part == form.as_bytes());
        if let Some(at) = found {
            let around = &bytes[at.saturating_sub(60)..(at + 60).min(bytes.len())];
            panic!("{form} in {place}: {}", String::from_utf8_lossy(around));
        }
    }
}

fn store_is_clean(store: &Store, folder: &Path, canary: &str) {
    if let Store::Postgres(database) = store {
        database_is_clean(database, canary);
    }
    let mut files = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            continue;
        }
        files += 1;
        clean(
            &path.display().to_string(),
            &fs::read(&path).unwrap(),
            canary,
        );
    }
    let least = if matches!(store, Store::Sqlite) { 2 } else { 1 };
    assert!(files >= least, "no store in {}", folder.display());
}

/// Looks through all rows as the server shows them, and through its log. The files hold them packed.
fn database_is_clean(database: &Database, canary: &str) {
    let tables = database.run("SELECT tablename FROM pg_tables WHERE schemaname = 'public'");
    let mut bytes = 0;
    for table in tables.lines() {
        let rows = database.run(&format!("SELECT row_to_json(t) FROM {table} t"));
        bytes += rows.len();
        clean(table, rows.as_bytes(), canary);
    }
    assert!(bytes > 10_000, "the rows were not found: {tables}");
    clean(
        "PostgreSQL's log",
        database.cluster().log().as_bytes(),
        canary,
    );
}

/// Creates at every provider, and returns the errors.
async fn create_all(house: &House, orders: &[(Scenario, Option<Fault>)]) -> Vec<String> {
    let mut errors = Vec::new();
    let mut shop = house.stub("shop").await;
    for provider in PROVIDERS {
        for (scenario, fault) in orders.iter().copied() {
            if let Some(fault) = fault {
                house.sandbox.fault_on(provider, Target::Create, fault, 1);
            }
            let key = format!("{provider} {} {fault:?}", scenario.name());
            let create = CreatePurchaseRequest {
                order: Some(planted(provider, scenario, CANARY)),
                ..request(&key, provider, scenario)
            };
            let answer = within(&key, shop.create_purchase(create.clone())).await;
            errors.extend(answer.err().map(|status| format!("{status:?}")));
            // The same key with another order names fields, and never what is in them.
            let other = CreatePurchaseRequest {
                order: Some(order(provider, Scenario::Held)),
                ..create
            };
            let reused = within(&key, shop.create_purchase(other)).await;
            errors.push(format!("{:?}", reused.unwrap_err()));
        }
    }
    errors
}

#[tokio::test]
async fn planted_secrets_and_personal_data_are_in_no_store_log_error_or_trace() {
    nothing_planted_is_found(Store::Sqlite).await;
}

/// The same with a password in the store's URL.
#[tokio::test]
async fn planted_secrets_are_in_no_database_log_error_or_trace_on_postgresql() {
    let cluster = Cluster::start(Options {
        password: Some(CANARY.to_owned()),
        ..Options::default()
    });
    nothing_planted_is_found(Store::on(&cluster)).await;
}

async fn nothing_planted_is_found(store: Store) {
    let (front, poisoner) = Poisoner::start().await;
    let collector = Collector::http(None).await;
    let headers = tempfile::NamedTempFile::new().unwrap();
    fs::write(headers.path(), format!("authorization: Bearer {CANARY}\n")).unwrap();
    let traces = format!(
        "otlp_endpoint = \"{}\"\notlp_protocol = \"http\"\ntrace_sample = \"1\"\n\
         otlp_headers_file = \"{}\"\n",
        collector.url,
        headers.path().display()
    );
    let mut house = House::start(Settings {
        store: store.clone(),
        front: Some(front),
        secret_prefix: CANARY,
        more: format!("\n[telemetry]\nlog = \"trace,h2=info,hyper=info\"\n{traces}"),
        ..Settings::default()
    })
    .await;
    poisoner.behind.set(house.sandbox.address()).unwrap();
    let lived = [
        (Scenario::Paid, None),
        (Scenario::Declined, None),
        (Scenario::Refused, None),
        (Scenario::Flaky, None),
    ];
    let mut errors = create_all(&house, &lived).await;
    for provider in PROVIDERS {
        let key = Key::IdempotencyKey(format!("{provider} paid None"));
        let id = house
            .client("shop")
            .get(key)
            .await
            .unwrap()
            .purchase
            .unwrap()
            .id;
        let over = |status: &PurchaseStatus| status.finality() != Finality::Open;
        house.settled(provider, &id, over).await;
    }
    // Last, since an account that was refused is left alone for a minute.
    let spoiled = [
        Fault::Lost,
        Fault::NotJson,
        Fault::Error,
        Fault::Unauthorized,
    ]
    .map(|fault| (Scenario::Stuck, Some(fault)));
    errors.extend(create_all(&house, &spoiled).await);
    let mut wrong = house.stranger(Some(&format!("Bearer {CANARY}"))).await;
    let denied = wrong.list_accounts(ListAccountsRequest {}).await;
    errors.push(format!("{:?}", denied.unwrap_err()));
    assert!(errors.len() > 40, "{}", errors.len());
    for error in &errors {
        // Details are bytes within the text, so each is looked through as it is.
        clean("an error", error.as_bytes(), CANARY);
    }
    store_is_clean(&store, house.folder(), CANARY);
    house.server.signal("TERM").await;
    house.server.exit().await;
    let log = house.log.text();
    assert!(log.len() > 10_000, "a log at trace is long: {}", log.len());
    for canary in [CANARY, &token("shop")] {
        clean("the log", log.as_bytes(), canary);
        store_is_clean(&store, house.folder(), canary);
        clean("a trace", &collector.bytes(), canary);
    }
    assert!(collector.spans().len() > 100, "{}", collector.spans().len());
    assert!(
        collector.heads()[0].contains(CANARY),
        "the collector's own token"
    );
    // Providers are third parties: no request tells them of a trace.
    let heads = poisoner.heads.lock().unwrap().to_ascii_lowercase();
    for header in ["traceparent", "tracestate", "baggage"] {
        assert!(!heads.contains(header), "{header}");
    }
    assert!(heads.contains("user-agent: tillwatch/"), "heads were read");
}

#[test]
fn a_canary_is_found_where_it_is() {
    let found = std::panic::catch_unwind(|| clean("here", b"..canary7f3a..", CANARY));
    assert!(found.is_err());
    let found = std::panic::catch_unwind(|| {
        let hexadecimal = hex::encode(format!("x{CANARY}"));
        clean("here", hexadecimal.as_bytes(), CANARY);
    });
    assert!(found.is_err());
}
