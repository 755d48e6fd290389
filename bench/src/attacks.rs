//! The server's memory, and the waits of a caller who does nothing wrong, before, during and after attacks
//! on a port with TLS. No attacker has a token.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tillwatch_proto::{
    PURCHASE_SERVICE,
    v1::{GetStatusRequest, get_status_request::Key},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    Failure,
    authority::Authority,
    caller::{SERVER_NAME, Stub, Way, adopt},
    frames::{self, Heard, PAYLOAD_MAX, PREFACE, WINDOW},
    server::{Folder, Server},
    settings::{ACCOUNT, Settings, TOKEN},
    table::Table,
    upstream::{Upstream, on_this_thread},
};

/// The pause between two calls of the caller.
const CALL_EVERY: Duration = Duration::from_millis(5);
/// The interval of looks at the server's memory.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The pause after an attempt to connect that failed, and between the bytes of a slow handshake.
const PAUSE: Duration = Duration::from_millis(100);
/// The streams of one connection, and the bytes that each announces: just less than a request may have.
const STREAMS: u32 = 1_000;
const BODY: usize = 262_000;

/// One way to trouble a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Attack {
    /// Connections that say nothing.
    Silent,
    /// Connections that begin a handshake and stop.
    HalfHandshakes,
    /// Connections that begin a handshake byte by byte.
    SlowHandshakes,
    /// Whole handshakes, and a new connection each time.
    Handshakes,
    /// Bodies of calls that never end.
    Bodies,
    /// Calls that are taken back at once.
    Resets,
    /// Pings without a pause.
    Pings,
}

impl Attack {
    const ALL: [Self; 7] = [
        Self::Silent,
        Self::HalfHandshakes,
        Self::SlowHandshakes,
        Self::Handshakes,
        Self::Bodies,
        Self::Resets,
        Self::Pings,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Silent => "2,000 silent connections",
            Self::HalfHandshakes => "2,000 half handshakes",
            Self::SlowHandshakes => "500 slow handshakes",
            Self::Handshakes => "handshakes without end, 8 at once",
            Self::Bodies => "4 × 1,000 bodies of 262,000 bytes withheld",
            Self::Resets => "resets without end on 4 connections",
            Self::Pings => "pings without end on 4 connections",
        }
    }

    fn peers(self) -> usize {
        match self {
            Self::Silent | Self::HalfHandshakes => 2_000,
            Self::SlowHandshakes => 500,
            Self::Handshakes => 8,
            Self::Bodies | Self::Resets | Self::Pings => 4,
        }
    }
}

/// The target of an attack.
#[derive(Clone)]
struct Target {
    address: SocketAddr,
    tls: Arc<ClientConfig>,
    /// The number of things that reached it: connections, handshakes or frames.
    dealt: Arc<AtomicU64>,
}

/// The figures of one phase.
#[derive(Debug, Clone, Copy)]
struct Phase {
    /// The most memory of the server, in MiB.
    memory_mib: f64,
    p99_ms: f64,
    failed: usize,
}

/// The table.
///
/// # Errors
/// A server does not start, or has died.
pub fn table(length: Duration) -> Result<Table, Failure> {
    on_this_thread(run(length))?
}

async fn run(length: Duration) -> Result<Table, Failure> {
    let seconds = length.as_secs();
    let title = format!(
        "Attacks over TLS for {seconds} s each, and GetStatus of another caller before, during and after: \
         the most memory in MiB, p99 in ms, calls that failed"
    );
    let columns = [
        "attack", "dealt", "memory", "during", "after", "p99", "during", "after", "failed",
    ];
    let mut table = Table::new(&title, &columns);
    for attack in Attack::ALL {
        let (dealt, [before, during, after]) = measure(attack, length).await?;
        let memory = [before, during, after].map(|phase| format!("{:.1}", phase.memory_mib));
        let waits = [before, during, after].map(|phase| format!("{:.1}", phase.p99_ms));
        let failed = before.failed + during.failed + after.failed;
        let cells = [vec![dealt.to_string()], memory.into(), waits.into()].concat();
        table.row(attack.name(), cells.into_iter().chain([failed.to_string()]));
    }
    Ok(table)
}

