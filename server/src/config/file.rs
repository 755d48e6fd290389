//! Checks of the files that settings name, before anything opens them.

use std::{os::unix::fs::MetadataExt as _, path::Path};

use super::tree::Section;

/// The mode bits by which every account on the machine can read or write a file.
const OTHERS: u32 = 0o006;

/// Refuses a path whose folder is missing: the system would name the file, which need not exist.
pub(super) fn check_folder(section: &Section<'_>, place: Option<&str>, key: &str, path: &Path) {
    if !folder(path).is_dir() {
        let rule = "must lie in a folder that exists: the folder is missing";
        section.refuse(place, key, rule);
    }
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// The warning about a file with secrets that others can read or write; `None` if they cannot, or if
/// there is no file.
pub(super) fn exposed(path: &Path, what: &str) -> Option<String> {
    let mode = path.metadata().ok()?.mode();
    (mode & OTHERS != 0)
        .then(|| format!("{what} can be read or written by others; its mode should be 0600"))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    #[test]
    fn a_file_is_exposed_where_others_can_read_or_write_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, expected) in [
            (0o600, false),
            (0o640, false),
            (0o660, false),
            (0o604, true),
            (0o644, true),
            (0o602, true),
            (0o666, true),
        ] {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(exposed(file.path(), "it").is_some(), expected, "{mode:o}");
        }
        assert_eq!(exposed(Path::new("/nonexistent"), "it"), None);
    }
}
