//! Bad settings by section, with the error for each.

use super::*;

#[test]
fn bad_settings_are_refused_with_their_place_and_rule() {
    let listen = |line: &str| format!("{CALLER}[listen]\n{line}");
    let store = |line: &str| format!("{CALLER}[store]\n{line}");
    let a_duration = "must be a duration such as 100ms, 20s, 5m, 24h or 90d, from";
    let table = [
        (String::new(), "callers: must have at least one caller"),
        (format!("{CALLER}\n[x"), "FILE:7: "),
        (
            format!("{CALLER}\n[lisen]\na = 1"),
            "FILE:7: lisen: unknown key",
        ),
        (listen("gprc = \"x\""), "FILE:7: listen.gprc: unknown key"),
        (listen("grpc = 1"), "FILE:7: listen.grpc: must be a text"),
        (
            listen("grpc = \"x\""),
            "listen.grpc: must be host:port or unix:/path",
        ),
        (
            listen("grpc = \"unix:x\""),
            "must be host:port or unix:/path",
        ),
        (
            listen("grpc = \"::1:80\""),
            "must be host:port or unix:/path",
        ),
        (listen("ops = \"h:99999\""), "listen.ops: must be host:port"),
        (
            listen("reflection = 1"),
            "listen.reflection: must be true or false",
        ),
        (
            listen("threads = -1"),
            "listen.threads: must be a whole number from 0 to 1024",
        ),
        (
            listen("threads = 1.5"),
            "must be a whole number from 0 to 1024",
        ),
        (
            listen("drain = 20"),
            "FILE:7: listen.drain: must be a duration such as 100ms, 20s",
        ),
        (listen("drain = \"20\""), a_duration),
        (listen("drain = \"2h\""), "90d, from 0s to 1h"),
        (
            listen("tls_cert = \"x\""),
            "FILE:7: listen.tls_cert: must come with tls_key",
        ),
        (
            listen("tls_key = \"x\""),
            "listen.tls_key: must come with tls_cert",
        ),
        (
            listen("tls_client_ca = \"x\""),
            "listen.tls_client_ca: must come with tls_cert and tls_key",
        ),
        (
            listen("tls_cert = \"/nonexistent/x\"\ntls_key = \"y\""),
            "listen.tls_cert: must be usable: cannot read /nonexistent/x: No such file",
        ),
        (
            store("url = \"mysql:x\""),
            "store.url: must be sqlite:FILE or postgres://",
        ),
        (store("url = \"sqlite:\""), "must be sqlite:FILE, a file"),
        (
            store("url = \"sqlite::memory:\""),
            "must be sqlite:FILE, a file",
        ),
        (
            store("retention = \"0s\""),
            "store.retention: must be a duration",
        ),
        (
            format!("{CALLER}[limits]\nstreams = 0"),
            "limits.streams: must be a whole number from 1",
        ),
        (
            format!("{CALLER}[telemetry]\nlog = \"a=b=c\""),
            "telemetry.log: must be a level",
        ),
        (
            format!("{CALLER}[telemetry]\nlog_format = \"xml\""),
            "telemetry.log_format: must be text or json",
        ),
        (
            format!("telemetry = 1\n{CALLER}"),
            "FILE:1: telemetry: must be a section",
        ),
    ];
    check_all(&table);
}

