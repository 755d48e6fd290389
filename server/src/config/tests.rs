//! Bad settings with their errors; good settings with their values.

mod print;
mod refusals;
mod store;
mod traces;
mod workloads;

use std::{collections::BTreeMap, io::Write as _, sync::Arc, time::Duration};

use tillwatch_proto::v1::{ProviderReference, create_purchase_request::Order};

use super::*;
use crate::{
    cadence::{Policy, Schedule},
    observation::Answer,
    provider::{Placed, Provider, SettingsError, Violation},
    purchase::{AccountName, Reference, Secret, Timestamp},
    testing::Authority,
    upstream::{
        Request, Response,
        tls::{ClientFiles, Files, Tls},
    },
};

const TOKEN: &str = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";

const CALLER: &str = r#"
[callers.shop]
token_sha256 = ["2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"]
accounts = ["*"]
scopes = ["create", "read"]
"#;

const ACCOUNT: &str = r#"
[accounts.masumi-main]
provider = "masumi"
base_url = "https://masumi.example.com/api/v1"
token = "canary-secret"
"#;

fn policy() -> Policy {
    Policy {
        requests_per_minute: 100,
        sweep: false,
        ..Policy::common(Schedule::of(&[(300, 5)], 30_000))
    }
}

fn build(secrets: &BTreeMap<String, Secret>) -> Result<Arc<dyn Provider>, SettingsError> {
    match secrets.get("token") {
        Some(_) => Ok(Arc::new(NoProvider)),
        None => Err(SettingsError::Missing("token")),
    }
}

/// A registry with one provider: the rules of the real registry belong to the providers.
fn registry() -> [Registered; 1] {
    [Registered {
        name: "masumi",
        secrets: &["token", "other_key"],
        policy,
        build,
        reference_message: |_| unreachable!(),
        rules: || unreachable!(),
    }]
}

/// A client's certificate and key as files of this folder, and the lines that name them.
fn client_files(folder: &Path, authority: &Authority) -> String {
    let (certificate, key) = authority.certificate("client.test");
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let ca = write("ca", &authority.pem());
    let (certificate, key) = (write("cert", &certificate), write("key", &key));
    format!("ca_file = {ca:?}\nclient_cert_file = {certificate:?}\nclient_key_file = {key:?}")
}

fn load(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    let environment = environment
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let loaded = Config::load_with(&registry(), Some(file.path()), environment);
    loaded.map_err(|error| match error {
        ConfigError::Refused(mut problems) => {
            let path = file.path().display().to_string();
            for place in problems.iter_mut().filter_map(|one| one.place.as_mut()) {
                *place = place.replace(&path, "FILE");
            }
            ConfigError::Refused(problems)
        }
        unread => unread,
    })
}

fn refused(text: &str, environment: &[(&str, &str)]) -> String {
    let message = load(text, environment).unwrap_err().to_string();
    assert!(!message.contains("canary"), "{message}");
    message
}

#[test]
fn defaults_are_the_documented_ones() {
    let config = load(CALLER, &[]).unwrap();
    let listen = &config.listen;
    assert_eq!(listen.grpc, Address::Tcp("127.0.0.1:50051".into()));
    assert_eq!(listen.ops, Some(Address::Tcp("127.0.0.1:9464".into())));
    assert!(listen.reflection && listen.threads == 0 && listen.stream_age.is_none());
    assert_eq!(listen.drain, Duration::from_secs(20));
    assert_eq!(
        config.store.database,
        Database::Sqlite("tillwatch.db".into())
    );
    assert_eq!(config.store.retention, Duration::from_secs(90 * 86_400));
    assert_eq!(config.limits.streams, 200_000);
    assert_eq!(config.limits.per_caller.streams, 100_000);
    assert_eq!(config.limits.connections, 20_000);
    assert_eq!(config.limits.per_caller.lists, 4);
    assert_eq!(config.limits.per_caller.feeds, 1_000);
    assert_eq!(config.telemetry.log, "info");
    assert_eq!(config.telemetry.log_format, LogFormat::Text);
    assert!(config.accounts.is_empty());
    let warning = "accounts: none is configured, so nothing can be bought";
    assert_eq!(config.warnings(), [warning]);
    let caller = &config.callers[0];
    assert_eq!(hex::encode(caller.token_sha256[0]), TOKEN);
    assert_eq!(caller.accounts, Allowed::All);
    assert_eq!(Vec::from_iter(&caller.scopes), [&"create", &"read"]);
}

