//! The server's processor time for each call of GetStatus, against bare tonic with the same answer.
//!
//! Each side is a process of its own, and this process is the load. The kernel counts the processor
//! time of all threads of a side. The sides take turns.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use prost::Message as _;
use tillwatch_proto::v1::{GetStatusRequest, get_status_request::Key};
use tokio::task::JoinSet;

use crate::{
    Failure,
    authority::Authority,
    bare,
    caller::{SERVER_NAME, Stub, Way, adopt},
    collector::Collector,
    server::{Folder, Server},
    settings::{ACCOUNT, NAME, Settings, TOKEN},
    table::{Spread, Table},
    upstream::{Upstream, on_this_thread},
};

const ROUNDS: usize = 5;
/// The part of each round that does not count.
const WARM_UP: Duration = Duration::from_millis(500);

/// The number of connections, and of calls under way on each.
struct Load {
    connections: usize,
    each: usize,
}

const CROWD: Load = Load {
    connections: 8,
    each: 16,
};
const ALONE: Load = Load {
    connections: 1,
    each: 1,
};

/// One way into a server, with the figures of all rounds.
struct Side<'server> {
    name: &'static str,
    server: &'server Server,
    way: Way,
    crowd: Vec<Round>,
    alone: Vec<Round>,
}

/// The figures of one round.
struct Round {
    cost_us: f64,
    median_us: f64,
    p99_us: f64,
}

/// The table.
///
/// # Errors
/// A server does not start, or a call fails.
pub fn table(length: Duration) -> Result<Table, Failure> {
    on_this_thread(run(length))?
}

async fn run(length: Duration) -> Result<Table, Failure> {
    let upstream = Upstream::start()?;
    let authority = Authority::new()?;
    let token = Way {
        token: Some(TOKEN),
        ..Way::default()
    };
    let over_tls = Way {
        trusted: Some(authority.pem()),
        ..token.clone()
    };
    let mutual = Way {
        token: None,
        pair: Some(authority.sign(NAME)?),
        ..over_tls.clone()
    };
    let collector = Collector::start()?;
    let mut folders = Vec::new();
    for _ in 0..5 {
        folders.push(folder(&authority)?);
    }
    let [plain_folder, tls_folder, quiet, some, all] = folders.as_slice() else {
        return Err("five folders".into());
    };
    let plain = service(plain_folder, &upstream, false, "").await?;
    let tls = service(tls_folder, &upstream, true, "").await?;
    let quiet = service(quiet, &upstream, false, QUIET).await?;
    let some = service(some, &upstream, false, &traces(&collector, "0.01")).await?;
    let all = service(all, &upstream, false, &traces(&collector, "1")).await?;
    for (way, server) in [
        (&token, &plain),
        (&over_tls, &tls),
        (&token, &quiet),
        (&token, &some),
        (&token, &all),
    ] {
        adopt(&mut way.stub(server.address).await?, ACCOUNT, 1).await?;
    }
    let request = GetStatusRequest {
        key: Some(Key::IdempotencyKey(format!("{ACCOUNT} 1"))),
        ..GetStatusRequest::default()
    };
    let mut stub = token.stub(plain.address).await?;
    let answer = stub.get_status(request.clone()).await?.into_inner();
    fs::write(plain_folder.file("answer"), answer.encode_to_vec())?;
    let bare = bare_server(plain_folder, "bare", false).await?;
    let bare_tls = bare_server(plain_folder, "bare-tls", true).await?;

    let side = |name, server, way: &Way| Side {
        name,
        server,
        way: way.clone(),
        crowd: Vec::new(),
        alone: Vec::new(),
    };
    let mut sides = [
        side("bare tonic", &bare, &token),
        side("bare tonic, TLS", &bare_tls, &over_tls),
        side("the service", &plain, &token),
        side("the service, no log and no audit log", &quiet, &token),
        side("the service, traces of 1 %", &some, &token),
        side("the service, traces of 100 %", &all, &token),
        side("the service, TLS", &tls, &over_tls),
        side("the service, mutual TLS", &tls, &mutual),
    ];
    for _ in 0..ROUNDS {
        for side in &mut sides {
            let round = measure(side, &request, &CROWD, length).await?;
            side.crowd.push(round);
            let round = measure(side, &request, &ALONE, length).await?;
            side.alone.push(round);
        }
    }
    Ok(drawn(&sides, length))
}

/// A folder with the files of TLS.
fn folder(authority: &Authority) -> Result<Folder, Failure> {
    let folder = Folder::new()?;
    let pair = authority.sign(SERVER_NAME)?;
    folder.put("tls.crt", &pair.certificate)?;
    folder.put("tls.key", &pair.key)?;
    folder.put("ca.crt", &authority.pem())?;
    Ok(folder)
}

