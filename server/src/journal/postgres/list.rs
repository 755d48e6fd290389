//! Lists: along the narrowest index for a filter, in short steps, each of which takes a turn.

use std::fmt::Write as _;

use tokio_postgres::types::{ToSql, Type};

use super::{
    connect::Asked,
    read::Asks,
    row::{self, integer, label, purchase_columns, uuid_of},
};
use crate::journal::{
    Filter, Listed, Place,
    damage::Damage,
    listing::{Along, STEP, Walk},
};

/// Reads a page.
pub(super) async fn list<A: Asks>(
    connection: &mut A,
    damage: &Damage,
    filter: &Filter,
    after: Option<Place>,
    limit: usize,
) -> Result<Listed, A::Error> {
    let mut walk = Walk::new(after, limit);
    loop {
        let query = Query::new(filter, walk.after());
        let values: Vec<_> = query.values.iter().map(Value::typed).collect();
        let rows = connection.ask(Asked::Made(&query.sql, &values)).await?;
        for row in &rows {
            let (Ok(time), Ok(id)) = (row::timestamp(row, 6), row::id(row, 0)) else {
                // A row without a place: nobody can go on after it, and its neighbours are shown.
                continue;
            };
            let admitted = damage.noted_of(row, |row| {
                let is_admitted = row::get::<Option<&str>>(row, 7)?.is_some();
                let purchase = || row::purchase(row, row::json(row, 7)?);
                is_admitted.then(purchase).transpose()
            });
            if !walk.look((time, id), admitted.ok().flatten()) {
                break;
            }
        }
        if !walk.goes_on() {
            return Ok(walk.end());
        }
    }
}

/// A value of a query.
pub(super) enum Value {
    Text(String),
    Texts(Vec<String>),
    Number(i64),
    Id(uuid::Uuid),
}

impl Value {
    pub(super) fn typed(&self) -> (&(dyn ToSql + Sync), Type) {
        match self {
            Self::Text(text) => (text, Type::TEXT),
            Self::Texts(texts) => (texts, Type::TEXT_ARRAY),
            Self::Number(number) => (number, Type::INT8),
            Self::Id(id) => (id, Type::UUID),
        }
    }
}

/// One step of a list: the next rows of an index, each with its status if the filter admits it.
pub(super) struct Query {
    pub(super) sql: String,
    pub(super) values: Vec<Value>,
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
        let (time, id, caller) = match along {
            Along::Label(..) => ("l.create_time", "l.purchase", "l.caller"),
            Along::Attention | Along::Live | Along::All => ("p.create_time", "p.id", "p.caller"),
        };
        match along {
            Along::Label(key, value) => {
                query
                    .sql
                    .push_str("purchase_label l JOIN purchase p ON p.id = l.purchase WHERE true");
                query.also(" AND l.key = ", Value::Text(label(key)));
                query.also(" AND l.value = ", Value::Text(label(value)));
            }
            Along::Attention => {
                let from = "purchase p WHERE p.remnant IS NULL AND p.attention IS NOT NULL";
                query.sql.push_str(from);
            }
            Along::Live => {
                let from = "purchase p WHERE p.remnant IS NULL AND p.is_live";
                query.sql.push_str(from);
            }
            Along::All => query.sql.push_str("purchase p WHERE p.remnant IS NULL"),
        }
        if let Some(name) = &filter.caller {
            let name = Value::Text(name.as_str().to_owned());
            query.also(&format!(" AND {caller} = "), name);
        }
        if let Some(from) = filter.created_from {
            query.also(&format!(" AND {time} >= "), Value::Number(from.as_millis()));
        }
        if let Some(before) = filter.created_before {
            query.also(
                &format!(" AND {time} < "),
                Value::Number(before.as_millis()),
            );
        }
        if let Some((after_time, after_id)) = after {
            let after_time = Value::Number(after_time.as_millis());
            query.also(&format!(" AND ({time}, {id}) < ("), after_time);
            query.also(", ", Value::Id(uuid_of(after_id)));
            query.sql.push(')');
        }
        let order = format!(" ORDER BY {time} DESC, {id} DESC LIMIT ");
        query.also(&order, Value::Number(integer(STEP)));
        query
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
                " AND EXISTS (SELECT FROM purchase_label x WHERE x.purchase = p.id AND x.key = ",
                Value::Text(label(key)),
            );
            self.also(" AND x.value = ", Value::Text(label(value)));
            self.sql.push(')');
        }
    }

    fn among<'text>(&mut self, column: &str, texts: impl ExactSizeIterator<Item = &'text str>) {
        if texts.len() == 0 {
            return;
        }
        // No text of the server's has a U+0000: such a one admits nothing.
        let texts = texts.filter(|text| !text.contains('\0'));
        let texts = Value::Texts(texts.map(str::to_owned).collect());
        self.also(&format!(" AND {column} = ANY ("), texts);
        self.sql.push(')');
    }

    fn also(&mut self, sql: &str, value: Value) {
        self.values.push(value);
        // Writing to a string does not fail.
        write!(self.sql, "{sql}${}", self.values.len()).ok();
    }
}
