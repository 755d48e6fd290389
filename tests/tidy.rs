//! The project's rules that no lint knows. These tests read the sources as text.
//!
//! The module table stands here and in `docs/ARCHITECTURE.md`. A new row or a new right needs a
//! reason there.

mod imports;
mod invariants;
pub mod sources;

use std::{collections::BTreeSet, fs};

use sources::{climbs_out, imported, root, says, server_code, sources, uncommented, word};

/// Each module of the server, and the modules that it may use.
const MODULES: &[(&str, &[&str])] = &[
    ("purchase", &[]),
    ("trace", &["purchase"]),
    ("observation", &["purchase"]),
    ("lifecycle", &["purchase", "observation"]),
    ("cadence", &["purchase"]),
    ("clock", &["purchase"]),
    ("fingerprint", &["purchase"]),
    ("failpoint", &[]),
    ("progress", &["failpoint"]),
    ("figures", &[]),
    ("upstream", &["purchase"]),
    (
        "provider",
        &["purchase", "observation", "upstream", "cadence"],
    ),
    (
        "account",
        &[
            "purchase",
            "observation",
            "cadence",
            "upstream",
            "provider",
            "clock",
            "figures",
            "journal",
            "ownership",
        ],
    ),
    ("journal", &["purchase", "progress", "figures", "clock"]),
    ("ownership", &["purchase", "journal", "progress", "clock"]),
    ("exchange", &["purchase", "journal", "progress", "clock"]),
    (
        "feed",
        &["purchase", "journal", "progress", "figures", "clock"],
    ),
    (
        "intake",
        &[
            "purchase",
            "observation",
            "lifecycle",
            "provider",
            "account",
            "journal",
            "ownership",
            "feed",
            "fingerprint",
            "failpoint",
            "progress",
            "clock",
            "trace",
        ],
    ),
    (
        "tracker",
        &[
            "purchase",
            "observation",
            "lifecycle",
            "cadence",
            "provider",
            "account",
            "journal",
            "ownership",
            "exchange",
            "progress",
            "clock",
            "trace",
        ],
    ),
    (
        "grpc",
        &[
            "purchase",
            "observation",
            "provider",
            "account",
            "identity",
            "intake",
            "tracker",
            "exchange",
            "feed",
            "journal",
            "clock",
            "listener",
            "limits",
            "trace",
            "audit",
        ],
    ),
    ("tls", &["purchase"]),
    ("listener", &["limits", "tls", "figures"]),
    ("identity", &["purchase", "jwt"]),
    ("jwt", &["purchase"]),
    ("health", &["limits", "telemetry"]),
    ("limits", &[]),
    ("outlet", &[]),
    ("audit", &["purchase", "clock", "outlet"]),
    ("telemetry", &["figures", "outlet"]),
    (
        "config",
        &[
            "purchase",
            "cadence",
            "provider",
            "upstream",
            "tls",
            "telemetry",
            "outlet",
            "jwt",
            "journal",
        ],
    ),
];

/// The modules that join all others, and may use everything.
const MEETING_PLACES: [&str; 3] = ["lib", "main", "serve"];

/// Crates that few modules may use: a word of the sources, and the modules that may say it.
const CRATES: &[(&str, &[&str])] = &[
    ("reqwest", &["upstream", "telemetry"]),
    (
        "rustls",
        &["tls", "upstream", "telemetry", "config", "journal"],
    ),
    ("rustls_native_certs", &["journal"]),
    ("opentelemetry", &["trace", "telemetry"]),
    ("opentelemetry_proto", &["telemetry"]),
    ("opentelemetry_sdk", &["trace", "telemetry"]),
    ("tracing_opentelemetry", &["trace", "telemetry"]),
    ("tokio_rustls", &["listener"]),
    ("tonic_web", &["listener"]),
    ("x509_parser", &["tls"]),
    ("rusqlite", &["journal"]),
    ("tokio_postgres", &["journal"]),
    ("tokio_postgres_rustls", &["journal"]),
    ("toml", &["config"]),
    (
        "tillwatch_proto",
        &[
            "fingerprint",
            "provider",
            "intake",
            "grpc",
            "health",
            "serve",
        ],
    ),
    (
        "tonic",
        &["grpc", "health", "listener", "serve", "telemetry"],
    ),
];

