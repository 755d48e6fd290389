//! The work of each command.

use std::{fs, io::Read as _, path::Path, time::Duration};

use jiff::Timestamp;
use tillwatch::{
    Client, Config, Error, SecretToken, TlsIdentity, WatchOptions,
    json::{self, JsonError},
    proto::{
        health::{HealthCheckResponse, health_check_response::ServingStatus},
        v1::{
            CreatePurchaseRequest, Freshness, GetStatusResponse, NotCreated, Purchase,
            PurchaseFilter, ResolvePurchaseRequest, StopTracking, WatchUntil,
            get_status_request::Key, resolve_purchase_request::Resolution,
        },
    },
    timeline::{countdown, plain},
};

use crate::cli::{
    args::{Args, Command, Connection, Create, Get, List, Resolve, Watch},
    details,
    failure::{Ended, Failure},
    live,
    output::Output,
    table,
};

/// The heartbeat interval of a watch. It is short, so that the live line's words about polls are
/// current.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// The most that the service lists on one page.
const PAGE: u32 = 1_000;

/// Runs the command.
pub(crate) async fn run(args: Args, output: &mut Output<'_>) -> Result<Ended, Failure> {
    let client = Client::connect(config(&args.connection)?)?;
    match args.command {
        Command::Create(args) => create(&client, args, output).await,
        Command::Get(args) => get(&client, args, output).await,
        Command::Watch(args) => watch(&client, args, output).await,
        Command::List(args) => list(&client, args, output).await,
        Command::Accounts => accounts(&client, output).await,
        Command::Refresh { id } => refresh(&client, id, output).await,
        Command::Resolve(args) => resolve(&client, args, output).await,
        Command::Health { service } => health(&client, &service, output).await,
    }
}

fn config(connection: &Connection) -> Result<Config, Failure> {
    let mut config = Config::new(&connection.server);
    if let Some(path) = &connection.token_file {
        let token = String::from_utf8(read(path)?).unwrap_or_default();
        config.token = Some(SecretToken::new(&token)?);
    }
    config.tls_ca = connection.tls_ca.as_deref().map(read).transpose()?;
    if let (Some(certificate), Some(key)) = (&connection.tls_cert, &connection.tls_key) {
        config.tls_identity = Some(TlsIdentity {
            certificate: read(certificate)?,
            key: read(key)?,
        });
    }
    Ok(config)
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let failed = |error| Failure::File {
        path: path.to_owned(),
        error,
    };
    if path.as_os_str() == "-" {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).map_err(failed)?;
        return Ok(bytes);
    }
    fs::read(path).map_err(failed)
}

async fn create(client: &Client, args: Create, output: &mut Output<'_>) -> Result<Ended, Failure> {
    let wrong = |error| Failure::Input {
        what: format!("order {}", args.order.display()),
        error,
    };
    let text = String::from_utf8(read(&args.order)?);
    let text = text.map_err(|error| wrong(JsonError::Syntax(error.to_string())))?;
    let order = json::order(&text).map_err(wrong)?;
    let key = match args.key {
        Some(key) => key,
        None => {
            let key = uuid::Uuid::new_v4().to_string();
            // The person reads the key before anything is sent, and can ask for the purchase with
            // it whatever happens.
            output.note(&format!("idempotency key: {key}"))?;
            key
        }
    };
    let request = CreatePurchaseRequest {
        idempotency_key: key.clone(),
        account: args.account,
        labels: args.label.into_iter().collect(),
        order: Some(order),
    };
    let mut told = Ok(());
    let note = |error: &Error, wait: Duration| {
        let error = plain(&error.to_string());
        told = output.note(&format!("{error}; again in {}", countdown(wait)));
    };
    let created = client.create_within(request, args.within, note).await;
    let created = created.map_err(|error| Failure::Create { error, key })?;
    let id = created.purchase.clone().unwrap_or_default().id;
    if output.json {
        output.json("CreatePurchaseResponse", &created)?;
    } else if args.watch {
        output.line(&format!("purchase {}", plain(&id)))?;
    } else {
        show(created.purchase.as_ref(), None, output)?;
    }
    // Checked only now: the purchase is shown even if notes can no longer be written.
    told?;
    if created.replayed {
        output.note("this key was known already")?;
    }
    if !args.watch {
        return Ok(Ended::Well);
    }
    let options = WatchOptions {
        after_revision: Some(0),
        heartbeat_interval: Some(HEARTBEAT),
        ..WatchOptions::default()
    };
    live::watch(client, &id, options, output).await
}

fn show(
    purchase: Option<&Purchase>,
    freshness: Option<&Freshness>,
    output: &mut Output<'_>,
) -> Result<(), Failure> {
    let purchase = purchase.cloned().unwrap_or_default();
    for line in details::lines(&purchase, freshness, Timestamp::now()) {
        output.line(&line)?;
    }
    Ok(())
}

