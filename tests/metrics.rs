//! The metrics of the real server: promtool reads them in both formats, and each name in the alerts, on
//! the dashboard and in the operators' page is one that the server tells.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Stdio,
    time::Duration,
};

use tillwatch_proto::v1::{ListAccountsRequest, WatchStatusRequest, WatchUntil};
use tillwatch_sandbox::Scenario;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::Command,
};

use crate::{
    consumers::{installed, quick},
    house::{House, Settings},
    orders::request,
    process::{until, within},
    tidy::sources::root,
    tls::{Mounted, authority},
};

/// The longest time that the tests of all rules may take.
const RULES_WITHIN: Duration = Duration::from_secs(180);

/// The media type and the text that a scrape with this `Accept` gets.
async fn scraped(house: &House, accept: &str) -> (String, String) {
    let mut stream = TcpStream::connect(&house.server.ops).await.unwrap();
    let request = format!("GET /metrics HTTP/1.0\r\nHost: a\r\nAccept: {accept}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("metrics", stream.read_to_string(&mut answer))
        .await
        .unwrap();
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    let kind = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-type")
            .then(|| value.to_owned())
    });
    (kind.unwrap(), text.to_owned())
}

/// The samples' names in a text, without their labels.
fn samples(text: &str) -> BTreeSet<&str> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect()
}

/// The words in a text that look like the name of a metric.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let is_metric = |word: &&str| word.starts_with("tillwatch_") || word.starts_with("process_");
    words.filter(is_metric).collect()
}

/// A value of the text.
fn value(text: &str, sample: &str) -> Option<f64> {
    let mut lines = text.lines();
    let rest = lines.find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    rest.map(|value| value.parse().unwrap())
}

/// The metrics of two houses: one with TLS, and one with a limited budget, an account with files of its
/// own, and a purchase.
async fn of_two_houses() -> String {
    let own = authority();
    let mounted = Mounted::new(&own);
    let secure = House::start(mounted.settings()).await;
    let (_, with_tls) = scraped(&secure, "text/plain").await;
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca.pem");
    fs::write(&ca, own.pem()).unwrap();
    let settings = Settings {
        more: format!(
            "\n[accounts.files]\nprovider = \"devdraft\"\nbase_url = \"https://127.0.0.1:9\"\n\
             allow_private_networks = true\nca_file = \"{}\"\nclient_key = \"a\"\n\
             client_secret = \"b\"\n",
            ca.display()
        ),
        ..Settings::default()
    };
    let house = House::start(settings.polled("requests_per_minute", "6000")).await;
    house
        .create("shop", request("one", "devdraft", Scenario::Paid))
        .await;
    let (_, text) = scraped(&house, "text/plain").await;
    with_tls + &text
}

#[tokio::test]
async fn promtool_finds_no_fault_in_the_metrics_and_both_formats_tell_the_same() {
    let Some(promtool) = installed("bin/promtool") else {
        return;
    };
    let house = quick().await;
    house
        .create("shop", request("one", "devdraft", Scenario::Paid))
        .await;
    let (kind, text) = scraped(&house, "text/plain;version=0.0.4").await;
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    let mut check = Command::new(promtool);
    let mut child = check
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(text.as_bytes()).await.unwrap();
    drop(stdin);
    let output = within("promtool ends", child.wait_with_output())
        .await
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert_eq!(said, "");
    let (kind, open) = scraped(&house, "application/openmetrics-text;version=1.0.0").await;
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    assert!(open.ends_with("# EOF\n") && !text.contains("# EOF"));
    assert_eq!(samples(&open), samples(&text));
}

/// The figures of one purchase's way, from its create to the end of the stream that watched it.
#[tokio::test]
async fn a_purchase_on_its_way_shows_in_each_figure_that_is_about_it() {
    let house = quick().await;
    let order = request("one", "devdraft", Scenario::Paid);
    let id = house.create("shop", order).await.id;
    let mut stub = house.stub("shop").await;
    let watch = WatchStatusRequest {
        purchase_id: id,
        until: WatchUntil::Terminal.into(),
        ..WatchStatusRequest::default()
    };
    let mut stream = stub.watch_status(watch).await.unwrap().into_inner();
    while within("the next event", stream.message())
        .await
        .unwrap()
        .is_some()
    {}
    let mut stranger = house.stranger(None).await;
    stranger
        .list_accounts(ListAccountsRequest {})
        .await
        .unwrap_err();
    // A stream's end is counted as its task ends.
    let ended = "tillwatch_streams_ended_total{kind=\"purchase\",reason=\"complete\"}";
    until("the stream's end is counted", async || {
        value(&house.metrics().await, ended) == Some(1.0)
    })
    .await;
    let text = house.metrics().await;
    let of = "account=\"devdraft-main\",provider=\"devdraft\"";
    for sample in [
        "tillwatch_calls_total{method=\"WatchStatus\",code=\"OK\"}".to_owned(),
        "tillwatch_call_seconds_count{method=\"CreatePurchase\"}".to_owned(),
        "tillwatch_first_event_seconds_count{kind=\"purchase\"}".to_owned(),
        "tillwatch_push_delay_seconds_count{since=\"commit\"}".to_owned(),
        format!("tillwatch_upstream_request_seconds_count{{{of},class=\"create\"}}"),
        format!("tillwatch_upstream_request_seconds_count{{{of},class=\"poll\"}}"),
        "tillwatch_commit_writes_count".to_owned(),
        "tillwatch_refusals_total{reason=\"UNAUTHENTICATED\"}".to_owned(),
        "process_resident_memory_bytes".to_owned(),
        "process_open_fds".to_owned(),
        "tillwatch_runtime_workers".to_owned(),
    ] {
        let found = value(&text, &sample);
        assert!(
            found.is_some_and(|found| found >= 1.0),
            "{sample} {found:?}\n{text}"
        );
    }
    let state = format!("tillwatch_open_purchases_by_age{{{of},state=\"COMPLETED\",age=\"hour\"}}");
    assert_eq!(value(&text, &state), Some(1.0), "{text}");
    let open = "tillwatch_streams_open{kind=\"purchase\"}";
    assert_eq!(value(&text, open), Some(0.0));
    let unclear = format!("tillwatch_unclear_creates{{{of}}}");
    assert_eq!(value(&text, &unclear), Some(0.0));
}

