//! Lists: along the narrowest index for a filter, in short steps, up to a bounded number of rows.

use std::fmt::Write as _;

use rusqlite::{Connection, Result, ToSql, params_from_iter};

use super::read::{self, id_bytes, id_of, integer, json, purchase_columns, timestamp};
use crate::journal::{
    Filter, Listed, Place,
    damage::Damage,
    listing::{Along, STEP, Walk},
};

/// The condition of the index of live purchases, as its migration spells it.
const IS_LIVE: &str = " AND (p.finality <> 'FINAL' OR p.state NOT IN ('COMPLETED', 'FAILED', 'EXPIRED', \
     'CANCELED', 'RETURNED', 'REFUNDED', 'DISPUTE_SETTLED'))";
/// Reads a page. It ends early once `is_wanted` says no; then nobody gets it.
pub(super) fn list(
    connection: &Connection,
    damage: &Damage,
    filter: &Filter,
    after: Option<Place>,
    limit: usize,
    is_wanted: impl Fn() -> bool,
) -> Result<Listed> {
    let mut walk = Walk::new(after, limit);
    while is_wanted() {
        let query = Query::new(filter, walk.after());
        let mut statement = connection.prepare_cached(&query.sql)?;
        let mut rows = statement.query(params_from_iter(query.values))?;
        while let Some(row) = rows.next()? {
            let place = (timestamp(row, 6)?, id_of(row.get(0)?));
            let admitted = damage.skips(row, |row| {
                let is_admitted = row.get_ref(7)?.as_str_or_null()?.is_some();
                let purchase = || read::purchase(row, json(row, 7)?);
                is_admitted.then(purchase).transpose()
            })?;
            if !walk.look(place, admitted.flatten()) {
                break;
            }
        }
        if !walk.goes_on() {
            break;
        }
    }
    Ok(walk.end())
}

/// One step of a list: the next rows of an index, each with its status if the filter admits it.
pub(super) struct Query {
    pub(super) sql: String,
    pub(super) values: Vec<Box<dyn ToSql>>,
}

