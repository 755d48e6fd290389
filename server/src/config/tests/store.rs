//! The place of the journal.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use super::*;

/// A file that exists, for the fingerprint keys.
const KEYS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");

fn of(lines: &str) -> String {
    format!("{CALLER}[store]\n{lines}")
}

/// Settings with such a URL and the file of keys.
fn with_keys(url: &str) -> String {
    of(&format!(
        "url = \"{url}\"\nfingerprint_key_file = \"{KEYS}\""
    ))
}

fn loaded(file: &Path, variables: &[(&str, &str)]) -> Config {
    let variables = variables.iter();
    let owned = variables.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load_with(&registry(), Some(file), owned).unwrap()
}

#[test]
fn a_url_that_no_store_has_is_refused_by_its_rule_and_not_shown() {
    let table = [
        (
            with_keys("postgres://u:canary@h"),
            "FILE:7: store.url: must name a database",
        ),
        (
            with_keys("postgres://u:canary@h/d?sslmode=prefer"),
            "FILE:7: store.url: sslmode must be verify-full or disable",
        ),
        (
            of("url = \"postgresql://u:canary@h/d\""),
            "FILE:6: store.fingerprint_key_file: is required with PostgreSQL",
        ),
        (
            with_keys("postgres://u:canary@h/d") + "\nconnections = 1",
            "FILE:9: store.connections: must be a whole number from 2 to 100",
        ),
        (
            of("connections = 9"),
            "FILE:7: store.connections: must be left out, unless `url` is one of PostgreSQL",
        ),
        (
            with_keys("postgres://u:canary@h/d") + "\nurl_file = \"/nonexistent\"",
            "FILE:9: store.url_file: must be given as either `url` or `url_file`, not both",
        ),
        (
            of("url_file = \"/nonexistent/canary\"\nconnections = 9"),
            "FILE:7: store.url_file: must be a file that can be read: No such file",
        ),
    ];
    for (text, expected) in table {
        let message = refused(&text, &[]);
        assert!(message.contains(expected), "{text}\n{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(!message.contains("canary"), "{message}");
    }
}

#[test]
fn a_url_of_postgresql_is_a_secret_however_it_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let (settings, url_file) = (folder.path().join("t.toml"), folder.path().join("url"));
    let url = "postgres://u:canary@db.example/tills";
    fs::write(&url_file, format!("{url}\n")).unwrap();
    let written = |lines: &str| fs::write(&settings, of(lines)).unwrap();
    let keys = format!("fingerprint_key_file = \"{KEYS}\"\nconnections = 9");
    let in_settings = format!("url = \"{url}\"\n{keys}");
    let in_file = format!("url_file = {url_file:?}\n{keys}");
    let variable = [("TILLWATCH_STORE__URL", url)];
    let cases = [
        (&in_settings, &[][..], "# url = \"[redacted]\"".to_owned()),
        (&in_file, &[][..], format!("url_file = {url_file:?}")),
        (&keys, &variable[..], "# url = \"[redacted]\"".to_owned()),
    ];
    for (lines, variables, shown) in cases {
        written(lines);
        let config = loaded(&settings, variables);
        let Database::Postgres(store) = &config.store.database else {
            panic!("{:?}", config.store);
        };
        assert_eq!(store.connections, 9);
        let keys = FingerprintKeys::Named(KEYS.into());
        assert_eq!(config.store.fingerprint_keys, keys);
        let told = format!("{config:?}");
        assert!(
            !told.contains("canary") && told.contains("db.example"),
            "{told}"
        );
        let printed = config.print();
        assert!(!printed.contains("canary"), "{printed}");
        for line in [&shown, "connections = 9"] {
            assert!(
                printed.lines().any(|printed| printed == line),
                "{line} in {printed}"
            );
        }
        // With the secret in its place, the text makes the same settings.
        let whole = printed.replace("# url = \"[redacted]\"", &format!("url = \"{url}\""));
        let whole = whole.replace(
            "# token_sha256 = \"[redacted]\"",
            &format!("token_sha256 = [\"{TOKEN}\"]"),
        );
        fs::write(&settings, whole).unwrap();
        assert_eq!(loaded(&settings, &[]).store.database, config.store.database);
    }
}

#[test]
fn another_password_wants_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let settings = folder.path().join("t.toml");
    let [old, new] = ["canary", "other"].map(|password| {
        fs::write(
            &settings,
            with_keys(&format!("postgres://u:{password}@h/d")),
        )
        .unwrap();
        loaded(&settings, &[])
    });
    assert_eq!(old.restart_keys(&new), ["store.url"]);
    assert_eq!(old.restart_keys(&old), [""; 0]);
}

#[test]
fn a_file_with_a_url_of_postgresql_that_others_can_read_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let names = ["t.toml", "url", "keys"];
    let (url, keys) = (path("url"), path("keys"));
    fs::write(&url, "postgres://u:canary@h/d").unwrap();
    fs::write(&keys, "").unwrap();
    let warned = |first: &str, mode: u32| {
        let text = of(&format!("{first}\nfingerprint_key_file = {keys:?}"));
        fs::write(path("t.toml"), format!("{text}{ACCOUNT}")).unwrap();
        for name in names {
            fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
        }
        // The account's token is a variable's, so the settings hold no secret but the URL.
        let token = [("TILLWATCH_ACCOUNTS__MASUMI_MAIN__TOKEN", "canary")];
        loaded(&path("t.toml"), &token).warnings().join("\n")
    };
    let (inline, by_file) = (
        "url = \"postgres://u:canary@h/d\"",
        format!("url_file = {url:?}"),
    );
    for (first, whose) in [
        (inline, "store.url: the file"),
        (&by_file, "store.url_file: the file"),
    ] {
        assert_eq!(warned(first, 0o600), "");
        let told = warned(first, 0o644);
        assert!(told.contains(whose), "{told}");
        assert!(
            told.contains("store.fingerprint_key_file: the file"),
            "{told}"
        );
    }
}
