//! The settings in effect, as text.

use super::*;

/// Everything that settings can say but for files of TLS.
const WHOLE: &str = r#"
[listen]
ops = ""
drain = "1500ms"
stream_age = "1h"
[store]
retention = "7d"
[callers."shop.eu"]
token_sha256 = ["0000000000000000000000000000000000000000000000000000000000000abc"]
accounts = ["masumi-main"]
scopes = ["create", "read"]
[callers."shop.eu".limits]
lists_per_caller = 9
[callers.desk]
cert_san = ["spiffe://example.org/desk"]
accounts = ["*"]
scopes = ["operate"]
[accounts.masumi-main]
provider = "masumi"
base_url = "https://pay.example.com/v1"
token = "canary \" secret"
proxy = "http://canary:canary@proxy.example.com:3128"
[accounts.masumi-main.polling]
schedule = [{ until = "5m", every = "20s" }, { every = "2m" }]
horizon = "2h"
[accounts.carbon]
provider = "carbon"
base_url = "https://carbon.example.com"
secret_key_file = "SECRET"
[limits]
streams = 77
feeds_per_caller = 5
[telemetry]
log = "warn,tower=info"
"#;

fn parsed(folder: &std::path::Path, text: &str, variables: &[(&str, &str)]) -> Config {
    let file = folder.join("tillwatch.toml");
    std::fs::write(&file, text).unwrap();
    let variables = variables.iter();
    let variables = variables.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load(Some(&file), variables).unwrap()
}

/// All settings, as far as they have an effect.
fn seen(config: &Config) -> String {
    let parts = (&config.listen, &config.store, &config.callers);
    let more = (&config.accounts, &config.limits, &config.telemetry);
    format!("{parts:?}{more:?}")
}

#[test]
fn the_printed_settings_with_the_secrets_make_the_same_settings() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "canary").unwrap();
    let text = WHOLE.replace("SECRET", &secret.display().to_string());
    let variables = [
        ("TILLWATCH_LISTEN__THREADS", "3"),
        ("TILLWATCH_ACCOUNTS__CARBON__POLLING__TIMEOUT", "7s"),
        (
            "TILLWATCH_ACCOUNTS__CARBON__PROXY",
            "http://canary@proxy.example.com:1",
        ),
    ];
    let config = parsed(folder.path(), &text, &variables);
    let printed = config.print();
    assert!(!printed.contains("canary"), "{printed}");
    assert!(!printed.contains("abc\""), "{printed}");
    let mut whole = printed.clone();
    for (comment, key) in [
        (
            "# token_sha256 = \"[redacted]\"",
            "token_sha256 = [\"0000000000000000000000000000000000000000000000000000000000000abc\"]",
        ),
        ("# token = \"[redacted]\"", "token = \"canary \\\" secret\""),
        (
            "# proxy = \"[redacted]\"",
            "proxy = \"http://canary@proxy.example.com:1\"",
        ),
    ] {
        assert!(whole.contains(comment), "{comment} in {printed}");
        whole = whole.replacen(comment, key, 1);
    }
    let second = "proxy = \"http://canary:canary@proxy.example.com:3128\"";
    whole = whole.replacen("# proxy = \"[redacted]\"", second, 1);
    assert!(!whole.contains("redacted"), "{whole}");
    let again = parsed(folder.path(), &whole, &[]);
    assert_eq!(seen(&again), seen(&config));
    assert_eq!(again.accounts, config.accounts, "the secrets as well");
    assert_eq!(again.print(), printed);
}

#[test]
fn a_default_is_printed() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[callers.local]\nanonymous = true\naccounts = [\"*\"]\nscopes = [\"read\"]\n";
    let printed = parsed(folder.path(), text, &[]).print();
    for line in [
        "[listen]",
        "grpc = \"127.0.0.1:50051\"",
        "drain = \"20s\"",
        "stream_age = \"0s\"",
        "url = \"sqlite:tillwatch.db\"",
        "retention = \"90d\"",
        "anonymous = true",
        "streams = 200000",
        "lists_per_caller = 4",
        "log = \"info\"",
        "log_format = \"text\"",
    ] {
        assert!(
            printed.lines().any(|printed| printed == line),
            "{line} in {printed}"
        );
    }
}