#[tokio::test]
async fn each_alert_is_tested_as_it_fires_and_as_it_is_quiet() {
    let Some(promtool) = installed("bin/promtool") else {
        return;
    };
    let folder = root().join("deploy/prometheus");
    for arguments in [
        ["check", "rules", "alerts.yaml"],
        ["test", "rules", "alerts_test.yaml"],
    ] {
        let mut command = Command::new(&promtool);
        command.args(arguments).current_dir(&folder);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(RULES_WITHIN, command.output()).await;
        let output = output.unwrap().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }
    let tested = fs::read_to_string(folder.join("alerts_test.yaml")).unwrap();
    for alert in alerts() {
        for how in ["fires", "is quiet"] {
            assert!(
                tested.contains(&format!("name: {alert} {how}\n")),
                "{alert} {how}"
            );
        }
    }
}

/// The names of the alerts.
fn alerts() -> Vec<String> {
    let rules = fs::read_to_string(root().join("deploy/prometheus/alerts.yaml")).unwrap();
    let lines = rules.lines().map(str::trim);
    let names = lines.filter_map(|line| line.strip_prefix("- alert: "));
    names.map(str::to_owned).collect()
}

#[test]
fn each_alert_stands_in_the_operators_page_with_what_to_do_and_no_other_does() {
    let page = fs::read_to_string(root().join("docs/OPERATIONS.md")).unwrap();
    let mut told = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with("| `Tillwatch")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", name, means, act, ""] = cells.as_slice() else {
            panic!("{line}");
        };
        assert!(!means.is_empty() && !act.is_empty(), "{line}");
        told.insert(name.trim_matches('`').to_owned(), *act);
    }
    let told: Vec<String> = told.into_keys().collect();
    let mut held = alerts();
    held.sort();
    assert!(held.len() > 20);
    assert_eq!(told, held);
}

#[tokio::test]
async fn the_server_tells_each_metric_that_alerts_dashboard_and_page_name() {
    let text = of_two_houses().await;
    let described = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let mut told: BTreeSet<String> = BTreeSet::new();
    for line in described {
        let (name, kind) = line.split_once(' ').unwrap();
        told.insert(name.to_owned());
        if kind == "histogram" {
            told.extend(["bucket", "sum", "count"].map(|part| format!("{name}_{part}")));
        }
    }
    let read = |file: &str| fs::read_to_string(root().join(file)).unwrap();
    for file in [
        "deploy/prometheus/alerts.yaml",
        "deploy/grafana/tillwatch.json",
    ] {
        let text = read(file);
        let named = names(&text);
        assert!(named.len() > 15, "{file}: {named:?}");
        let unknown: Vec<_> = named.iter().filter(|name| !told.contains(**name)).collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
    let page = read("docs/OPERATIONS.md");
    let named = names(&page);
    let unknown: Vec<_> = told
        .iter()
        .filter(|name| is_family(name) && !named.contains(name.as_str()))
        .collect();
    assert!(unknown.is_empty(), "docs/OPERATIONS.md lacks {unknown:?}");
    let dashboard: serde_json::Value =
        serde_json::from_str(&read("deploy/grafana/tillwatch.json")).unwrap();
    assert!(dashboard["panels"].as_array().unwrap().len() > 20);
}

/// True for a name that is no part of a histogram.
fn is_family(name: &str) -> bool {
    !["_bucket", "_sum", "_count"]
        .iter()
        .any(|part| name.ends_with(part))
}

/// Never a purchase, a key or a caller.
#[tokio::test]
async fn labels_are_names_of_the_operator_and_fixed_words() {
    let house = House::start(Settings::default()).await;
    let order = request("canary-key", "devdraft", Scenario::Paid);
    let id = house.create("shop", order).await.id;
    let text = house.metrics().await;
    for word in [id.as_str(), "canary-key", "\"shop\"", "\"reader\""] {
        assert!(!text.contains(word), "{word}\n{text}");
    }
}