/// Modules of values and decisions: no clock, no task, no file, no socket.
const PURE: [&str; 4] = ["purchase", "observation", "lifecycle", "cadence"];
/// Words that a pure module does not say.
const IMPURE: [&str; 7] = [
    "tokio",
    "async",
    "std::fs",
    "std::net",
    "std::env",
    "SystemTime",
    "Instant",
];

/// Places in which floating point numbers count no money: simulated lives, benchmarks, figures for
/// operators, and the chances of changes.
const FLOATS_ALLOWED: [&str; 10] = [
    "sandbox/",
    "bench/",
    "simulation/",
    "tests/",
    "server/src/cadence/",
    "server/src/tracker/",
    "server/src/telemetry",
    "server/src/serve/metrics.rs",
    "server/src/account/figures.rs",
    "server/src/journal/committer",
];

/// The longest that a source file may be.
const LINES_MAX: usize = 600;

fn check(broken: Vec<String>) {
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn a_path_upwards_is_followed_to_where_it_leads() {
    let check = |file: &str, code: &str, expected| assert_eq!(climbs_out(file, code), expected);
    check("clock.rs", "use super::purchase;", true);
    check("clock/wall.rs", "use super::Clock;", false);
    check("clock/wall.rs", "use super::super::purchase;", true);
    check("clock.rs", "mod wall {\n    use super::Clock;\n}", false);
    check("clock.rs", "mod wall {\n}\nuse super::purchase;", true);
}

#[test]
fn imports_are_found_in_every_form() {
    let table: [(&str, &[&str]); 4] = [
        ("use crate::purchase::State;", &["purchase"]),
        ("let x = crate::clock::now();", &["clock"]),
        (
            "use crate::{\n    account::{Account, Admission},\n    clock::Clock,\n    journal::{self, Write},\n};",
            &["account", "clock", "journal"],
        ),
        ("use super::thing;", &[]),
    ];
    for (code, expected) in table {
        let expected: BTreeSet<String> = expected.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(imported(code), expected, "{code}");
    }
}

#[test]
fn modules_use_what_the_table_allows_and_nothing_else() {
    let mut broken = Vec::new();
    let mut seen = BTreeSet::new();
    for (module, file, code) in server_code() {
        seen.insert(module.clone());
        if MEETING_PLACES.contains(&module.as_str()) {
            continue;
        }
        let Some((_, allowed)) = MODULES.iter().find(|(name, _)| *name == module) else {
            broken.push(format!("{file}: the table has no module `{module}`"));
            continue;
        };
        for name in imported(&code) {
            if name != module && !allowed.contains(&name.as_str()) {
                broken.push(format!("{file}: `{module}` may not use `{name}`"));
            }
        }
        if climbs_out(&file, &code) {
            broken.push(format!("{file}: leaves its module through `super`"));
        }
    }
    for (module, _) in MODULES {
        if !seen.contains(*module) {
            broken.push(format!("the table has `{module}`, the server has not"));
        }
    }
    check(broken);
}

#[test]
fn the_module_table_has_no_circle() {
    // A right is unused if its module reaches the other through a third anyway.
    fn reaches<'a>(from: &'a str, seen: &mut BTreeSet<&'a str>) {
        let row = MODULES.iter().find(|(name, _)| *name == from);
        for next in row.map_or(&[][..], |(_, allowed)| allowed) {
            if seen.insert(next) {
                reaches(next, seen);
            }
        }
    }
    for (module, _) in MODULES {
        let mut seen = BTreeSet::new();
        reaches(module, &mut seen);
        assert!(!seen.contains(module), "`{module}` uses itself");
    }
}

