//! Bad settings by section, and what is said about each.

use super::*;

#[test]
fn bad_settings_are_refused_with_their_place_and_rule() {
    let listen = |line: &str| format!("{CALLER}[listen]\n{line}");
    let store = |line: &str| format!("{CALLER}[store]\n{line}");
    let own_tls = "this server's own TLS is not in this release";
    let a_duration = "is a duration such as 100ms, 20s, 5m, 24h or 90d, from";
    let table = [
        (String::new(), "callers: at least one caller is needed"),
        (format!("{CALLER}\n[x"), "FILE:7: "),
        (
            format!("{CALLER}\n[lisen]\na = 1"),
            "FILE:7: lisen: unknown key",
        ),
        (listen("gprc = \"x\""), "FILE:7: listen.gprc: unknown key"),
        (listen("grpc = 1"), "FILE:7: listen.grpc: is a text"),
        (
            listen("grpc = \"x\""),
            "listen.grpc: is host:port or unix:/path",
        ),
        (listen("grpc = \"unix:x\""), "is host:port or unix:/path"),
        (listen("grpc = \"::1:80\""), "is host:port or unix:/path"),
        (listen("ops = \"h:99999\""), "listen.ops: is host:port"),
        (
            listen("reflection = 1"),
            "listen.reflection: is true or false",
        ),
        (
            listen("threads = -1"),
            "listen.threads: is a whole number from 0 to 1024",
        ),
        (listen("threads = 1.5"), "is a whole number from 0 to 1024"),
        (listen("drain = 20"), "FILE:7: listen.drain: is a text"),
        (listen("drain = \"20\""), a_duration),
        (listen("drain = \"2h\""), "90d, from 0s to 1h"),
        (listen("tls_cert = \"x\""), own_tls),
        (listen("tls_key = \"x\""), own_tls),
        (listen("tls_client_ca = \"x\""), own_tls),
        (
            store("url = \"postgres://u:canary@h/d\""),
            "FILE:7: store.url: PostgreSQL is not in this release",
        ),
        (store("url = \"mysql:x\""), "store.url: is sqlite:FILE"),
        (store("url = \"sqlite:\""), "is sqlite:FILE, a file"),
        (store("url = \"sqlite::memory:\""), "is sqlite:FILE, a file"),
        (
            store("retention = \"0s\""),
            "store.retention: is a duration",
        ),
        (
            format!("{CALLER}[limits]\nstreams = 0"),
            "limits.streams: is a whole number from 1",
        ),
        (
            format!("{CALLER}[telemetry]\nlog = \"a=b=c\""),
            "telemetry.log: is a level",
        ),
        (
            format!("{CALLER}[telemetry]\nlog_format = \"xml\""),
            "telemetry.log_format: is text or json",
        ),
        (
            format!("{CALLER}[telemetry]\notlp_endpoint = \"http://x\""),
            "OTLP is not in this release",
        ),
        (
            format!("telemetry = 1\n{CALLER}"),
            "FILE:1: telemetry: is a section",
        ),
    ];
    check_all(&table);
}