async fn measure(attack: Attack, length: Duration) -> Result<(u64, [Phase; 3]), Failure> {
    let (upstream, authority, folder) = (Upstream::start()?, Authority::new()?, Folder::new()?);
    let pair = authority.sign(SERVER_NAME)?;
    folder.put("tls.crt", &pair.certificate)?;
    folder.put("tls.key", &pair.key)?;
    folder.put("ca.crt", &authority.pem())?;
    let settings = Settings::new(upstream.address);
    folder.put("tillwatch.toml", &settings.text(folder.path(), true))?;
    let server = Server::start(folder.path()).await?;
    let way = Way {
        trusted: Some(authority.pem()),
        token: Some(TOKEN),
        ..Way::default()
    };
    let mut stub = way.stub(server.address).await?;
    adopt(&mut stub, ACCOUNT, 1).await?;
    let target = Target {
        address: server.address,
        tls: trusting(&authority)?,
        dealt: Arc::default(),
    };
    let before = phase(&server, &mut stub, length).await?;
    let mut attackers = JoinSet::new();
    for _ in 0..attack.peers() {
        attackers.spawn(trouble(attack, target.clone()));
    }
    let during = phase(&server, &mut stub, length).await?;
    attackers.shutdown().await;
    let after = phase(&server, &mut stub, length).await?;
    Ok((
        target.dealt.load(Ordering::Relaxed),
        [before, during, after],
    ))
}

fn trusting(authority: &Authority) -> Result<Arc<ClientConfig>, Failure> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes())?)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A handshake that is resumed would cost the server less.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// Calls, and looks at the server, for as long as a phase lasts.
async fn phase(server: &Server, stub: &mut Stub, length: Duration) -> Result<Phase, Failure> {
    let request = GetStatusRequest {
        key: Some(Key::IdempotencyKey(format!("{ACCOUNT} 1"))),
        ..GetStatusRequest::default()
    };
    let end = Instant::now() + length;
    let (mut looked, mut memory_kib) = (Instant::now(), server.resident_kib()?);
    let (mut waits, mut failed) = (Vec::new(), 0);
    while Instant::now() < end {
        let began = Instant::now();
        match stub.get_status(request.clone()).await {
            Ok(_) => waits.push(began.elapsed()),
            Err(_) => failed += 1,
        }
        if looked.elapsed() >= LOOK_EVERY {
            memory_kib = memory_kib.max(server.resident_kib()?);
            looked = Instant::now();
        }
        tokio::time::sleep(CALL_EVERY).await;
    }
    waits.sort_unstable();
    let p99 = waits.get(waits.len() * 99 / 100).copied();
    Ok(Phase {
        memory_mib: memory_kib as f64 / 1024.0,
        p99_ms: p99.unwrap_or_default().as_secs_f64() * 1e3,
        failed,
    })
}

