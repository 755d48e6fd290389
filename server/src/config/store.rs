//! `[store]`: the journal's database, the file of its fingerprint keys, and the time for which it keeps
//! purchases.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use crate::journal::postgres;

use super::{
    file,
    secret::{self, Secrets},
    server::TEN_YEARS,
    tree::Section,
};

/// The connections for reads from PostgreSQL.
const CONNECTIONS: std::ops::RangeInclusive<u32> = 2..=100;
/// Their number if nobody says otherwise.
const CONNECTIONS_USUAL: u32 = 4;

/// The place of the journal.
#[derive(Debug, Clone)]
pub struct Store {
    /// The journal's database.
    pub database: Database,
    /// The time for which a purchase is kept after it is FINAL.
    pub retention: Duration,
    /// The file with the fingerprint keys.
    pub fingerprint_keys: FingerprintKeys,
}

/// The journal's database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    /// A file of SQLite.
    Sqlite(PathBuf),
    /// A database on a PostgreSQL server.
    Postgres(Box<postgres::Settings>),
}

impl Database {
    /// The database of a URL.
    ///
    /// # Errors
    /// The rule that it breaks, without any part of it.
    pub fn parse(url: &str) -> Result<Self, &'static str> {
        of_url(url)
    }
}

/// The file with the fingerprint keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FingerprintKeys {
    /// A file that the settings name, and that exists.
    Named(PathBuf),
    /// The file beside an SQLite database, which is made with it.
    Beside(PathBuf),
}

impl FingerprintKeys {
    /// The file beside an SQLite database.
    pub fn beside(database: &Path) -> Self {
        let mut name = database.as_os_str().to_owned();
        name.push(".fingerprint-keys");
        Self::Beside(PathBuf::from(name))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        match self {
            Self::Named(path) | Self::Beside(path) => path,
        }
    }
}

pub(super) fn store(mut section: Section<'_>, secrets: &mut Secrets<'_>) -> Store {
    let database = database(&mut section, secrets);
    let keys = fingerprint_keys(&mut section, &database);
    let what = "store.fingerprint_key_file: the file";
    secrets.warnings.extend(file::exposed(keys.path(), what));
    let store = Store {
        database,
        retention: section
            .duration("retention", Duration::from_secs(1)..=TEN_YEARS)
            .unwrap_or(Duration::from_secs(90 * 86_400)),
        fingerprint_keys: keys,
    };
    section.finish();
    store
}

fn database(section: &mut Section<'_>, secrets: &mut Secrets<'_>) -> Database {
    const KEY: &str = "connections";
    let place = section.place(KEY);
    let connections = section.count(KEY, CONNECTIONS, CONNECTIONS_USUAL);
    let usual = || Database::Sqlite(PathBuf::from("tillwatch.db"));
    let given = secret::given(section, "url");
    let url_place = given.as_ref().and_then(|given| given.place.as_deref());
    let mut database = match &given {
        None => usual(),
        Some(given) => of_url(given.secret.expose()).unwrap_or_else(|rule| {
            section.refuse(url_place, &given.key, rule);
            usual()
        }),
    };
    match &mut database {
        Database::Sqlite(path) => {
            file::check_folder(section, url_place, "url", path);
            if place.is_some() && !section.is_refused() {
                let rule = "must be left out, unless `url` is one of PostgreSQL";
                section.refuse(place.as_deref(), KEY, rule);
            }
            let what = "store.url: the journal";
            secrets.warnings.extend(file::exposed(path, what));
        }
        Database::Postgres(settings) => {
            settings.connections = usize::try_from(connections).unwrap_or(usize::MAX);
            given.iter().for_each(|given| secrets.warn(section, given));
        }
    }
    database
}

/// The database of a URL, or the rule that it breaks, without any part of it.
fn of_url(url: &str) -> Result<Database, &'static str> {
    match url.split(':').next() {
        Some("sqlite") => sqlite_file(url).map(Database::Sqlite),
        Some("postgres" | "postgresql") => {
            let settings = postgres::Settings::parse(url)?;
            Ok(Database::Postgres(Box::new(settings)))
        }
        _ => Err("must be sqlite:FILE or postgres://USER:PASSWORD@HOST:PORT/DATABASE"),
    }
}

fn sqlite_file(url: &str) -> Result<PathBuf, &'static str> {
    let path = url.strip_prefix("sqlite:").unwrap_or_default();
    let path = path.strip_prefix("//").unwrap_or(path);
    // `:memory:` would forget every purchase, and a parameter could loosen how commits are synced.
    if path.is_empty() || path.starts_with(':') || path.contains('?') {
        return Err("must be sqlite:FILE, a file without parameters");
    }
    Ok(PathBuf::from(path))
}

fn fingerprint_keys(section: &mut Section<'_>, database: &Database) -> FingerprintKeys {
    const KEY: &str = "fingerprint_key_file";
    match (section.text(KEY), database) {
        (Some(text), _) => {
            let path = PathBuf::from(text.text);
            let place = text.place.as_deref();
            if !path.is_file() {
                file::check_folder(section, place, KEY, &path);
                if !section.is_refused() {
                    section.refuse(place, KEY, "must be a file that exists");
                }
            }
            FingerprintKeys::Named(path)
        }
        (None, Database::Sqlite(path)) => FingerprintKeys::beside(path),
        (None, Database::Postgres(_)) => {
            let rule =
                "is required with PostgreSQL: whoever opens the database needs the same keys";
            section.refuse(None, KEY, rule);
            FingerprintKeys::Named(PathBuf::new())
        }
    }
}