#[test]
fn the_module_table_is_the_architectures() {
    let text = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).expect("the architecture");
    let mut told: Vec<(String, BTreeSet<String>)> = Vec::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", module, _, uses, ""] = cells.as_slice() else {
            continue;
        };
        let Some(module) = module
            .strip_prefix('`')
            .and_then(|rest| rest.strip_suffix('`'))
        else {
            continue;
        };
        let uses = uses.split(", ").filter(|name| !name.is_empty());
        told.push((module.to_owned(), uses.map(str::to_owned).collect()));
    }
    let held: Vec<(String, BTreeSet<String>)> = MODULES
        .iter()
        .map(|(module, uses)| {
            let uses = uses.iter().map(|name| (*name).to_owned()).collect();
            ((*module).to_owned(), uses)
        })
        .collect();
    assert_eq!(told, held);
}

#[test]
fn crates_with_one_owner_are_used_by_it_alone() {
    let mut broken = Vec::new();
    for (module, file, code) in server_code() {
        for (name, owners) in CRATES {
            // A string that names a crate uses nothing of it.
            let code = code.replace(&format!("\"{name}\""), "");
            if says(&code, name) && !owners.contains(&module.as_str()) {
                broken.push(format!("{file}: `{module}` may not use the crate `{name}`"));
            }
        }
    }
    check(broken);
}

#[test]
fn pure_modules_do_nothing() {
    let mut broken = Vec::new();
    for (module, file, code) in server_code() {
        for thing in IMPURE {
            if PURE.contains(&module.as_str()) && says(&code, thing) {
                broken.push(format!("{file}: `{module}` is pure and says `{thing}`"));
            }
        }
    }
    check(broken);
}

/// The fields of a status, which only `lifecycle` sets.
const STATUS_FIELDS: [&str; 8] = [
    "state",
    "finality",
    "attention",
    "reference",
    "revision",
    "failure",
    "unmapped",
    "facts",
];
/// The modules beside `lifecycle` that may build a transition: the journal reads stored ones, and
/// the feed passes committed ones on.
const TRANSITIONS_ALLOWED: [&str; 3] = ["lifecycle", "journal", "feed"];

#[test]
fn only_lifecycle_changes_a_status() {
    let mut broken = Vec::new();
    for (module, file, code) in server_code() {
        for line in code.lines().map(str::trim) {
            let makes = says(line, "Transition") && line.contains("Transition {");
            let makes = makes && !line.contains("::Transition {") && !line.contains("fn ");
            let is_other = line.contains("struct ") || line.starts_with("impl ");
            let taken_apart = line.starts_with("let ");
            if makes && !is_other && !taken_apart && !TRANSITIONS_ALLOWED.contains(&module.as_str())
            {
                broken.push(format!("{file}: `{module}` makes a transition: {line}"));
            }
            let sets = |field: &str| {
                ["status", "next"].iter().any(|whose| {
                    line.contains(&format!("{whose}.{field} = "))
                        || line.contains(&format!("{whose}.{field}.insert("))
                })
            };
            if module != "lifecycle" && STATUS_FIELDS.iter().any(|field| sets(field)) {
                broken.push(format!("{file}: `{module}` edits a status: {line}"));
            }
        }
    }
    check(broken);
}

#[test]
fn the_environment_is_read_by_the_configuration_alone() {
    let mut broken = Vec::new();
    for (module, file, code) in server_code() {
        let reads = ["env::var", "env::vars", "env::vars_os"]
            .iter()
            .any(|call| code.contains(call));
        // `main` passes its environment on.
        if reads && !["config", "main"].contains(&module.as_str()) {
            broken.push(format!("{file}: reads the environment"));
        }
    }
    check(broken);
}

#[test]
fn no_file_is_longer_than_it_may_be() {
    let mut broken = Vec::new();
    for (name, text) in sources() {
        let lines = text.lines().count();
        if lines > LINES_MAX {
            broken.push(format!("{name}: {lines} lines, {LINES_MAX} at the most"));
        }
    }
    check(broken);
}