#[test]
fn everything_that_can_be_set_is_read() {
    let keys = tempfile::NamedTempFile::new().unwrap();
    let keys = keys.path().display();
    let text = format!(
        r#"{CALLER}{ACCOUNT}
proxy = "http://canary:canary@10.0.0.7:3128"
allow_insecure = true
allow_private_networks = true
[accounts.masumi-main.polling]
schedule = [{{ until = "5m", every = "100ms" }}, {{ every = "2m" }}]
after_terminal = [{{ every = "1d" }}]
requests_per_minute = 0
creates_per_minute = 3
max_in_flight = 7
timeout = "4s"
sweep = false
horizon = "24h"
stale_after = "7d"
give_up_after = "30d"
[listen]
grpc = "unix:/run/tillwatch.sock"
ops = ""
reflection = false
threads = 2
drain = "5s"
stream_age = "1h"
[store]
url = "sqlite:///var/lib/tillwatch.db"
retention = "1d"
fingerprint_key_file = "{keys}"
[limits]
streams = 3
streams_per_caller = 2
connections = 1
lists_per_caller = 1
feeds_per_caller = 7
[telemetry]
log = "warn,tillwatch_server=debug"
log_format = "json"
otlp_endpoint = ""
"#
    );
    let config = load(&text, &[]).unwrap();
    assert_eq!(
        config.listen.grpc,
        Address::Unix("/run/tillwatch.sock".into())
    );
    assert_eq!(config.listen.ops, None);
    assert_eq!(config.listen.stream_age, Some(Duration::from_secs(3_600)));
    assert_eq!(
        config.store.database,
        Database::Sqlite("/var/lib/tillwatch.db".into())
    );
    assert_eq!(config.limits.connections, 1);
    assert_eq!(config.limits.per_caller.lists, 1);
    assert_eq!(config.limits.per_caller.feeds, 7);
    assert_eq!(config.telemetry.log_format, LogFormat::Json);
    let account = &config.accounts[0];
    assert_eq!(account.name, AccountName::new("masumi-main"));
    assert_eq!(account.secrets["token"].expose(), "canary-secret");
    let proxy = account.proxy.as_ref().unwrap();
    assert_eq!(proxy.expose(), "http://canary:canary@10.0.0.7:3128");
    let day = Duration::from_secs(86_400);
    let expected = Policy {
        schedule: Schedule::new(account.policy.schedule.phases().to_vec()).unwrap(),
        after_terminal: Schedule::of(&[], 86_400_000),
        requests_per_minute: 0,
        creates_per_minute: 3,
        max_in_flight: 7,
        timeout: Duration::from_secs(4),
        sweep: false,
        horizon: Some(day),
        stale_after: Some(day * 7),
        give_up_after: day * 30,
        long_poll: false,
        held_max: 1_000,
    };
    assert_eq!(account.policy, expected);
    assert_eq!(account.policy.schedule.first(), Duration::from_millis(100));
    let warning = "accounts.masumi-main.polling: faster than masumi's default schedule";
    assert_eq!(config.warnings(), [warning]);
    assert!(!format!("{config:?}").contains("canary"));
}

#[test]
fn the_files_of_an_accounts_tls_are_read_with_the_settings() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let lines = client_files(folder.path(), &Authority::new());
    let text = format!("{CALLER}{ACCOUNT}{lines}");
    let path = |name: &str| folder.path().join(name);
    let files = Files {
        ca: Some(path("ca")),
        client: Some(ClientFiles {
            certificate: path("cert"),
            key: path("key"),
        }),
    };
    let exposed = "accounts.masumi-main.client_key_file: the file that holds it \
                   can be read or written by others; its mode should be 0600";
    for (mode, told) in [(0o600, &[][..]), (0o644, &[exposed][..])] {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(path("key"), mode).unwrap();
        let config = load(&text, &[]).unwrap();
        assert_eq!(config.accounts[0].tls, Tls::read(files.clone()).unwrap());
        assert_ne!(config.accounts[0].tls, Tls::default());
        assert_eq!(config.warnings(), told);
    }
}

