//! Foreign probes and clients that check health: the real grpc-health-probe, and the balancing clients
//! of grpc-go and grpcio.

use std::process::Stdio;

use tillwatch_proto::PURCHASE_SERVICE;
use tillwatch_sandbox::Scenario;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::TcpListener,
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::{
    consumers::installed,
    house::{House, Settings, token},
    orders::request,
    process::{Server, until, within},
    tidy::sources::root,
    tls::{Mounted, authority, certificate},
};

/// The names that a server knows, and whether each means readiness.
const NAMES: [(&str, bool); 3] = [("", true), (PURCHASE_SERVICE, true), ("liveness", false)];

/// The ways in which grpc-health-probe exits.
const HEALTHY: i32 = 0;
const NOT_CONNECTED: i32 = 2;
const UNKNOWN: i32 = 3;
const UNHEALTHY: i32 = 4;

/// Asks a server by the real probe, with more arguments. Returns its exit code and its words.
async fn asked(address: &str, service: &str, more: &[&str]) -> Option<(i32, String)> {
    let mut command = Command::new(installed("bin/grpc-health-probe")?);
    command
        .args(["-addr", address, "-service", service])
        .args(["-connect-timeout", "10s", "-rpc-timeout", "10s"])
        .args(more)
        .kill_on_drop(true);
    let output = within("a probe ends", command.output()).await.unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    Some((output.status.code().unwrap(), told))
}

/// Expects the answers to all names, in a state of the server.
async fn expect(address: &str, more: &[&str], is_ready: bool, state: &str) {
    for (name, means_readiness) in NAMES {
        let Some((code, told)) = asked(address, name, more).await else {
            return;
        };
        let expected = match is_ready || !means_readiness {
            true => HEALTHY,
            false => UNHEALTHY,
        };
        assert_eq!(code, expected, "{state}, {name:?}: {told}");
    }
    let (code, told) = asked(address, "nobody", more).await.unwrap();
    assert_eq!(code, UNKNOWN, "{state}: {told}");
}