#[test]
fn modules_lie_beside_their_folders_and_are_named_for_what_they_own() {
    let names = [
        "/mod.rs",
        "/util.rs",
        "/utils.rs",
        "/helpers.rs",
        "/common.rs",
    ];
    let broken = sources()
        .into_iter()
        .filter(|(file, _)| names.iter().any(|name| file.ends_with(name)))
        .map(|(file, _)| format!("{file}: a file has the name of what it owns"));
    check(broken.collect());
}

#[test]
fn nothing_is_left_for_later() {
    // The words are put together here, so that this file does not find itself.
    let marks =
        [["TO", "DO"], ["FIX", "ME"], ["#[ign", "ore"], ["XX", "X:"]].map(|parts| parts.concat());
    let mut broken = Vec::new();
    for (name, text) in sources() {
        for (line, content) in text.lines().enumerate() {
            for mark in &marks {
                if content.contains(mark.as_str()) {
                    broken.push(format!("{name}:{}: {mark}", line + 1));
                }
            }
        }
    }
    check(broken);
}

#[test]
fn money_is_never_a_floating_point_number() {
    let mut broken = Vec::new();
    for (name, text) in sources() {
        if FLOATS_ALLOWED.iter().any(|place| name.starts_with(place)) {
            continue;
        }
        let code = uncommented(&text);
        for float in ["f32", "f64"] {
            if says(&code, float) {
                broken.push(format!("{name}: {float}"));
            }
        }
    }
    check(broken);
}

#[test]
fn the_settings_for_the_sandbox_can_be_used() {
    let path = root().join("docs/sandbox.toml");
    let config = tillwatch_server::config::Config::load(Some(&path), std::iter::empty())
        .unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        config.accounts.len(),
        tillwatch_server::provider::NAMES.len()
    );
    // Lives of seconds want polls that no provider's page advises, and the secrets are made up.
    let expected = |warning: &String| {
        warning.contains("faster than") || warning.contains("can be read or written by others")
    };
    let warnings = config.warnings();
    assert!(warnings.iter().all(expected), "{warnings:?}");
}

#[test]
fn every_guarantee_names_tests_that_exist() {
    let text = fs::read_to_string(root().join("docs/GUARANTEES.md")).expect("the guarantees");
    let tests = test_names();
    let mut broken = Vec::new();
    let mut promises = BTreeSet::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", promise, _, held_by, ""] = cells.as_slice() else {
            continue;
        };
        if promise.len() != 2 {
            continue;
        }
        promises.insert((*promise).to_owned());
        let named: Vec<&str> = held_by.split('`').skip(1).step_by(2).collect();
        if named.is_empty() && !held_by.starts_with("not tested yet") {
            broken.push(format!("{promise}: no test is named"));
        }
        for name in named {
            if !tests.contains(name) {
                broken.push(format!("{promise}: there is no test `{name}`"));
            }
        }
    }
    let letters = [('C', 5), ('S', 7), ('P', 6), ('D', 4)];
    let all = letters
        .iter()
        .flat_map(|(letter, last)| (1..=*last).map(move |number| format!("{letter}{number}")));
    let missing = all.filter(|promise| !promises.contains(promise));
    broken.extend(missing.map(|promise| format!("{promise}: has no row")));
    check(broken);
}

/// The names of all test functions. Each behaviour of the journal's suite is a test of its name.
fn test_names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (file, text) in sources() {
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            }
            let Some(at) = line.find("fn ").filter(|_| !line.starts_with("//")) else {
                continue;
            };
            let is_behaviour = file.contains("journal/suite/") && line.starts_with("pub async fn");
            if is_test || is_behaviour {
                names.insert(word(&line[at + 3..]));
            }
            is_test = false;
        }
    }
    assert!(
        names.len() > 100,
        "the tests were not found: {}",
        names.len()
    );
    names
}