async fn get(client: &Client, args: Get, output: &mut Output<'_>) -> Result<Ended, Failure> {
    let key = match (args.id, args.key) {
        (Some(id), _) => Key::PurchaseId(id),
        (None, key) => Key::IdempotencyKey(key.unwrap_or_default()),
    };
    let answer: GetStatusResponse = match (args.after, args.wait) {
        (Some(after), Some(wait)) => client.get_after(key, after, wait).await?,
        _ => client.get(key).await?,
    };
    if output.json {
        output.json("GetStatusResponse", &answer)?;
    } else {
        show(answer.purchase.as_ref(), answer.freshness.as_ref(), output)?;
    }
    Ok(Ended::Well)
}

async fn watch(client: &Client, args: Watch, output: &mut Output<'_>) -> Result<Ended, Failure> {
    let options = WatchOptions {
        after_revision: args.after,
        until: WatchUntil::try_from(i32::from(args.until)).unwrap_or_default(),
        heartbeat_interval: Some(HEARTBEAT),
        patience: args.patience,
    };
    live::watch(client, &args.id, options, output).await
}

async fn list(client: &Client, args: List, output: &mut Output<'_>) -> Result<Ended, Failure> {
    let filter = PurchaseFilter {
        accounts: args.account,
        providers: args.provider,
        states: args.state.into_iter().map(i32::from).collect(),
        labels: args.label.into_iter().collect(),
        needs_attention: args.attention,
        ..PurchaseFilter::default()
    };
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let size = i32::try_from(args.limit.min(PAGE)).unwrap_or_default();
    let mut pages = client.list(filter, size);
    let mut found: Vec<Purchase> = Vec::new();
    let mut more = false;
    while let Some(page) = pages.next().await? {
        found.extend(page.purchases);
        more = found.len() > limit || !page.next_page_token.is_empty();
        if found.len() >= limit {
            break;
        }
    }
    found.truncate(limit);
    if output.json {
        for purchase in &found {
            output.json("Purchase", purchase)?;
        }
        return Ok(Ended::Well);
    }
    for line in table::purchases(&found, Timestamp::now()).lines() {
        output.line(&line)?;
    }
    if more {
        output.note(&format!("there are more than {limit}; see --limit"))?;
    }
    Ok(Ended::Well)
}

async fn accounts(client: &Client, output: &mut Output<'_>) -> Result<Ended, Failure> {
    let accounts = client.accounts().await?;
    if output.json {
        for account in &accounts {
            output.json("Account", account)?;
        }
        return Ok(Ended::Well);
    }
    for line in table::accounts(&accounts).lines() {
        output.line(&line)?;
    }
    Ok(Ended::Well)
}

async fn refresh(client: &Client, id: String, output: &mut Output<'_>) -> Result<Ended, Failure> {
    let answer = client.refresh(id).await?;
    if output.json {
        output.json("RefreshStatusResponse", &answer)?;
    } else {
        show(answer.purchase.as_ref(), answer.freshness.as_ref(), output)?;
    }
    Ok(Ended::Well)
}

async fn resolve(
    client: &Client,
    args: Resolve,
    output: &mut Output<'_>,
) -> Result<Ended, Failure> {
    let resolution = match (args.reference, args.not_created, args.stop_tracking) {
        (Some(text), _, _) => {
            let reference = json::reference(&text).map_err(|error| Failure::Input {
                what: "--reference".to_owned(),
                error,
            })?;
            Some(Resolution::Reference(reference))
        }
        (None, Some(note), _) => Some(Resolution::NotCreated(NotCreated { note })),
        (None, None, note) => note.map(|note| Resolution::StopTracking(StopTracking { note })),
    };
    let request = ResolvePurchaseRequest {
        purchase_id: args.id,
        expected_revision: args.revision,
        resolution,
    };
    let purchase = client.resolve(request).await?;
    if output.json {
        output.json("Purchase", &purchase)?;
    } else {
        show(Some(&purchase), None, output)?;
    }
    Ok(Ended::Well)
}

async fn health(client: &Client, service: &str, output: &mut Output<'_>) -> Result<Ended, Failure> {
    let serving = client.health(service).await?;
    if output.json {
        let message = HealthCheckResponse {
            status: serving.into(),
        };
        let line = json::encode("grpc.health.v1.HealthCheckResponse", &message)?;
        output.line(&line)?;
    } else {
        output.line(serving.as_str_name())?;
    }
    Ok(match serving {
        ServingStatus::Serving => Ended::Well,
        ServingStatus::Unknown | ServingStatus::NotServing | ServingStatus::ServiceUnknown => {
            Ended::NotServing
        }
    })
}