/// A provider that takes connections and says nothing.
async fn silent_provider() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// A house whose drain lasts, since a create waits for a provider that says nothing.
async fn held(provider: &TcpListener) -> House {
    let settings = Settings {
        front: Some(provider.local_addr().unwrap()),
        listen: "drain = \"25s\"".to_owned(),
        ..Settings::default()
    };
    House::start(settings.polled("timeout", r#""20s""#)).await
}

/// Lets a house drain, and returns while the drain goes on.
async fn drains(house: &House, provider: &TcpListener) {
    let mut stub = house.stub("shop").await;
    let order = request("held", "devdraft", Scenario::Paid);
    tokio::spawn(async move { stub.create_purchase(order).await.map(drop) });
    let connection = within("the order arrives", provider.accept()).await;
    // The provider holds the connection until the test ends.
    tokio::spawn(async move {
        let _held = connection;
        std::future::pending::<()>().await;
    });
    house.server.signal("TERM").await;
    until("readiness turns", async || {
        let ready = house.client("shop").health("").await;
        ready.is_ok_and(|state| format!("{state:?}") == "NotServing")
    })
    .await;
}

/// Holds the store's lock, so that no commit of the server works until this is dropped.
struct LockedStore(rusqlite::Connection);

impl LockedStore {
    fn of(house: &House) -> Self {
        let store = rusqlite::Connection::open(house.folder().join("tillwatch.db")).unwrap();
        store.busy_timeout(crate::process::DEADLINE).unwrap();
        store.execute_batch("BEGIN IMMEDIATE").unwrap();
        Self(store)
    }

    fn release(self) {
        self.0.execute_batch("ROLLBACK").unwrap();
    }
}

/// Lets a house's journal go away: somebody holds its lock, and a create has to write.
async fn without_journal(house: &House) -> LockedStore {
    let locked = LockedStore::of(house);
    let mut stub = house.stub("shop").await;
    let order = request("unwritten", "devdraft", Scenario::Paid);
    tokio::spawn(async move { stub.create_purchase(order).await.map(drop) });
    becomes(house, "NotServing").await;
    locked
}

async fn becomes(house: &House, wanted: &str) {
    until(wanted, async || {
        let ready = house.client("shop").health("").await;
        ready.is_ok_and(|state| format!("{state:?}") == wanted)
    })
    .await;
}

#[tokio::test]
async fn the_real_probe_hears_the_truth_while_the_journal_is_away_and_in_a_drain() {
    if installed("bin/grpc-health-probe").is_none() {
        return;
    }
    let provider = silent_provider().await;
    let house = held(&provider).await;
    for address in [&house.server.grpc, &house.server.ops] {
        expect(address, &[], true, "serving").await;
    }
    let locked = without_journal(&house).await;
    for address in [&house.server.grpc, &house.server.ops] {
        expect(address, &[], false, "without its journal").await;
    }
    locked.release();
    becomes(&house, "Serving").await;
    drains(&house, &provider).await;
    for address in [&house.server.grpc, &house.server.ops] {
        expect(address, &[], false, "draining").await;
    }
}

#[tokio::test]
async fn the_real_probe_hears_that_a_server_is_not_open_yet_or_not_there() {
    if installed("bin/grpc-health-probe").is_none() {
        return;
    }
    let mut house = House::still().await;
    house.server.kill().await;
    // Nobody else can be given the address meanwhile, as a port can be.
    let socket = house.config().with_file_name("ops.sock");
    let address = format!("unix:{}", socket.display());
    let (code, told) = asked(&address, "", &["-connect-timeout", "100ms"])
        .await
        .unwrap();
    assert_eq!(code, NOT_CONNECTED, "{told}");
    // The server waits for its store for 5 s.
    let text = std::fs::read_to_string(house.config()).unwrap();
    let text = text.replace("ops = \"127.0.0.1:0\"", &format!("ops = \"{address}\""));
    std::fs::write(house.config(), text).unwrap();
    let locked = LockedStore::of(&house);
    let mut server = Server::spawn(house.config(), &house.log);
    until("it listens", async || {
        tokio::net::UnixStream::connect(&socket).await.is_ok()
    })
    .await;
    let (readiness, _) = asked(&address, "", &[]).await.unwrap();
    let (liveness, _) = asked(&address, "liveness", &[]).await.unwrap();
    locked.release();
    assert_eq!((readiness, liveness), (UNHEALTHY, HEALTHY));
    until("it is open", async || {
        asked(&address, "", &[]).await.unwrap().0 == HEALTHY
    })
    .await;
    server.kill().await;
}

#[tokio::test]
async fn the_real_probe_asks_over_tls_and_mutual_tls() {
    if installed("bin/grpc-health-probe").is_none() {
        return;
    }
    let own = authority();
    let mounted = Mounted::new(&own);
    let house = House::start(mounted.settings()).await;
    let folder = house.folder().display();
    let ca = format!("{folder}/probe-ca.pem");
    std::fs::write(&ca, own.pem()).unwrap();
    let (pem, key) = certificate(&own, &["probe"], None);
    let [client_cert, client_key] =
        ["cert", "key"].map(|name| format!("{folder}/probe-{name}.pem"));
    std::fs::write(&client_cert, pem).unwrap();
    std::fs::write(&client_key, key).unwrap();
    let tls = ["-tls", "-tls-ca-cert", &ca, "-tls-server-name", "localhost"];
    expect(&house.server.grpc, &tls, true, "with TLS").await;
    let shown = [
        "-tls-client-cert",
        &client_cert,
        "-tls-client-key",
        &client_key,
    ];
    let mutual = [tls.as_slice(), &shown].concat();
    expect(&house.server.grpc, &mutual, true, "with mutual TLS").await;
    let short = ["-connect-timeout", "1s"];
    let (plain, told) = asked(&house.server.grpc, "", &short).await.unwrap();
    assert!([NOT_CONNECTED, UNKNOWN].contains(&plain), "{plain}: {told}");
    let other = [&tls[..3], &["-tls-server-name", "elsewhere"], &short].concat();
    let (code, told) = asked(&house.server.grpc, "", &other).await.unwrap();
    assert_eq!(code, NOT_CONNECTED, "{told}");
}

/// A client of a mesh, which makes a call for each line that it is given.
struct Balancer {
    _child: Child,
    calls: ChildStdin,
    codes: Lines<BufReader<ChildStdout>>,
}

impl Balancer {
    fn start(mut command: Command, servers: &[&House]) -> Self {
        let mut child = command
            .args(servers.iter().map(|house| &house.server.grpc))
            .env("TOKEN", token("reader"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            calls: child.stdin.take().unwrap(),
            codes: BufReader::new(child.stdout.take().unwrap()).lines(),
            _child: child,
        }
    }

    async fn call(&mut self) -> String {
        self.calls.write_all(b"\n").await.unwrap();
        let code = within("a call ends", self.codes.next_line()).await;
        code.unwrap().expect("the client has ended")
    }
}

/// The calls that a server has answered.
async fn answered(house: &House) -> u64 {
    let metrics = house.metrics().await;
    let start = "tillwatch_calls_total{method=\"ListAccounts\",code=\"OK\"} ";
    let line = metrics.lines().find_map(|line| line.strip_prefix(start));
    line.map_or(0, |count| count.parse().unwrap())
}

/// The servers that take part in the next calls, which all have to work.
async fn shares(client: &mut Balancer, houses: &[&House; 2]) -> [bool; 2] {
    let mut before = [0; 2];
    for (count, house) in before.iter_mut().zip(houses) {
        *count = answered(house).await;
    }
    for _ in 0..10 {
        assert!(client.call().await.eq_ignore_ascii_case("ok"));
    }
    let mut share = [false; 2];
    for ((takes, before), house) in share.iter_mut().zip(before).zip(houses) {
        *takes = answered(house).await > before;
    }
    share
}

/// Promises of the health protocol to a client that checks it: a server that is not ready is picked no
/// more, is picked again once it is, and no call fails meanwhile.
async fn balances(command: Command) {
    let provider = silent_provider().await;
    let (first, second) = (held(&provider).await, House::still().await);
    let houses = [&first, &second];
    let mut client = Balancer::start(command, &houses);
    let mut comes_to = async |what: &str, expected: [bool; 2]| {
        until(what, async || {
            shares(&mut client, &houses).await == expected
        })
        .await;
        assert_eq!(shares(&mut client, &houses).await, expected, "{what}");
    };
    comes_to("both take part", [true, true]).await;
    let locked = without_journal(&first).await;
    comes_to("a server without its journal is left out", [false, true]).await;
    locked.release();
    becomes(&first, "Serving").await;
    comes_to("it takes part again", [true, true]).await;
    drains(&first, &provider).await;
    comes_to("a draining server is left out", [false, true]).await;
}

#[tokio::test]
async fn a_client_of_grpc_go_that_checks_health_calls_the_server_that_is_ready() {
    if let Some(client) = installed("bin/balancer") {
        balances(Command::new(client)).await;
    }
}

#[tokio::test]
async fn a_client_of_grpcio_that_checks_health_calls_the_server_that_is_ready() {
    if let Some(python) = installed("python/bin/python") {
        let mut command = Command::new(python);
        command.arg(root().join("tests/consumers/balancer.py"));
        balances(command).await;
    }
}
