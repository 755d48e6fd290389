//! The settings before they have types: a tree of values that know their places.
//!
//! Sections hand out their keys one by one. A key that nobody has asked for when a section is
//! finished is unknown.

use std::{cell::RefCell, collections::BTreeMap, ops::RangeInclusive, time::Duration};

use toml::de::{DeTable, DeValue};

use super::{ConfigError, Problem, duration};

/// The beginning of the name of an environment variable of this service.
const PREFIX: &str = "TILLWATCH_";
/// The sign between the sections and the key in such a name.
const SEPARATOR: &str = "__";
/// The sections, as variables spell them.
const SECTIONS: [&str; 6] = [
    "LISTEN",
    "STORE",
    "CALLERS",
    "ACCOUNTS",
    "LIMITS",
    "TELEMETRY",
];
/// Sections whose keys are names that the operator chose.
const NAMING: [&str; 2] = ["callers", "accounts"];

/// One value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    place: Option<String>,
    value: Value,
    /// The text of an environment variable, for keys that take any text as it is.
    raw: Option<String>,
}

#[derive(Debug, Clone)]
enum Value {
    Text(String),
    Whole(i64),
    Truth(bool),
    List(Vec<Node>),
    Table(BTreeMap<String, Node>),
    /// A float or a date, which no key wants.
    Other,
}

impl Node {
    /// The entries of a section; `None` if it is none.
    pub(super) fn entries(&self) -> Option<&BTreeMap<String, Self>> {
        match &self.value {
            Value::Table(entries) => Some(entries),
            _ => None,
        }
    }

    /// The value as TOML; `None` if no key wants such a value.
    pub(super) fn to_toml(&self) -> Option<toml::Value> {
        Some(match &self.value {
            Value::Text(text) => toml::Value::String(text.clone()),
            Value::Whole(number) => toml::Value::Integer(*number),
            Value::Truth(truth) => toml::Value::Boolean(*truth),
            Value::List(items) => {
                toml::Value::Array(items.iter().filter_map(Self::to_toml).collect())
            }
            Value::Table(entries) => {
                let entries = entries.iter();
                let entries =
                    entries.filter_map(|(key, node)| Some((key.clone(), node.to_toml()?)));
                toml::Value::Table(entries.collect())
            }
            Value::Other => return None,
        })
    }
}

/// The problems found so far.
#[derive(Debug, Default)]
pub(super) struct Problems(RefCell<Vec<Problem>>);

impl Problems {
    /// Adds a problem.
    pub(super) fn add(&self, place: Option<&str>, key: &str, rule: impl Into<String>) {
        self.0.borrow_mut().push(Problem {
            place: place.map(str::to_owned),
            key: key.to_owned(),
            rule: rule.into(),
        });
    }

    /// Ends the reading if there are any.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let found = self.0.take();
        if found.is_empty() {
            return Ok(());
        }
        Err(ConfigError::Refused(found))
    }
}

/// Reads a file's text.
pub(super) fn parse(file: &str, text: &str, problems: &Problems) -> Node {
    let place_of = |offset: usize| {
        let before = text.get(..offset).unwrap_or(text);
        format!("{file}:{}", before.matches('\n').count() + 1)
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let place = error.span().map(|span| place_of(span.start));
        problems.add(place.as_deref(), "", error.message());
    }
    Node {
        place: None,
        value: of_table(table.into_inner(), &place_of),
        raw: None,
    }
}

fn of_table(table: DeTable<'_>, place_of: &dyn Fn(usize) -> String) -> Value {
    let entries = table.into_iter().map(|(key, value)| {
        // An operator looks for the key's place; a table's own span can begin anywhere.
        let place = place_of(key.span().start);
        let node = of_value(value.into_inner(), place, place_of);
        (key.into_inner().into_owned(), node)
    });
    Value::Table(entries.collect())
}

fn of_value(value: DeValue<'_>, place: String, place_of: &dyn Fn(usize) -> String) -> Node {
    let value = match value {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or(Value::Other, Value::Whole)
        }
        DeValue::Boolean(truth) => Value::Truth(truth),
        DeValue::Float(_) | DeValue::Datetime(_) => Value::Other,
        DeValue::Array(array) => {
            let items = array.into_iter().map(|item| {
                let place = place_of(item.span().start);
                of_value(item.into_inner(), place, place_of)
            });
            Value::List(items.collect())
        }
        DeValue::Table(table) => of_table(table, place_of),
    };
    Node {
        place: Some(place),
        value,
        raw: None,
    }
}

