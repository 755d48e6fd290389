//! The imports of each file: every crate once, the standard library first and the project's own
//! modules last.

use std::collections::BTreeSet;

use super::{check, sources::sources};

/// The first names of imports that stand together. A name with `::` before it is a crate's.
fn blocks(text: &str) -> Vec<Vec<&str>> {
    let mut blocks = vec![Vec::new()];
    let mut is_conditional = false;
    let mut lines = text.lines().map(str::trim_start);
    while let Some(line) = lines.next() {
        let is_passed = line.is_empty() || line.starts_with("//") || line.starts_with('#');
        let statement = line.strip_prefix("pub").map_or(line, |rest| {
            let rest = rest.trim_start();
            rest.split_once(") ").map_or(rest, |(_, rest)| rest)
        });
        if let Some(path) = statement.strip_prefix("use ") {
            let name = path.strip_prefix("::").unwrap_or(path);
            let end = name.find([':', ';', ' ']).unwrap_or(name.len());
            if statement == line && !is_conditional {
                let root = &path[..path.len() - name.len() + end];
                blocks.last_mut().expect("a block").push(root);
            }
            if !line.contains(';') {
                lines.by_ref().find(|line| line.contains(';'));
            }
        } else if !is_passed && module(statement).is_none() {
            blocks.push(Vec::new());
        }
        is_conditional = line.starts_with("#[cfg");
    }
    blocks.retain(|block| !block.is_empty());
    blocks
}

/// The module that a line declares.
fn module(statement: &str) -> Option<&str> {
    statement.strip_prefix("mod ")?.strip_suffix(';')
}

/// The faults of a file's imports.
fn faults(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim_start);
    let declared = lines.filter_map(|line| module(line.strip_prefix("pub ").unwrap_or(line)));
    let own: BTreeSet<&str> = declared.chain(["crate", "super", "self"]).collect();
    let rank = |root: &str| match root {
        "std" | "core" | "alloc" => 0,
        _ if own.contains(root) => 2,
        _ => 1,
    };
    let mut faults = Vec::new();
    for block in blocks(text) {
        let mut seen = BTreeSet::new();
        for root in &block {
            let is_new = seen.insert(*root);
            if !is_new && (rank(root) < 2 || *root == "crate") {
                faults.push(format!("{root} is imported twice"));
            }
        }
        if !block.is_sorted_by_key(|root| rank(root)) {
            faults.push(format!("{block:?} must be std, crates, own modules"));
        }
    }
    faults
}

#[test]
fn imports_are_merged_by_crate_in_the_order_std_crates_own_modules() {
    let mut broken = Vec::new();
    for (name, text) in sources() {
        broken.extend(faults(&text).iter().map(|fault| format!("{name}: {fault}")));
    }
    check(broken);
}

#[test]
fn the_scan_finds_imports_that_stand_apart() {
    let table = [
        ("use std::fmt;\nuse http::Uri;\n\nuse super::*;\n", 0),
        ("mod http;\n\nuse ::http::Uri;\n\nuse http::Own;\n", 0),
        ("use std::{\n    fmt,\n};\n#[cfg(unix)]\nuse std::os;\n", 0),
        ("pub use own::Own;\nuse std::fmt;\n", 0),
        ("use std::fmt;\n\nfn main() {\n    use std::io;\n}\n", 0),
        ("use std::fmt;\nuse std::io;\n", 1),
        ("use std::{\n    fmt,\n};\nuse std::io;\n", 1),
        ("use http::Uri;\nuse std::fmt;\n", 1),
        ("mod own;\nuse own::Own;\nuse http::Uri;\n", 1),
        ("use crate::a;\nuse crate::b;\n", 1),
    ];
    for (text, expected) in table {
        assert_eq!(faults(text).len(), expected, "{text}: {:?}", faults(text));
    }
}

/// True if a closure in this text calls its argument `it`.
fn has_nameless_argument(text: &str) -> bool {
    ["|it|", "|it,", ", it|"]
        .iter()
        .any(|form| text.contains(form))
}

#[test]
fn the_arguments_of_closures_have_names() {
    let mut sources = sources();
    // The file that spells the forms out.
    sources.retain(|(file, _)| !file.ends_with("tidy/imports.rs"));
    let nameless = sources
        .into_iter()
        .filter(|(_, text)| has_nameless_argument(text));
    let nameless: Vec<String> = nameless.map(|(file, _)| file).collect();
    assert_eq!(nameless, Vec::<String>::new());
    assert!(has_nameless_argument("rows.map(|it| it.id)"));
    assert!(!has_nameless_argument("rows.map(|item| item.id)"));
}