#[test]
fn the_key_of_a_clients_certificate_is_no_secret_of_the_provider() {
    let folder = tempfile::tempdir().unwrap();
    let lines = client_files(folder.path(), &Authority::new());
    let lines = lines.replace("client_key_file", "client_cert_key_file");
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "canary").unwrap();
    let account = format!(
        "[accounts.d]\nprovider = \"devdraft\"\nbase_url = \"https://example.com\"\n\
         client_key_file = {secret:?}\nclient_secret = \"canary\"\n{lines}"
    );
    let settings = folder.path().join("t.toml");
    std::fs::write(&settings, format!("{CALLER}{account}")).unwrap();
    let config = Config::load(Some(&settings), std::iter::empty()).unwrap();
    let account = &config.accounts[0];
    assert_eq!(account.secrets["client_key"].expose(), "canary");
    let shown = format!("{:?}", account.tls);
    assert!(
        shown.contains("/key\"") && !shown.contains("canary"),
        "{shown}"
    );
}

#[test]
fn an_account_keeps_its_providers_policy_where_it_says_nothing() {
    let text = format!("{CALLER}{ACCOUNT}[accounts.masumi-main.polling]\ntimeout = \"1s\"");
    let config = load(&text, &[]).unwrap();
    let expected = Policy {
        timeout: Duration::from_secs(1),
        ..policy()
    };
    assert_eq!(config.accounts[0].policy, expected);
    assert!(config.warnings().is_empty());
}

#[test]
fn every_problem_is_listed_at_once() {
    let text = format!("{CALLER}[listen]\na = 1\nthreads = 9999\n[store]\nurl = \"x\"");
    assert_eq!(
        refused(&text, &[("TILLWATCH_LIMITS__X", "1")])
            .lines()
            .count(),
        4
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = Config::load(Some(Path::new("/nonexistent/t.toml")), std::iter::empty());
    assert_eq!(
        error.unwrap_err().to_string(),
        "/nonexistent/t.toml: cannot be read"
    );
    let error = Config::load(None, std::iter::empty()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "callers: must have at least one caller; no file was read (--config FILE)"
    );
}

#[test]
fn the_environment_lies_over_the_file() {
    let text = format!("{CALLER}{ACCOUNT}");
    let config = load(
        &text,
        &[
            ("TILLWATCH_LISTEN__GRPC", "127.0.0.1:1"),
            ("tillwatch_listen__Threads", "3"),
            ("TILLWATCH_STORE__RETENTION", "5d"),
            ("TILLWATCH_ACCOUNTS__MASUMI_MAIN__TOKEN", "12345"),
            ("TILLWATCH_ACCOUNTS__MASUMI_MAIN__POLLING__SWEEP", "false"),
            (
                "TILLWATCH_ACCOUNTS__MASUMI_MAIN__POLLING__SCHEDULE",
                "[{ every = \"9s\" }]",
            ),
            ("TILLWATCH_CALLERS__SHOP__SCOPES", "[\"operate\"]"),
            ("TILLWATCH_ACCOUNTS__ONE_MORE__PROVIDER", "masumi"),
            (
                "TILLWATCH_ACCOUNTS__ONE_MORE__BASE_URL",
                "https://example.com",
            ),
            ("TILLWATCH_ACCOUNTS__ONE_MORE__TOKEN", "\"quoted\""),
            ("TILLWATCH_SERVICE_HOST", "10.0.0.1"),
            ("TILLWATCH_STORE_SERVICE_HOST", "10.0.0.1"),
            ("TILLWATCH_STORE_SERVICE_PORT_GRPC", "1"),
            ("TILLWATCH_STORE_PORT_1_TCP", "tcp://10.0.0.1:1"),
            ("TILLWATCH_SERVER", "10.0.0.1:1"),
            ("TILLWATCH_TOKEN_FILE", "/x"),
            ("PATH", "/bin"),
        ],
    )
    .unwrap();
    assert_eq!(config.listen.grpc, Address::Tcp("127.0.0.1:1".into()));
    assert_eq!(config.listen.threads, 3);
    assert_eq!(config.store.retention, Duration::from_secs(5 * 86_400));
    assert_eq!(Vec::from_iter(&config.callers[0].scopes), [&"operate"]);
    let [main, more] = config.accounts.as_slice() else {
        panic!("two accounts");
    };
    assert_eq!(main.secrets["token"].expose(), "12345");
    assert!(!main.policy.sweep && main.policy.schedule.first() == Duration::from_secs(9));
    assert_eq!(more.name, AccountName::new("one-more"));
    assert_eq!(more.secrets["token"].expose(), "quoted");
}

#[test]
fn bad_variables_are_refused_by_name() {
    let two = format!(
        "{CALLER}{ACCOUNT}{}",
        ACCOUNT.replace("masumi-main", "masumi_main")
    );
    let one = format!("{CALLER}{ACCOUNT}");
    let table = [
        (
            &one,
            "TILLWATCH_LISTEN__X",
            "TILLWATCH_LISTEN__X: listen.x: unknown key",
        ),
        (&one, "TILLWATCH_X__Y", "TILLWATCH_X__Y: x: unknown key"),
        (
            &one,
            "TILLWATCH_LISTEN__THREADS",
            "TILLWATCH_LISTEN__THREADS: listen.threads: must be a whole",
        ),
        (
            &one,
            "TILLWATCH_CALLERS__SHOP__SCOPES__X",
            "must lead to a section",
        ),
        (
            &one,
            "TILLWATCH_LISTEN_GRPC",
            "TILLWATCH_LISTEN_GRPC: must have two",
        ),
        (
            &one,
            "tillwatch_limits_streams",
            "must have two underscores",
        ),
        (&one, "TILLWATCH_LISTEN", "must have two underscores"),
        (
            &one,
            "TILLWATCH_ACCOUNTS_MASUMI_MAIN_TOKEN",
            "must have two",
        ),
        (&one, "TILLWATCH_LISTEN__", "must have two underscores"),
        (&one, "TILLWATCH_ACCOUNTS_MASUMI_MAIN__TOKEN", "unknown key"),
        (&one, "TILLWATCH__LISTEN__GRPC", "unknown key"),
        (
            &two,
            "TILLWATCH_ACCOUNTS__MASUMI_MAIN__TOKEN",
            "must fit one name, and fits more",
        ),
    ];
    for (text, variable, expected) in table {
        let message = refused(text, &[(variable, "canary")]);
        assert!(message.contains(expected), "{variable}\n{message}");
    }
}

#[test]
fn a_secret_is_read_from_its_file_without_the_last_newline() {
    for (content, expected) in [("s\n", "s"), ("s\r\n", "s"), ("s", "s"), ("s\n\n", "s\n")] {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content.as_bytes()).unwrap();
        let line = format!("token_file = {:?}", file.path());
        let text = format!("{CALLER}{ACCOUNT}").replace("token = \"canary-secret\"", &line);
        let config = load(&text, &[]).unwrap();
        assert_eq!(config.accounts[0].secrets["token"].expose(), expected);
    }
}