/// Lays `TILLWATCH_SECTION__KEY` variables over the file's values.
pub(super) fn overlay(
    tree: &mut Node,
    environment: &BTreeMap<String, String>,
    problems: &Problems,
) {
    // Sorted, so that a whole table comes before its own keys and the outcome is always the same.
    for (variable, text) in environment {
        let name = variable.to_ascii_uppercase();
        let Some(path) = name.strip_prefix(PREFIX) else {
            continue;
        };
        let steps: Vec<String> = path.split(SEPARATOR).map(str::to_lowercase).collect();
        if steps.len() < 2 && !is_misspelt(path) {
            continue;
        }
        if steps.len() < 2 || steps.iter().any(String::is_empty) {
            let rule = "must have two underscores between the parts of its name, as in \
                        TILLWATCH_LISTEN__GRPC";
            problems.add(Some(variable), "", rule);
            continue;
        }
        let value = match DeValue::parse(text) {
            Ok(value) => of_value(value.into_inner(), variable.clone(), &|_| variable.clone()),
            Err(_) => Node {
                place: Some(variable.clone()),
                value: Value::Text(text.clone()),
                raw: None,
            },
        };
        let node = Node {
            raw: Some(text.clone()),
            ..value
        };
        if let Err(rule) = put(tree, &steps, node) {
            problems.add(Some(variable), "", rule);
        }
    }
}

/// True if a name without `__` means a setting: it begins with a section, and is no name by which an
/// orchestrator announces a service of that name.
fn is_misspelt(path: &str) -> bool {
    let is_announced = |rest: &str| {
        ["PORT", "SERVICE_HOST"].contains(&rest)
            || rest.starts_with("PORT_")
            || rest.starts_with("SERVICE_PORT")
    };
    SECTIONS
        .iter()
        .any(|section| match path.strip_prefix(section) {
            Some("") => true,
            Some(rest) => rest
                .strip_prefix('_')
                .is_some_and(|rest| !is_announced(rest)),
            None => false,
        })
}

/// Puts a value at the end of the steps, making sections on the way.
fn put(tree: &mut Node, steps: &[String], node: Node) -> Result<(), &'static str> {
    let mut at = tree;
    let mut section: Option<&str> = None;
    for (depth, step) in steps.iter().enumerate() {
        let Value::Table(entries) = &mut at.value else {
            return Err("must lead to a section, and leads into a value");
        };
        let mut fitting = entries.keys().filter(|key| normal(key) == *step);
        let is_chosen = section.is_some_and(|section| NAMING.contains(&section));
        let key = match (fitting.next().cloned(), fitting.next()) {
            (Some(_), Some(_)) => return Err("must fit one name, and fits more"),
            (Some(key), None) => key,
            // The file does not have this name: names are written with hyphens.
            (None, _) if is_chosen => step.replace('_', "-"),
            (None, _) => step.clone(),
        };
        // Names are chosen directly below these sections only.
        section = (depth == 0).then_some(step.as_str());
        at = entries.entry(key).or_insert_with(|| Node {
            place: node.place.clone(),
            value: Value::Table(BTreeMap::new()),
            raw: None,
        });
    }
    *at = node;
    Ok(())
}

/// A key as environment variables spell it.
fn normal(key: &str) -> String {
    key.to_lowercase().replace('-', "_")
}

/// A table whose keys are asked for one by one.
#[derive(Debug)]
pub(super) struct Section<'a> {
    /// Its keys' prefix: empty, or the sections with a dot after each.
    prefix: String,
    place: Option<String>,
    entries: BTreeMap<String, Node>,
    problems: &'a Problems,
    /// The number of problems when this section was begun.
    problems_before: usize,
}

/// A text with its place.
#[derive(Debug, Clone)]
pub(super) struct Text {
    pub(super) text: String,
    pub(super) place: Option<String>,
    /// True if it stands in the settings' file, not in a variable.
    pub(super) is_in_file: bool,
}

impl<'a> Section<'a> {
    /// The whole tree.
    pub(super) fn root(tree: Node, problems: &'a Problems) -> Self {
        let Value::Table(entries) = tree.value else {
            return Self::empty(String::new(), problems);
        };
        Self {
            entries,
            ..Self::empty(String::new(), problems)
        }
    }

    fn empty(prefix: String, problems: &'a Problems) -> Self {
        Self {
            prefix,
            place: None,
            entries: BTreeMap::new(),
            problems,
            problems_before: problems.0.borrow().len(),
        }
    }

    /// True if anything has been refused since this section was begun.
    pub(super) fn is_refused(&self) -> bool {
        self.problems.0.borrow().len() > self.problems_before
    }

    /// Refuses a key of this section, at its place or the section's; an empty key is the section.
    pub(super) fn refuse(&self, place: Option<&str>, key: &str, rule: impl Into<String>) {
        let place = place.or(self.place.as_deref());
        let key = self.whole(key);
        self.problems.add(place, key.trim_end_matches('.'), rule);
    }

