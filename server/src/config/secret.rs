//! Secrets: each is given as itself, or by the file that holds it.

use std::path::{Path, PathBuf};

use crate::purchase::Secret;

use super::{file, tree::Section};

/// The secrets of all sections, as far as they share a file.
pub(super) struct Secrets<'a> {
    /// The settings' file, until it is known to hold a secret.
    pub(super) file: Option<&'a Path>,
    pub(super) warnings: &'a mut Vec<String>,
}

/// A secret, and its origin.
pub(super) struct Given {
    pub(super) secret: Secret,
    /// The key that gave it.
    pub(super) key: String,
    pub(super) place: Option<String>,
    origin: Origin,
}

enum Origin {
    Settings,
    Environment,
    File(PathBuf),
}

impl Secrets<'_> {
    /// The secret of a key, given as itself or by the file of `KEY_file`; `None` if it is missing or
    /// refused. Warns of a file that others can read.
    pub(super) fn read(&mut self, section: &mut Section<'_>, key: &str) -> Option<Given> {
        let given = given(section, key)?;
        self.warn(section, &given);
        Some(given)
    }

    /// Warns of the file that holds a secret, if others can read it.
    pub(super) fn warn(&mut self, section: &Section<'_>, given: &Given) {
        match &given.origin {
            Origin::Environment => {}
            // The first secret alone gives a warning, since the warning is about the file.
            Origin::Settings => {
                if let Some(settings) = self.file.take() {
                    self.held_in(settings, section, &given.key);
                }
            }
            Origin::File(file) => self.held_in(file, section, &given.key),
        }
    }

    /// Warns of a file that holds the secret of a key, if others can read it.
    pub(super) fn held_in(&mut self, file: &Path, section: &Section<'_>, key: &str) {
        let what = format!("{}: the file that holds it", section.whole(key));
        self.warnings.extend(file::exposed(file, &what));
    }
}

/// The text of a key, given as itself or by the file of `KEY_file`; `None` if it is missing or refused.
pub(super) fn given(section: &mut Section<'_>, key: &str) -> Option<Given> {
    let file_key = format!("{key}_file");
    let inline = section.text(key);
    let Some(file) = section.text(&file_key) else {
        let inline = inline?;
        return Some(Given {
            secret: Secret::new(inline.text),
            key: key.to_owned(),
            place: inline.place,
            origin: match inline.is_in_file {
                true => Origin::Settings,
                false => Origin::Environment,
            },
        });
    };
    let place = file.place.as_deref();
    if inline.is_some() {
        let rule = format!("must be given as either `{key}` or `{file_key}`, not both");
        section.refuse(place, &file_key, rule);
        return None;
    }
    match std::fs::read_to_string(&file.text) {
        Ok(text) => {
            // Editors and `echo` end a file with a newline that is not part of the secret.
            let text = text.strip_suffix('\n').unwrap_or(&text);
            Some(Given {
                secret: Secret::new(text.strip_suffix('\r').unwrap_or(text)),
                key: file_key,
                place: file.place,
                origin: Origin::File(PathBuf::from(file.text)),
            })
        }
        Err(error) => {
            let rule = format!("must be a file that can be read: {error}");
            section.refuse(place, &file_key, rule);
            None
        }
    }
}
