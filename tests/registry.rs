//! Every list, match and table that names providers agrees with the registry. If somebody adds a
//! provider and forgets one of them, a test names the place.

use std::{collections::BTreeSet, fs};

use tillwatch_server::provider::{NAMES, REGISTRY};

use crate::tidy::sources::{root, sources};

/// The text of a file of the repository.
fn text_of(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Fails with the names that are missing.
#[track_caller]
fn names_all(what: &str, has: impl Fn(&str) -> bool) {
    let lacking: Vec<&str> = NAMES.into_iter().filter(|name| !has(name)).collect();
    assert!(lacking.is_empty(), "{what} lacks {lacking:?}");
}

/// A provider's name as prose writes it.
fn title(name: &str) -> String {
    let (first, rest) = name.split_at(1);
    format!("{}{rest}", first.to_uppercase())
}

#[test]
fn each_provider_has_fixtures() {
    names_all("tests/fixtures", |name| {
        let folder = root().join("tests/fixtures").join(name);
        fs::read_dir(folder).is_ok_and(|mut files| files.next().is_some())
    });
}

#[test]
fn each_provider_is_fuzzed() {
    let manifest = text_of("fuzz/Cargo.toml");
    names_all("fuzz", |name| {
        let target = format!("fuzz_targets/{name}.rs");
        let is_declared = manifest.contains(&format!("path = \"{target}\""));
        is_declared && text_of(&format!("fuzz/{target}")).contains(&format!("\"{name}\""))
    });
}

#[test]
fn each_provider_is_simulated_by_the_sandbox_in_the_registrys_order() {
    assert_eq!(tillwatch_sandbox::PROVIDERS.to_vec(), NAMES.to_vec());
    let settings = text_of("docs/sandbox.toml");
    names_all("docs/sandbox.toml", |name| {
        settings.contains(&format!("provider = \"{name}\""))
    });
}

#[test]
fn the_pages_name_each_provider() {
    let readme = text_of("README.md");
    let sentence = readme.lines().find(|line| line.contains("are built in:"));
    let sentence = sentence.expect("the README says which providers are built in");
    names_all("README.md", |name| sentence.contains(&title(name)));
    let operations = text_of("docs/OPERATIONS.md");
    let key = operations
        .lines()
        .find(|line| line.starts_with("| `provider` |"));
    let key = key.expect("the key `provider` is described");
    names_all("the key `provider` in docs/OPERATIONS.md", |name| {
        key.contains(&format!("`{name}`"))
    });
    for row in REGISTRY {
        let secrets: Vec<String> = row.secrets.iter().map(|name| format!("`{name}`")).collect();
        let line = format!("| {} | {} |", row.name, secrets.join(", "));
        assert!(
            operations.contains(&line),
            "docs/OPERATIONS.md lacks {line}"
        );
    }
    names_all("the table of schedules in docs/OPERATIONS.md", |name| {
        let is_schedule =
            |line: &str| line.starts_with(&format!("| {name} |")) && line.matches('|').count() == 7;
        operations.lines().any(is_schedule)
    });
}

/// Lists in brackets that name most of the providers, but not all.
fn incomplete_lists(text: &str) -> Vec<String> {
    let known: BTreeSet<&str> = NAMES.into();
    let mut incomplete = Vec::new();
    for after in text.split('[').skip(1) {
        let list = after.split([']', '[']).next().unwrap_or_default();
        let quoted: BTreeSet<&str> = list.split('"').skip(1).step_by(2).collect();
        let named = quoted.intersection(&known).count();
        if named + 1 == known.len() && quoted.is_subset(&known) && named >= 5 {
            incomplete.push(list.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    incomplete
}

#[test]
fn no_list_of_providers_lacks_one() {
    let mut broken = Vec::new();
    for (name, text) in sources() {
        broken.extend(
            incomplete_lists(&text)
                .iter()
                .map(|list| format!("{name}: {list}")),
        );
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// The words by which a match refuses a provider that it does not know.
const REFUSALS: [&str; 3] = ["panic!(", "unreachable!(", "without_sample("];

/// The catch-all arms of matches over providers' names that stand for a provider. Sources are
/// formatted, so the arms of a match have one indentation.
fn catch_alls(text: &str) -> Vec<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let is_named = |line: &str| {
        let names_one = |name: &&str| line.trim_start().starts_with(&format!("\"{name}\""));
        NAMES.iter().any(names_one) && (line.contains("=>") || line.ends_with('|'))
    };
    let mut found = BTreeSet::new();
    for (at, line) in lines.iter().enumerate().filter(|(_, line)| is_named(line)) {
        let depth = indent(line);
        let rest = lines.iter().enumerate().skip(at + 1);
        let arms = rest.take_while(|(_, line)| line.trim().is_empty() || indent(line) >= depth);
        for (place, arm) in arms.filter(|(_, line)| indent(line) == depth) {
            let arm = arm.trim_start();
            let is_catch_all = ["_ =>", "other =>", "name =>"];
            if !is_catch_all.iter().any(|pattern| arm.starts_with(pattern)) {
                continue;
            }
            let next = lines.get(place + 1).copied().unwrap_or_default();
            if !REFUSALS
                .iter()
                .any(|word| arm.contains(word) || next.contains(word))
            {
                found.insert(place + 1);
            }
        }
    }
    found.into_iter().collect()
}

#[test]
fn a_catch_all_never_means_a_provider() {
    let mut broken = Vec::new();
    for (name, text) in sources() {
        broken.extend(
            catch_alls(&text)
                .iter()
                .map(|line| format!("{name}:{line}")),
        );
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn the_scans_find_a_forgotten_provider() {
    let (last, others) = NAMES.split_last().expect("there are providers");
    let quoted = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
        format!("[{}]", names.join(", "))
    };
    assert_eq!(incomplete_lists(&quoted(&NAMES)), [""; 0]);
    let is_found = !incomplete_lists(&quoted(others)).is_empty();
    assert_eq!(is_found, others.len() >= 5);
    let arm = |rest: &str| format!("match name {{\n    \"{last}\" => 1,\n    _ => {rest},\n}}\n");
    assert_eq!(catch_alls(&arm("2")), [3]);
    assert_eq!(catch_alls(&arm("panic!(\"{name}\")")), [0; 0]);
}