/// Settings that write as little as can be: the line with the address is needed.
const QUIET: &str = "log = \"off,tillwatch_server::serve=info\"\naudit_log = \"\"\n";

/// Settings that send a part of all traces to a collector.
fn traces(collector: &Collector, part: &str) -> String {
    format!(
        "otlp_endpoint = \"http://{}\"\ntrace_sample = \"{part}\"\n",
        collector.address
    )
}

async fn service(
    folder: &Folder,
    upstream: &Upstream,
    is_tls: bool,
    telemetry: &str,
) -> Result<Server, Failure> {
    let mut settings = Settings::new(upstream.address);
    telemetry.clone_into(&mut settings.telemetry);
    folder.put("tillwatch.toml", &settings.text(folder.path(), is_tls))?;
    Server::start(folder.path()).await
}

async fn bare_server(folder: &Folder, log: &str, is_tls: bool) -> Result<Server, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("bare")
        .arg("--answer")
        .arg(folder.file("answer"));
    if is_tls {
        command.arg("--certificate").arg(folder.file("tls.crt"));
        command.arg("--key").arg(folder.file("tls.key"));
    }
    Server::spawn(command, &folder.file(log), bare::MARKER).await
}

async fn measure(
    side: &Side<'_>,
    request: &GetStatusRequest,
    load: &Load,
    length: Duration,
) -> Result<Round, Failure> {
    let mut callers = JoinSet::new();
    let warm = Instant::now() + WARM_UP;
    let end = warm + length;
    for _ in 0..load.connections {
        let stub = side.way.stub(side.server.address).await?;
        for _ in 0..load.each {
            callers.spawn(call(stub.clone(), request.clone(), warm, end));
        }
    }
    tokio::time::sleep_until(warm.into()).await;
    let began = side.server.ran_ns();
    tokio::time::sleep_until(end.into()).await;
    let ran = side.server.ran_ns() - began;
    let mut waits_ns = Vec::new();
    while let Some(called) = callers.join_next().await {
        waits_ns.extend(called??);
    }
    waits_ns.sort_unstable();
    let quantile_us = |part: f64| {
        let place = (waits_ns.len() as f64 * part) as usize;
        waits_ns.get(place).copied().unwrap_or_default() as f64 / 1e3
    };
    Ok(Round {
        cost_us: ran as f64 / 1e3 / waits_ns.len() as f64,
        median_us: quantile_us(0.5),
        p99_us: quantile_us(0.99),
    })
}

/// Calls without a pause, and returns the nanoseconds of each call that ended while it counts.
async fn call(
    mut stub: Stub,
    request: GetStatusRequest,
    warm: Instant,
    end: Instant,
) -> Result<Vec<u64>, Failure> {
    let mut waits_ns = Vec::new();
    loop {
        let began = Instant::now();
        stub.get_status(request.clone()).await?;
        let ended = Instant::now();
        if ended >= end {
            return Ok(waits_ns);
        }
        if ended >= warm {
            waits_ns.push(u64::try_from((ended - began).as_nanos())?);
        }
    }
}

fn drawn(sides: &[Side<'_>], length: Duration) -> Table {
    let title = format!(
        "GetStatus, {ROUNDS} rounds of {} s each: median (least to most); µs of the server's processor \
         time for each call, µs of waiting",
        length.as_secs()
    );
    let columns = [
        "who answers",
        "8 × 16: µs a call",
        "of bare",
        "p99",
        "alone: µs a call",
        "of bare",
        "p50",
    ];
    let mut table = Table::new(&title, &columns);
    let cost = |rounds: &[Round]| Spread::of(rounds.iter().map(|round| round.cost_us));
    let bare = sides
        .first()
        .map(|side| (cost(&side.crowd), cost(&side.alone)));
    for side in sides {
        let (crowd, alone) = (cost(&side.crowd), cost(&side.alone));
        let ratio = |bare: Option<Spread>, own: Spread| {
            let ratio = bare.map_or(0.0, |bare| bare.median / own.median);
            format!("{ratio:.2}")
        };
        let p99 = Spread::of(side.crowd.iter().map(|round| round.p99_us));
        let median = Spread::of(side.alone.iter().map(|round| round.median_us));
        let cells = [
            crowd.to_string(),
            ratio(bare.map(|(crowd, _)| crowd), crowd),
            p99.to_string(),
            alone.to_string(),
            ratio(bare.map(|(_, alone)| alone), alone),
            median.to_string(),
        ];
        table.row(side.name, cells);
    }
    table
}