/// Each text makes one problem, which says what is expected.
fn check_all(table: &[(String, &str)]) {
    for (text, expected) in table {
        let message = refused(text, &[]);
        assert!(message.contains(expected), "{text}\n{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn bad_polling_is_refused_with_its_place_and_rule() {
    let polling = |line: &str| format!("{CALLER}{ACCOUNT}[accounts.masumi-main.polling]\n{line}");
    let table = [
        (
            polling("schedule = []"),
            "FILE:12: accounts.masumi-main.polling.schedule: a schedule has at least one phase",
        ),
        (
            polling("schedule = 5"),
            "polling.schedule: is a list of tables",
        ),
        (
            polling("schedule = [{ every = \"99ms\" }]"),
            "an interval is at least 100 ms",
        ),
        (
            polling("schedule = [{ until = \"5m\" }]"),
            "schedule.every: is required",
        ),
        (
            polling("schedule = [{ every = \"1s\", x = 1 }]"),
            "schedule.x: unknown key",
        ),
        (
            polling("after_terminal = [{ until = \"1m\", every = \"1s\" }]"),
            "the last phase alone has none",
        ),
        (
            polling("requests_per_minute = -1"),
            "requests_per_minute: is a whole number from 0",
        ),
        (
            polling("max_in_flight = 0"),
            "max_in_flight: is a whole number from 1",
        ),
        (polling("timeout = \"1ms\""), "timeout: is a duration"),
        (
            polling("long_poll = true"),
            "polling.long_poll: unknown key",
        ),
    ];
    check_all(&table);
}

#[test]
fn bad_accounts_are_refused() {
    let account = |lines: &str| format!("{CALLER}[accounts.m]\nprovider = \"masumi\"\n{lines}");
    let url = |url: &str| account(&format!("token = \"canary\"\nbase_url = \"{url}\""));
    let public = "is a public address, unless `allow_private_networks` is set";
    let table = [
        (
            format!("{CALLER}[accounts.m]\n"),
            "FILE:6: accounts.m.provider: is required",
        ),
        (
            format!("{CALLER}[accounts.m]\nprovider = \"x\""),
            "FILE:7: accounts.m.provider: is one of masumi",
        ),
        (
            format!("{CALLER}[accounts.\"a b\"]\n"),
            "accounts.a b: a name has 1 to 64",
        ),
        (
            account("token = \"canary\""),
            "accounts.m.base_url: is required",
        ),
        (url("x"), "FILE:9: accounts.m.base_url: is a URL"),
        (
            url("http://example.com"),
            "is https, unless `allow_insecure` is set",
        ),
        (url("ftp://example.com"), "is an https URL"),
        (
            url("https://canary@example.com"),
            "has no user and no password",
        ),
        (url("https://example.com?a"), "has no query and no fragment"),
        (url("https://example.com#a"), "has no query and no fragment"),
        (url("https://127.0.0.1"), public),
        (url("https://[::ffff:10.0.0.1]"), public),
        (url("https://localhost:4010"), public),
        (
            account("base_url = \"https://example.com\""),
            "FILE:6: accounts.m: `token` (or `token_file`) is required",
        ),
        (
            account("base_url = \"https://example.com\"\ntoken_file = \"/nonexistent\""),
            "FILE:9: accounts.m.token_file: the file cannot be read",
        ),
        (
            account("base_url = \"https://example.com\"\ntoken = \"canary\"\ntoken_file = \"x\""),
            "either `token` or `token_file`, not both",
        ),
        (
            account("base_url = \"https://example.com\"\ntoken = \"canary\"\napi_key = \"canary\""),
            "FILE:10: accounts.m.api_key: unknown key",
        ),
    ];
    check_all(&table);
}

#[test]
fn bad_callers_are_refused() {
    let caller = |lines: &str| format!("[callers.c]\n{lines}");
    let rest = "accounts = [\"*\"]\nscopes = [\"read\"]";
    let abroad = "is allowed only where every listen address is loopback or a Unix socket";
    let anonymous = format!("[callers.c]\nanonymous = true\n{rest}\n[listen]\n");
    let table = [
        (
            caller(rest),
            "FILE:1: callers.c: needs token_sha256, cert_san or anonymous",
        ),
        (
            caller(&format!("token_sha256 = []\n{rest}")),
            "token_sha256: has at least one entry",
        ),
        (
            caller(&format!("token_sha256 = [\"canary\"]\n{rest}")),
            "FILE:2: callers.c.token_sha256: each entry is",
        ),
        (
            caller(&format!(
                "token_sha256 = [\"{TOKEN}\", \"{TOKEN}\"]\n{rest}"
            )),
            "belongs to one caller",
        ),
        (
            format!("{CALLER}[callers.c]\ntoken_sha256 = [\"{TOKEN}\"]\n{rest}"),
            "belongs to one caller",
        ),
        (
            caller("anonymous = true\nscopes = [\"read\"]"),
            "callers.c.accounts: is required",
        ),
        (
            caller("anonymous = true\naccounts = [\"*\"]"),
            "callers.c.scopes: is required",
        ),
        (
            caller("anonymous = true\naccounts = [\"*\"]\nscopes = []"),
            "scopes: has at least one entry",
        ),
        (
            caller("anonymous = true\naccounts = [\"*\"]\nscopes = [\"all\"]"),
            "each entry is one of create, adopt, read, operate",
        ),
        (
            caller("anonymous = true\naccounts = [\"x\"]\nscopes = [\"read\"]"),
            "FILE:3: callers.c.accounts: there is no account `x`",
        ),
        (
            caller("anonymous = true\naccounts = [\"*\", \"x\"]\nscopes = [\"read\"]"),
            "\"*\" stands alone",
        ),
        (format!("{anonymous}grpc = \"0.0.0.0:1\""), abroad),
        (format!("{anonymous}grpc = \"tillwatch:1\""), abroad),
        (format!("{anonymous}ops = \"[::]:1\""), abroad),
        (
            format!("{anonymous}[callers.d]\nanonymous = true\n{rest}"),
            "only one caller can be anonymous",
        ),
    ];
    check_all(&table);
    for line in [
        "grpc = \"[::1]:1\"\nops = \"\"",
        "grpc = \"unix:/x\"",
        "grpc = \"localhost:1\"",
    ] {
        assert!(load(&format!("{anonymous}{line}"), &[]).is_ok(), "{line}");
    }
}