impl Query {
    pub(super) fn new(filter: &Filter, after: Option<Place>) -> Self {
        let along = Along::of(filter);
        let mut query = Self {
            sql: concat!("SELECT ", purchase_columns!(), ", CASE WHEN true").to_owned(),
            values: Vec::new(),
        };
        query.conditions(filter);
        query.sql.push_str(
            " THEN (SELECT t.status FROM transition_log t
             WHERE t.purchase = p.id AND t.revision = p.revision) END FROM ",
        );
        let is_by_caller = filter.caller.is_some();
        let (table, columns) = match along {
            Along::Label(..) => (
                "purchase_label l CROSS JOIN purchase p ON p.id = l.purchase WHERE p.remnant IS NULL",
                ("l.create_time", "l.purchase"),
            ),
            _ => ("", ("p.create_time", "p.id")),
        };
        query.sql.push_str(table);
        match along {
            Along::Label(key, value) => {
                query.also(" AND l.key = ?", key.to_owned());
                query.also(" AND l.value = ?", value.to_owned());
            }
            Along::Attention => query.from(
                "purchase_attention",
                is_by_caller,
                " AND p.attention IS NOT NULL",
            ),
            Along::Live => query.from("purchase_live", is_by_caller, IS_LIVE),
            Along::All if is_by_caller => query.from("purchase", is_by_caller, ""),
            Along::All => query.from("purchase_by_time", is_by_caller, ""),
        }
        query.reach(filter, after, columns, matches!(along, Along::Label(..)));
        query
    }

    /// Takes purchases along an index, or along its sibling by caller.
    fn from(&mut self, index: &str, is_by_caller: bool, condition: &str) {
        let by = if is_by_caller { "_by_caller" } else { "" };
        // Writing to a string does not fail.
        write!(
            self.sql,
            "purchase p INDEXED BY {index}{by} WHERE p.remnant IS NULL{condition}"
        )
        .ok();
    }

    /// Adds the caller, the times, the order and the number of rows.
    fn reach(
        &mut self,
        filter: &Filter,
        after: Option<Place>,
        columns: (&str, &str),
        is_label: bool,
    ) {
        let (time, id) = columns;
        if let Some(caller) = &filter.caller {
            let of = if is_label {
                " AND l.caller = ?"
            } else {
                " AND p.caller = ?"
            };
            self.also(of, caller.as_str().to_owned());
        }
        if let Some(from) = filter.created_from {
            self.also(&format!(" AND {time} >= ?"), from.as_millis());
        }
        if let Some(before) = filter.created_before {
            self.also(&format!(" AND {time} < ?"), before.as_millis());
        }
        if let Some((after_time, after_id)) = after {
            self.also(&format!(" AND ({time}, {id}) < (?"), after_time.as_millis());
            self.also(", ?)", id_bytes(after_id));
        }
        let order = format!(" ORDER BY {time} DESC, {id} DESC LIMIT ?");
        self.also(&order, integer(STEP));
    }

    /// Adds the conditions that admit a row. They choose no index.
    fn conditions(&mut self, filter: &Filter) {
        let states = filter.states.iter().map(|state| state.as_str());
        let finalities = filter.finalities.iter().map(|finality| finality.as_str());
        self.among("p.account", filter.accounts.iter().map(String::as_str));
        self.among("p.provider", filter.providers.iter().map(String::as_str));
        self.among("p.state", states);
        self.among("p.finality", finalities);
        if filter.needs_attention {
            self.sql.push_str(" AND p.attention IS NOT NULL");
        }
        for (key, value) in &filter.labels {
            self.also(
                " AND EXISTS (SELECT 1 FROM purchase_label x WHERE x.caller = p.caller AND x.key = ?",
                key.clone(),
            );
            self.also(
                " AND x.value = ? AND x.create_time = p.create_time AND x.purchase = p.id)",
                value.clone(),
            );
        }
    }

    fn among<'text>(&mut self, column: &str, texts: impl Iterator<Item = &'text str>) {
        for (number, text) in texts.enumerate() {
            let before = match number {
                0 => format!(" AND {column} IN (?"),
                _ => ", ?".to_owned(),
            };
            if number > 0 {
                // Opens the bracket again that the condition before has closed.
                self.sql.pop();
            }
            self.also(&before, text.to_owned());
            self.sql.push(')');
        }
    }

    fn also(&mut self, sql: &str, value: impl ToSql + 'static) {
        self.sql.push_str(sql);
        self.values.push(Box::new(value));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::{clock::Clock, journal::sqlite::file, purchase::Timestamp};

    /// So many purchases, one a millisecond; enough of each for a list that admits none.
    const MANY: &str = "WITH RECURSIVE number (n) AS
            (SELECT 1 UNION ALL SELECT n + 1 FROM number WHERE n < 2000)
         INSERT INTO purchase (id, account, provider, caller, key, labels, create_time, revision,
             state, finality, change_time, fingerprint_key, fingerprints, recovery)
         SELECT unhex(printf('%032x', n)), 'main', 'carbon', 'shop', 'key-' || n, '{}', n, 1, 'PAID',
             'OPEN', n, 'k', '{}', '{}' FROM number";

    #[tokio::test]
    async fn a_list_ends_with_its_caller() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Clock::simulated(Timestamp::default(), 1);
        let opened = file::open(&folder.path().join("journal.db"), &clock).unwrap();
        opened.writer.execute_batch(MANY).unwrap();
        let filter = Filter {
            providers: vec!["masumi".to_owned()],
            ..Filter::default()
        };
        let looks_until = |gone_after: u32| {
            let looks = Cell::new(0);
            let is_wanted = || {
                looks.set(looks.get() + 1);
                looks.get() <= gone_after
            };
            let damage = Damage::default();
            let listed = list(&opened.writer, &damage, &filter, None, 10, is_wanted);
            assert_eq!(listed.unwrap().purchases, []);
            looks.get()
        };
        // There are steps of 500, each after a look, and an empty step at the end.
        assert_eq!(looks_until(100), 5);
        assert_eq!(looks_until(2), 3, "no step after the caller has gone");
    }
}