/// One attacker, who begins again each time the server has had enough.
async fn trouble(attack: Attack, target: Target) {
    loop {
        let _ = strike(attack, &target).await;
        if attack != Attack::Handshakes {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn strike(attack: Attack, target: &Target) -> Result<(), Failure> {
    let mut stream = TcpStream::connect(target.address).await?;
    match attack {
        Attack::Silent => {}
        Attack::HalfHandshakes => {
            let hello = hello(target)?;
            stream
                .write_all(hello.get(..hello.len() / 2).unwrap_or_default())
                .await?;
        }
        Attack::SlowHandshakes => {
            for byte in hello(target)? {
                stream.write_all(&[byte]).await?;
                target.dealt.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(PAUSE).await;
            }
        }
        Attack::Handshakes => {
            shake_hands(target, stream).await?;
            target.dealt.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        Attack::Bodies => return withhold(target, shake_hands(target, stream).await?).await,
        Attack::Resets => return flood(target, shake_hands(target, stream).await?, resets).await,
        Attack::Pings => {
            let pings = |_| frames::ping();
            return flood(target, shake_hands(target, stream).await?, pings).await;
        }
    }
    target.dealt.fetch_add(1, Ordering::Relaxed);
    // The server's end of it: by its patience.
    let _ = stream.read(&mut [0]).await;
    Ok(())
}

/// The first message of a handshake.
fn hello(target: &Target) -> Result<Vec<u8>, Failure> {
    let name = ServerName::try_from(SERVER_NAME)?;
    let mut hello = Vec::new();
    ClientConnection::new(Arc::clone(&target.tls), name)?.write_tls(&mut hello)?;
    Ok(hello)
}

async fn shake_hands(target: &Target, stream: TcpStream) -> Result<TlsStream<TcpStream>, Failure> {
    let connector = TlsConnector::from(Arc::clone(&target.tls));
    let name = ServerName::try_from(SERVER_NAME)?;
    Ok(connector.connect(name, stream).await?)
}

fn path() -> String {
    format!("/{PURCHASE_SERVICE}/GetStatus")
}

/// A call that is taken back.
fn resets(number: u32) -> Vec<u8> {
    let stream = 2 * number + 1;
    [frames::headers(stream, &path()), frames::reset(stream)].concat()
}

/// Sends without a pause, reads all that comes, and ends with the connection.
async fn flood(
    target: &Target,
    stream: TlsStream<TcpStream>,
    next: impl Fn(u32) -> Vec<u8>,
) -> Result<(), Failure> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let reading = async {
        let mut buffer = vec![0; PAYLOAD_MAX];
        while reader.read(&mut buffer).await? > 0 {}
        Ok::<(), Failure>(())
    };
    let writing = async {
        writer.write_all(PREFACE).await?;
        for number in 0.. {
            writer.write_all(&next(number)).await?;
            target.dealt.fetch_add(1, Ordering::Relaxed);
        }
        Ok::<(), Failure>(())
    };
    tokio::select! {
        read = reading => read,
        written = writing => written,
    }
}

/// Announces bodies on many streams, sends all of each that the windows allow but the last byte, and
/// waits.
async fn withhold(target: &Target, stream: TlsStream<TcpStream>) -> Result<(), Failure> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    writer.write_all(PREFACE).await?;
    let length = u32::try_from(BODY)?.to_be_bytes();
    let body = [&[0], &length[..], &vec![0x0a; BODY - 1][..]].concat();
    let mut windows: BTreeMap<u32, usize> = BTreeMap::from([(0, WINDOW)]);
    let mut sent: BTreeMap<u32, usize> = BTreeMap::new();
    for number in 0..STREAMS {
        let stream = 2 * number + 1;
        writer.write_all(&frames::headers(stream, &path())).await?;
        windows.insert(stream, WINDOW);
        sent.insert(stream, 0);
    }
    let (mut heard, mut buffer) = (Heard::default(), vec![0; PAYLOAD_MAX]);
    loop {
        for (stream, sent) in &mut sent {
            let open = |of: u32| windows.get(&of).copied().unwrap_or_default();
            let most = open(0).min(open(*stream)).min(PAYLOAD_MAX);
            let part = body.get(*sent..(*sent + most).min(body.len()));
            let part = part.filter(|part| !part.is_empty());
            let Some(part) = part else { continue };
            writer.write_all(&frames::data(*stream, part)).await?;
            *sent += part.len();
            target.dealt.fetch_add(1, Ordering::Relaxed);
            for of in [0, *stream] {
                windows.entry(of).and_modify(|left| *left -= part.len());
            }
        }
        writer.flush().await?;
        let count = reader.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        for (stream, given) in heard.take(buffer.get(..count).unwrap_or_default()) {
            *windows.entry(stream).or_default() += given;
        }
    }
}
