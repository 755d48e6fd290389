//! Each line of "Invariants" in `docs/ARCHITECTURE.md` names the tests that hold it. The tests of
//! text are here.

use std::{collections::BTreeSet, fs};

use super::{
    MODULES, check,
    sources::{imported, root, says, server_code, sources},
    test_names,
};

/// Words that an invariant leaves to few modules, and these modules.
const SAID_BY: [(&[&str], &[&str]); 4] = [
    (&["upstream.send(", ".ask(admission,"], &["account"]),
    (&[".submit(&mut admission"], &["intake"]),
    (
        &[".try_admit(", ".admit_for(", ".read(&mut admission"],
        &["account", "intake", "tracker"],
    ),
    (
        &["SystemTime::now", "rand::rng(", "thread_rng("],
        &["clock"],
    ),
];

#[test]
fn every_invariant_names_tests_that_exist() {
    let text = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).expect("the architecture");
    let (_, section) = text.split_once("\n## Invariants\n").expect("the section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let tests = test_names();
    let mut broken = Vec::new();
    let mut lines = 0;
    for line in section.split("\n- ").skip(1) {
        lines += 1;
        let title = line.split("**").nth(1).unwrap_or(line);
        let Some((_, held_by)) = line.split_once("Held by ") else {
            broken.push(format!("{title}: no test is named"));
            continue;
        };
        for name in held_by.split('`').skip(1).step_by(2) {
            if !tests.contains(name) {
                broken.push(format!("{title}: there is no test `{name}`"));
            }
        }
    }
    assert!(lines > 10, "the invariants were not found: {lines}");
    check(broken);
}

#[test]
fn every_right_of_the_module_table_is_used() {
    let mut used = BTreeSet::new();
    for (module, _, code) in server_code() {
        let names = imported(&code).into_iter();
        used.extend(names.map(|name| (module.clone(), name)));
    }
    let mut broken = Vec::new();
    for (module, allowed) in MODULES {
        for name in *allowed {
            if !used.contains(&((*module).to_owned(), (*name).to_owned())) {
                broken.push(format!("`{module}` may use `{name}`, and does not"));
            }
        }
    }
    check(broken);
}

#[test]
fn providers_are_asked_and_time_is_read_where_the_table_says() {
    let mut broken = Vec::new();
    for (module, file, code) in server_code() {
        for (words, modules) in SAID_BY {
            let said = words.iter().filter(|words| code.contains(**words));
            let is_allowed = modules.contains(&module.as_str());
            broken.extend(
                said.filter(|_| !is_allowed)
                    .map(|words| format!("{file}: {words}")),
            );
        }
    }
    check(broken);
}

#[test]
fn no_choice_between_tasks_is_drawn_by_the_process() {
    let mut broken = Vec::new();
    for (module, file, code) in server_code() {
        // A simulation has neither the ways in nor the process itself.
        if ["listener", "serve", "main"].contains(&module.as_str()) {
            continue;
        }
        for after in code.split("select! {").skip(1) {
            if !after.trim_start().starts_with("biased;") {
                broken.push(format!("{file}: a `select!` without `biased`"));
            }
        }
        if says(&code, "watch::channel") {
            broken.push(format!(
                "{file}: tokio's `watch` wakes in the order of a hash"
            ));
        }
    }
    check(broken);
}

#[test]
fn tests_stand_in_modules_of_that_name() {
    let mut broken = Vec::new();
    for (file, text) in sources() {
        let is_product = [
            "server/src/",
            "client/src/",
            "sandbox/src/",
            "simulation/src/",
        ]
        .iter()
        .any(|folder| file.starts_with(folder));
        let is_tests = ["/tests.rs", "/tests/", "/suite", "/trial"]
            .iter()
            .any(|part| file.contains(part));
        let before = text.split("\nmod tests {").next().unwrap_or_default();
        if is_product
            && !is_tests
            && ["#[test]", "#[tokio::test"]
                .iter()
                .any(|word| before.contains(word))
        {
            broken.push(format!(
                "{file}: tests lie in X/tests.rs, in X/tests/, or in `mod tests`"
            ));
        }
    }
    check(broken);
}

/// The modules that each module of the client uses.
fn client_modules() -> Vec<(String, BTreeSet<String>)> {
    let files = sources().into_iter().filter_map(|(file, text)| {
        let module = file.strip_prefix("client/src/")?.strip_suffix(".rs")?;
        let is_part =
            !module.contains('/') && !["lib", "main", "tests", "scripted"].contains(&module);
        let code = super::uncommented(super::sources::untested(&text));
        is_part.then(|| (module.to_owned(), imported(&code)))
    });
    files.collect()
}

#[test]
fn the_clients_modules_have_no_circle() {
    let modules = client_modules();
    assert!(modules.len() > 8, "{modules:?}");
    for (module, uses) in &modules {
        let (mut seen, mut open) = (BTreeSet::new(), Vec::from_iter(uses));
        while let Some(next) = open.pop() {
            assert!(next != module, "`{module}` uses itself: {seen:?}");
            if seen.insert(next.clone()) {
                let found = modules.iter().filter(|(name, _)| name == next);
                open.extend(found.flat_map(|(_, uses)| uses));
            }
        }
    }
}