/// Checks that each text makes one problem, which names the expected rule.
fn check_all(table: &[(String, &str)]) {
    for (text, expected) in table {
        let message = refused(text, &[]);
        assert!(message.contains(expected), "{text}\n{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn files_without_a_folder_and_filters_that_silence_the_server_are_refused() {
    let listen = |line: &str| format!("{CALLER}[listen]\n{line}");
    let store = |line: &str| format!("{CALLER}[store]\n{line}");
    let table = [
        (
            store("url = \"sqlite:/nonexistent/canary.db\""),
            "FILE:7: store.url: must lie in a folder that exists",
        ),
        (
            store("fingerprint_key_file = \"/nonexistent/canary\""),
            "FILE:7: store.fingerprint_key_file: must lie in a folder that exists",
        ),
        (
            store("fingerprint_key_file = \"/tmp/canary-that-is-not-there\""),
            "FILE:7: store.fingerprint_key_file: must be a file that exists",
        ),
        (
            listen("grpc = \"unix:/nonexistent/canary.sock\""),
            "FILE:7: listen.grpc: must lie in a folder that exists",
        ),
        (
            listen("ops = \"unix:/nonexistent/canary.sock\""),
            "FILE:7: listen.ops: must lie in a folder that exists",
        ),
        (
            format!("{CALLER}[telemetry]\naudit_log = \"/\""),
            "telemetry.audit_log: must be stderr, a file, or empty",
        ),
        (
            format!("{CALLER}[telemetry]\naudit_log = \"/nonexistent/audit\""),
            "telemetry.audit_log: must lie in a folder that exists",
        ),
        (
            format!("{CALLER}[telemetry]\nlog = \"warning\""),
            "FILE:7: telemetry.log: must be a level (off, error, warn, info, debug, trace), or",
        ),
        (
            format!("{CALLER}[telemetry]\nlog = \"tillwatch_serverr=debug\""),
            "telemetry.log: must be a level",
        ),
    ];
    check_all(&table);
}

#[test]
fn bad_polling_is_refused_with_its_place_and_rule() {
    let polling = |line: &str| format!("{CALLER}{ACCOUNT}[accounts.masumi-main.polling]\n{line}");
    let table = [
        (
            polling("schedule = []"),
            "FILE:12: accounts.masumi-main.polling.schedule: a schedule must have at least one phase",
        ),
        (
            polling("schedule = 5"),
            "polling.schedule: must be a list of tables",
        ),
        (
            polling("schedule = [{ every = \"99ms\" }]"),
            "an interval must be at least 100 ms",
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
            "the last phase alone must have none",
        ),
        (
            polling("requests_per_minute = -1"),
            "requests_per_minute: must be a whole number from 0",
        ),
        (
            polling("max_in_flight = 0"),
            "max_in_flight: must be a whole number from 1",
        ),
        (
            polling("sweep = true"),
            "polling.sweep: must be left out or false",
        ),
        (polling("timeout = \"1ms\""), "timeout: must be a duration"),
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
    let proxy = |url: &str| {
        let rest = "token = \"canary\"\nbase_url = \"https://example.com\"";
        account(&format!("{rest}\nproxy = \"{url}\""))
    };
    let public = "must be a public address, unless `allow_private_networks` is set";
    let table = [
        (
            format!("{CALLER}[accounts.m]\n"),
            "FILE:6: accounts.m.provider: is required",
        ),
        (
            format!("{CALLER}[accounts.m]\nprovider = \"x\""),
            "FILE:7: accounts.m.provider: must be one of masumi",
        ),
        (
            format!("{CALLER}[accounts.\"a b\"]\n"),
            "accounts.a b: must be a name of 1 to 64",
        ),
        (
            account("token = \"canary\""),
            "accounts.m.base_url: is required",
        ),
        (url("x"), "FILE:9: accounts.m.base_url: must be a URL"),
        (
            url("http://example.com"),
            "must be https, unless `allow_insecure` is set",
        ),
        (url("ftp://example.com"), "must be an https URL"),
        (
            url("https://canary@example.com"),
            "must have no user and no password",
        ),
        (
            url("https://example.com?a"),
            "must have no query and no fragment",
        ),
        (
            url("https://example.com#a"),
            "must have no query and no fragment",
        ),
        (url("https://127.0.0.1"), public),
        (url("https://[::ffff:10.0.0.1]"), public),
        (url("https://localhost:4010"), public),
        (
            proxy("x"),
            "FILE:6: accounts.m.proxy: must be a URL such as",
        ),
        (
            proxy("https://canary@h:1"),
            "accounts.m.proxy: must be a URL",
        ),
        (
            proxy("http://h:1/canary"),
            "accounts.m.proxy: must be a URL",
        ),
        (
            proxy("http://h:1?canary"),
            "accounts.m.proxy: must be a URL",
        ),
        (proxy("http://canary:canary@10.0.0.7:3128"), public),
        (proxy("http://localhost:3128"), public),
        (
            account("base_url = \"https://example.com\""),
            "FILE:6: accounts.m: `token` (or `token_file`) is required",
        ),
        (
            account("base_url = \"https://example.com\"\ntoken_file = \"/nonexistent\""),
            "FILE:9: accounts.m.token_file: must be a file that can be read",
        ),
        (
            account("base_url = \"https://example.com\"\ntoken = \"canary\"\ntoken_file = \"x\""),
            "must be given as either `token` or `token_file`, not both",
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
    let abroad = "must be left out unless every listen address is loopback or a Unix socket";
    let anonymous = format!("[callers.c]\nanonymous = true\n{rest}\n[listen]\n");
    let table = [
        (
            caller(rest),
            "FILE:1: callers.c: must have token_sha256, cert_san, jwt or anonymous",
        ),
        (
            caller(&format!("token_sha256 = []\n{rest}")),
            "token_sha256: must have at least one entry",
        ),
        (
            caller(&format!("token_sha256 = [\"canary\"]\n{rest}")),
            "FILE:2: callers.c.token_sha256: each entry must be",
        ),
        (
            caller(&format!(
                "token_sha256 = [\"{TOKEN}\", \"{TOKEN}\"]\n{rest}"
            )),
            "must belong to one caller",
        ),
        (
            format!("{CALLER}[callers.c]\ntoken_sha256 = [\"{TOKEN}\"]\n{rest}"),
            "must belong to one caller",
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
            "scopes: must have at least one entry",
        ),
        (
            caller("anonymous = true\naccounts = [\"*\"]\nscopes = [\"all\"]"),
            "each entry must be one of create, adopt, read, operate",
        ),
        (
            caller("anonymous = true\naccounts = [\"canary\"]\nscopes = [\"read\"]"),
            "FILE:3: callers.c.accounts: each entry must be the name of a configured account",
        ),
        (
            caller("anonymous = true\naccounts = [\"*\", \"x\"]\nscopes = [\"read\"]"),
            "\"*\" must stand alone",
        ),
        (
            format!("{anonymous}web_origins = [\"https://shop.example\"]"),
            "callers.c.anonymous: must be left out if listen.web_origins lets pages",
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

#[test]
fn bad_files_of_an_accounts_tls_are_refused_by_key_and_rule() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let authority = Authority::new();
    let (certificate, key) = authority.certificate("client.test");
    let (certificate, key) = (write("cert", &certificate), write("key", &key));
    let (_, other) = authority.certificate("client.test");
    let (other, junk) = (write("other", &other), write("junk", "canary"));
    let account = |url: &str, lines: &str| {
        let rest = "provider = \"masumi\"\ntoken = \"canary\"";
        format!("{CALLER}[accounts.m]\n{rest}\nbase_url = \"{url}\"\n{lines}")
    };
    let secure = |lines: String| account("https://example.com", &lines);
    let pair = |certificate: &Path, key: &Path| {
        secure(format!(
            "client_cert_file = {certificate:?}\nclient_key_file = {key:?}"
        ))
    };
    let plain = account("http://example.com", &format!("ca_file = {junk:?}"));
    let table = [
        (
            secure("ca_file = \"/nonexistent\"".to_owned()),
            "FILE:10: accounts.m.ca_file: must be a file that can be read",
        ),
        (
            secure(format!("ca_file = {junk:?}")),
            "FILE:10: accounts.m.ca_file: must hold at least one certificate in PEM",
        ),
        (
            secure(format!("client_cert_file = {certificate:?}")),
            "FILE:10: accounts.m.client_cert_file: must come with `client_key_file`",
        ),
        (
            secure(format!("client_key_file = {key:?}")),
            "FILE:10: accounts.m.client_key_file: must come with `client_cert_file`",
        ),
        (
            pair(&junk, &key),
            "FILE:10: accounts.m.client_cert_file: must hold at least one certificate",
        ),
        (
            pair(&certificate, &junk),
            "FILE:11: accounts.m.client_key_file: must hold a private key in PEM",
        ),
        (
            pair(&certificate, &other),
            "FILE:11: accounts.m.client_key_file: must hold the key of the client's",
        ),
        (
            plain.replace("provider", "allow_insecure = true\nprovider"),
            "FILE:11: accounts.m.ca_file: must be left out, since `base_url` is http",
        ),
    ];
    check_all(&table);
}

#[test]
fn origins_of_pages_are_as_browsers_send_them() {
    let listen = |list: &str| format!("{CALLER}[listen]\nweb_origins = [{list}]");
    let good = [
        "https://shop.example",
        "https://shop.example:8443",
        "https://192.0.2.1",
        "http://localhost:3000",
        "http://localhost",
        "http://127.0.0.1:8080",
        "http://[::1]:8080",
    ];
    for origin in good {
        let config = load(&listen(&format!("\"{origin}\"")), &[]).unwrap();
        assert_eq!(config.listen.web_origins, [origin]);
        assert_eq!(config.restart_keys(&config), Vec::<String>::new());
        let without = load(&listen(""), &[]).unwrap();
        assert_eq!(config.restart_keys(&without), ["listen.web_origins"]);
    }
    let bad = [
        "*",
        "https://*",
        "https://*.shop.example",
        "https://shop.example/",
        "https://shop.example/a",
        "https://shop.example?a",
        "https://Shop.example",
        "https://shop.example:443",
        "https://user@shop.example",
        "http://shop.example",
        "http://localhost.evil.example",
        "ftp://localhost",
        "shop.example",
        "null",
        "",
    ];
    for origin in bad {
        let told = refused(&listen(&format!("\"{origin}\"")), &[]);
        let rule = "listen.web_origins: each entry must be an origin as browsers send it";
        assert!(told.contains(rule), "{origin}: {told}");
    }
    let twice = refused(&listen("\"https://a.example\", \"https://a.example\""), &[]);
    assert!(twice.contains("each entry must be named once"), "{twice}");
    let many: Vec<_> = (0..101)
        .map(|number| format!("\"https://{number}.example\""))
        .collect();
    let many = refused(&listen(&many.join(", ")), &[]);
    assert!(many.contains("must have at most 100 entries"), "{many}");
}