    /// A key with its sections, such as `listen.grpc`.
    pub(super) fn whole(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    fn section_of(&self, key: &str, node: Node) -> Self {
        let mut section = Self::empty(format!("{}{key}.", self.prefix), self.problems);
        section.place.clone_from(&node.place);
        match node.value {
            Value::Table(entries) => section.entries = entries,
            _ => self.refuse(node.place.as_deref(), key, "must be a section"),
        }
        section
    }

    /// A section of this one; empty if it is missing.
    pub(super) fn section(&mut self, key: &str) -> Self {
        match self.entries.remove(key) {
            Some(node) => self.section_of(key, node),
            None => Self::empty(format!("{}{key}.", self.prefix), self.problems),
        }
    }

    /// The sections below a key, by the names that the operator gave them.
    pub(super) fn named(&mut self, key: &str) -> Vec<(String, Self)> {
        let mut naming = self.section(key);
        let mut sections = Vec::new();
        for (name, node) in std::mem::take(&mut naming.entries) {
            if is_name(&name) {
                let section = naming.section_of(&name, node);
                sections.push((name, section));
            } else {
                let rule =
                    "must be a name of 1 to 64 letters, digits, hyphens, underscores and dots";
                naming.refuse(node.place.as_deref(), &name, rule);
            }
        }
        sections
    }

    /// A list of sections; `None` if it is missing.
    pub(super) fn sections(&mut self, key: &str) -> Option<Vec<Self>> {
        let node = self.entries.remove(key)?;
        let Value::List(items) = node.value else {
            self.refuse(node.place.as_deref(), key, "must be a list of tables");
            return None;
        };
        let sections = items.into_iter().map(|item| self.section_of(key, item));
        Some(sections.collect())
    }

    /// The place of a key, without taking it; `None` if it is missing.
    pub(super) fn place(&self, key: &str) -> Option<String> {
        let node = self.entries.get(key)?;
        Some(node.place.clone().unwrap_or_default())
    }

    /// A text; `None` if it is missing.
    pub(super) fn text(&mut self, key: &str) -> Option<Text> {
        let node = self.entries.remove(key)?;
        let is_in_file = node.raw.is_none();
        let text = match (node.value, node.raw) {
            (Value::Text(text), _) | (_, Some(text)) => text,
            _ => {
                self.refuse(node.place.as_deref(), key, "must be a text");
                return None;
            }
        };
        Some(Text {
            text,
            place: node.place,
            is_in_file,
        })
    }

    /// A list of texts; `None` if it is missing.
    pub(super) fn texts(&mut self, key: &str) -> Option<Vec<Text>> {
        let node = self.entries.remove(key)?;
        let of_item = |item: Node| match item.value {
            Value::Text(text) => Some(Text {
                text,
                place: item.place,
                is_in_file: item.raw.is_none(),
            }),
            _ => None,
        };
        let texts = match node.value {
            Value::List(items) => items.into_iter().map(of_item).collect(),
            _ => None,
        };
        if texts.is_none() {
            self.refuse(node.place.as_deref(), key, "must be a list of texts");
        }
        texts
    }

    /// True or false.
    pub(super) fn truth(&mut self, key: &str, default: bool) -> bool {
        let Some(node) = self.entries.remove(key) else {
            return default;
        };
        if let Value::Truth(truth) = node.value {
            return truth;
        }
        self.refuse(node.place.as_deref(), key, "must be true or false");
        default
    }

    /// A whole number inside a range.
    pub(super) fn count(&mut self, key: &str, range: RangeInclusive<u32>, default: u32) -> u32 {
        let Some(node) = self.entries.remove(key) else {
            return default;
        };
        if let Value::Whole(number) = node.value
            && let Ok(number) = u32::try_from(number)
            && range.contains(&number)
        {
            return number;
        }
        let (least, most) = range.into_inner();
        let rule = format!("must be a whole number from {least} to {most}");
        self.refuse(node.place.as_deref(), key, rule);
        default
    }

    /// A duration inside a range; `None` if it is missing.
    pub(super) fn duration(
        &mut self,
        key: &str,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let node = self.entries.remove(key)?;
        // The error for a number without a unit has to speak of units, not of texts.
        let text = match &node.value {
            Value::Text(text) => Some(text),
            _ => node.raw.as_ref(),
        };
        let duration = text.and_then(|text| duration::parse(text));
        let duration = duration.filter(|duration| range.contains(duration));
        if duration.is_none() {
            let (least, most) = range.into_inner();
            let rule = format!(
                "must be a duration such as 100ms, 20s, 5m, 24h or 90d, from {} to {}",
                duration::show(least),
                duration::show(most)
            );
            self.refuse(node.place.as_deref(), key, rule);
        }
        duration
    }

    /// Refuses every key that nobody has asked for.
    pub(super) fn finish(self) {
        for (key, node) in &self.entries {
            self.refuse(node.place.as_deref(), key, "unknown key");
        }
    }
}

fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=64).contains(&name.len()) && name.bytes().all(allowed)
}
