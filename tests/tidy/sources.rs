//! The sources as text: these functions find them, and read in them what the rules are about.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The workspace's folder.
pub fn root() -> PathBuf {
    let server = Path::new(env!("CARGO_MANIFEST_DIR"));
    server
        .parent()
        .expect("the server lies in the workspace")
        .to_owned()
}

/// Every file below a folder, without build output and hidden folders.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(folder) else {
        return found;
    };
    for entry in entries {
        let path = entry.expect("a folder's entry").path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if name.starts_with('.') || name == "target" {
            continue;
        }
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Each source file of the project: its path from the root, and its text.
pub fn sources() -> Vec<(String, String)> {
    let root = root();
    let found: Vec<(String, String)> = files(&root)
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .map(|path| {
            let name = path
                .strip_prefix(&root)
                .expect("below the root")
                .display()
                .to_string();
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
            (name, text)
        })
        .collect();
    assert!(
        found.len() > 100,
        "the sources were not found: {} files",
        found.len()
    );
    found
}

/// The text without line comments.
pub fn uncommented(text: &str) -> String {
    let code = |line: &str| match line.find("//") {
        // An address has two slashes too.
        Some(at) if at == 0 || !line[..at].ends_with(':') => line[..at].to_owned(),
        _ => line.to_owned(),
    };
    text.lines().map(code).collect::<Vec<_>>().join("\n")
}

/// The text without its last module, if that holds tests.
pub fn untested(text: &str) -> &str {
    match text.find("#[cfg(test)]\nmod tests {") {
        Some(at) => &text[..at],
        None => text,
    }
}

/// True if a file of the server holds tests alone.
pub fn is_tests(name: &str) -> bool {
    ["/tests", "/testing.rs", "/suite", "/fixture"]
        .iter()
        .any(|part| name.contains(part))
}

/// The server's own code: module, path and text, without comments and tests.
pub fn server_code() -> Vec<(String, String, String)> {
    sources()
        .into_iter()
        .filter_map(|(name, text)| {
            let below = name.strip_prefix("server/src/")?.to_owned();
            let module = below
                .split('/')
                .next()
                .unwrap_or_default()
                .trim_end_matches(".rs")
                .to_owned();
            let code = uncommented(untested(&text));
            (!is_tests(&name)).then_some((module, below, code))
        })
        .collect()
}

/// The first names after `crate::`, also those of a group in braces.
pub fn imported(code: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for after in code.split("crate::").skip(1) {
        let Some(group) = after.strip_prefix('{') else {
            names.insert(word(after));
            continue;
        };
        let (mut depth, mut is_first) = (1, true);
        for (at, letter) in group.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 1 => is_first = true,
                letter if depth == 1 && is_first && letter.is_alphanumeric() => {
                    names.insert(word(&group[at..]));
                    is_first = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    names.remove("");
    names
}

/// The identifier at the start of a text.
pub fn word(text: &str) -> String {
    text.chars()
        .take_while(|letter| letter.is_alphanumeric() || *letter == '_')
        .collect()
}

/// True if a text says a word by itself, not as a part of another.
pub fn says(text: &str, wanted: &str) -> bool {
    let is_part = |letter: Option<char>| {
        letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_')
    };
    text.match_indices(wanted).any(|(at, _)| {
        !is_part(text[..at].chars().next_back())
            && !is_part(text[at + wanted.len()..].chars().next())
    })
}

/// True if a path upwards leaves the module without saying `crate`.
pub fn climbs_out(file: &str, code: &str) -> bool {
    let depth = file.matches('/').count() + 1;
    let mut is_inline = false;
    code.lines().any(|line| {
        match line {
            "}" => is_inline = false,
            _ if says(line, "mod") && !line.starts_with(' ') && line.ends_with('{') => {
                is_inline = true;
            }
            _ => {}
        }
        line.contains(&"super::".repeat(depth + usize::from(is_inline)))
    })
}