/// The warnings about settings that can be used.
fn warned(text: &str, environment: &[(&str, &str)]) -> Vec<String> {
    let config = load(text, environment).unwrap();
    config.warnings().to_vec()
}

#[test]
fn a_proxy_of_the_environment_that_has_no_effect_is_told() {
    let text = format!("{CALLER}{ACCOUNT}");
    for variable in ["HTTP_PROXY", "https_proxy", "ALL_PROXY", "http_proxy"] {
        let told = warned(&text, &[(variable, "http://canary:canary@10.0.0.7:3128")]);
        assert_eq!(
            told,
            [format!(
                "{variable}: has no effect here; an account's `proxy` has"
            )]
        );
    }
    assert_eq!(
        warned(&text, &[("HTTP_PROXY", ""), ("NO_PROXY", "x")]),
        [""; 0]
    );
}

#[test]
fn a_file_with_secrets_that_others_can_read_is_told() {
    use std::{fs, os::unix::fs::PermissionsExt as _};
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let names = ["token", "proxy", "t.db", "t.db.fingerprint-keys", "t.toml"];
    let (token, proxy, database) = (path("token"), path("proxy"), path("t.db"));
    let text = format!(
        "{CALLER}{ACCOUNT}[store]\nurl = \"sqlite:{}\"",
        database.display()
    );
    let files = format!("token_file = {token:?}\nproxy_file = {proxy:?}");
    let text = text.replace("token = \"canary-secret\"", &files);
    let write = |mode| {
        for name in names {
            let content = match name {
                "t.toml" => text.as_str(),
                _ => "http://example.com:3128",
            };
            fs::write(path(name), content).unwrap();
            fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        let file = path("t.toml");
        let loaded = Config::load_with(&registry(), Some(&file), std::iter::empty());
        loaded.unwrap().warnings().to_vec()
    };
    assert_eq!(write(0o600), [""; 0]);
    let told = write(0o644);
    let expected = "can be read or written by others; its mode should be 0600";
    let whose = [
        "accounts.masumi-main.token_file: the file that holds it",
        "accounts.masumi-main.proxy_file: the file that holds it",
        "store.url: the journal",
        "store.fingerprint_key_file: the file",
    ];
    assert_eq!(told, whose.map(|whose| format!("{whose} {expected}")));
    // A secret in the settings makes them such a file.
    let settings = path("t.toml");
    fs::write(&settings, format!("{CALLER}{ACCOUNT}")).unwrap();
    let load = |environment: &[(&str, &str)]| {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let environment = environment.iter().map(owned);
        let loaded = Config::load_with(&registry(), Some(&settings), environment);
        loaded.unwrap().warnings().to_vec()
    };
    let told = load(&[]);
    let token = "accounts.masumi-main.token: the file that holds it";
    assert_eq!(told, [format!("{token} {expected}")]);
    let variable = ("TILLWATCH_ACCOUNTS__MASUMI_MAIN__TOKEN", "canary");
    assert_eq!(load(&[variable]), [""; 0], "a variable holds it");
}

#[test]
fn a_log_filter_that_lets_no_line_through_is_told() {
    let text = format!("{CALLER}{ACCOUNT}[telemetry]\nlog = \"h2=debug\"");
    let mute = "telemetry.log: lets no line of this server through, errors included";
    assert_eq!(warned(&text, &[]), [mute]);
}

#[test]
fn a_caller_has_limits_of_its_own_in_place_of_the_common_ones() {
    let text = format!(
        "{CALLER}[callers.shop.limits]\nopen_purchases_per_caller = 5\nstreams_per_caller = 7\n\
         [callers.desk]\ntoken_sha256 = [\"{}\"]\naccounts = [\"*\"]\nscopes = [\"read\"]\n\
         [limits]\nopen_purchases_per_caller = 9\ncreates_per_second_per_caller = 3\n",
        TOKEN.replace('2', "3")
    );
    let config = load(&text, &[]).unwrap();
    let of = |name: &str| {
        let caller = config
            .callers
            .iter()
            .find(|caller| caller.name.as_str() == name);
        caller.unwrap().limits
    };
    let (shop, desk) = (of("shop"), of("desk"));
    assert_eq!((shop.open_purchases, desk.open_purchases), (5, 9));
    assert_eq!((shop.streams, desk.streams), (7, 100_000));
    assert_eq!((shop.creates_per_second, desk.creates_per_second), (3, 3));
    let unknown = load(
        &format!("{CALLER}[callers.shop.limits]\nstreams = 1\n"),
        &[],
    );
    let told = unknown.unwrap_err().to_string();
    assert!(
        told.contains("callers.shop.limits.streams: unknown key"),
        "{told}"
    );
}

#[test]
fn names_of_certificates_have_no_effect_without_an_authority() {
    let text = "[callers.c]\ncert_san = [\"spiffe://x\"]\naccounts = [\"*\"]\nscopes = [\"read\"]";
    let config = load(text, &[]).unwrap();
    assert_eq!(config.callers[0].cert_san, ["spiffe://x"]);
    let told = config.warnings();
    assert!(
        told.iter()
            .any(|one| one == "callers.c.cert_san: has no effect without listen.tls_client_ca")
    );
}

/// The provider that the registry of these tests builds; nobody asks it anything.
#[derive(Debug)]
struct NoProvider;

impl Provider for NoProvider {
    fn row(&self) -> &'static Registered {
        unreachable!()
    }
    fn graph(&self) -> crate::observation::Graph {
        unreachable!()
    }
    fn horizon(&self, _: &crate::purchase::Status, _: Option<Duration>) -> Option<Duration> {
        unreachable!()
    }
    fn stale_after(&self, _: &crate::purchase::Status) -> Duration {
        unreachable!()
    }
    fn unclear(&self) -> crate::provider::Unclear {
        unreachable!()
    }
    fn order(&self, _: &Order) -> Option<Arc<dyn Placed>> {
        unreachable!()
    }
    fn reference(&self, _: &ProviderReference) -> Result<Reference, Vec<Violation>> {
        unreachable!()
    }
    fn secrets(&self) -> Vec<&http::HeaderValue> {
        unreachable!()
    }
    fn status_request(&self, _: &Reference) -> Request {
        unreachable!()
    }
    fn read_status(&self, _: &Reference, _: &Response, _: Timestamp) -> Answer {
        unreachable!()
    }
}
