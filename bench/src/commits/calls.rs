//! A process that makes the journal's calls without a journal: the function in the database, with the
//! purchases, statuses and sizes of the journal's own commits.

use std::time::Instant;

use tokio_postgres::{
    Client, NoTls, Row, Statement,
    types::{ToSql, Type},
};
use uuid::Uuid;

use super::child::{self, Arguments};
use crate::{Failure, upstream::on_this_thread};

type Value = Box<dyn ToSql + Sync + Send>;

/// Calls for the time that counts.
///
/// # Errors
/// The database does not answer, or refuses a transition.
pub fn call(arguments: &Arguments) -> Result<(), Failure> {
    on_this_thread(run(arguments))?
}

async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let (client, connection) = tokio_postgres::connect(&arguments.url, NoTls).await?;
    tokio::spawn(connection);
    let mut caller = Caller::new(client, arguments).await?;
    let (from, until) = child::begin(arguments)?;
    let mut counted = 0;
    loop {
        let done = caller.call(arguments.per_call as usize).await?;
        let now = Instant::now();
        if now >= until {
            break;
        }
        counted += if now >= from { done } else { 0 };
    }
    child::tell(counted);
    caller
        .client
        .execute("SELECT exit_1($1)", &[&caller.name])
        .await?;
    Ok(())
}

/// A purchase that moves.
struct Purchase {
    id: Uuid,
    revision: i32,
    reference: Vec<u8>,
    /// Its newest status, before and after the number of the revision.
    status: (String, String),
}

impl Purchase {
    fn read(row: &Row) -> Result<Self, Failure> {
        let revision: i32 = row.try_get(1)?;
        let status: &str = row.try_get(3)?;
        let number = format!("\"revision\":{revision}");
        let (before, after) = status.split_once(&number).ok_or("no revision")?;
        Ok(Self {
            id: row.try_get(0)?,
            revision,
            reference: row.try_get(2)?,
            status: (format!("{before}\"revision\":"), after.to_owned()),
        })
    }
}

/// The texts of one transition, as the journal has written them.
struct Texts {
    state: String,
    finality: String,
    cause: String,
    change_time: i64,
}

/// The function's parameters, and what they are about.
struct Caller {
    client: Client,
    statement: Statement,
    parameters: Vec<(String, Type)>,
    name: String,
    calls: i64,
    account: String,
    fence: i64,
    purchases: Vec<Purchase>,
    texts: Texts,
}

impl Caller {
    async fn new(client: Client, arguments: &Arguments) -> Result<Self, Failure> {
        let name = Uuid::new_v4().to_string();
        let none: (Vec<String>, Vec<i64>) = Default::default();
        let enter = "SELECT enter_1($1, (SELECT value::integer FROM meta WHERE key = 'schema'), false, $2, $3)";
        client.execute(enter, &[&name, &none.0, &none.1]).await?;
        let names = "SELECT proargnames[1:pronargs] FROM pg_proc WHERE proname = 'commit_1'";
        let names: Vec<String> = client.query_one(names, &[]).await?.try_get(0)?;
        let places: Vec<String> = (1..=names.len()).map(|place| format!("${place}")).collect();
        let sql = format!("SELECT * FROM commit_1({})", places.join(", "));
        let statement = client.prepare(&sql).await?;
        let types = statement.params().to_vec();
        let account = arguments.account();
        let fence = "SELECT fence FROM lease WHERE account = $1";
        let fence = client.query_one(fence, &[&account]).await?.try_get(0)?;
        let own = "SELECT p.id, p.revision, p.reference, l.status
             FROM purchase p JOIN transition_log l ON l.purchase = p.id AND l.revision = p.revision
             WHERE p.account = $1 ORDER BY p.id";
        let own = client.query(own, &[&account]).await?;
        let purchases: Result<Vec<_>, Failure> = own.iter().map(Purchase::read).collect();
        let newest = "SELECT p.state, p.finality, l.cause, p.change_time
             FROM purchase p JOIN transition_log l ON l.purchase = p.id AND l.revision = p.revision
             WHERE p.account = $1 LIMIT 1";
        let newest = client.query_one(newest, &[&account]).await?;
        Ok(Self {
            texts: Texts {
                state: newest.try_get(0)?,
                finality: newest.try_get(1)?,
                cause: newest.try_get(2)?,
                change_time: newest.try_get(3)?,
            },
            parameters: names.into_iter().zip(types).collect(),
            client,
            statement,
            name,
            calls: 0,
            account,
            fence,
            purchases: purchases?,
        })
    }

    /// Moves so many purchases by one call. Returns their number.
    async fn call(&mut self, most: usize) -> Result<u64, Failure> {
        let count = most.min(self.purchases.len());
        self.calls += 1;
        let values: Result<Vec<Value>, Failure> = (self.parameters.iter())
            .map(|(name, of)| self.value(name, of, count))
            .collect();
        let values = values?;
        let values: Vec<&(dyn ToSql + Sync)> = values
            .iter()
            .map(|value| &**value as &(dyn ToSql + Sync))
            .collect();
        let rows = self.client.query(&self.statement, &values).await?;
        let outcomes: &str = rows.last().ok_or("no answer")?.try_get("o_outcomes")?;
        if outcomes.len() != count || outcomes.contains(|letter| letter != 'D') {
            return Err(format!("{count} transitions: {outcomes}").into());
        }
        for moved in self.purchases.iter_mut().take(count) {
            moved.revision += 1;
        }
        self.purchases.rotate_left(count);
        Ok(count as u64)
    }

    /// A parameter of the function, for its next call.
    fn value(&self, name: &str, of: &Type, count: usize) -> Result<Value, Failure> {
        let items: Vec<i32> = (1..).take(count).collect();
        let each = || self.purchases.iter().take(count);
        let text = |text: &str| -> Value { Box::new(vec![text.to_owned(); count]) };
        Ok(match name {
            "me" => Box::new(self.name.clone()),
            "my_opening" => Box::new(1_i64),
            "my_number" => Box::new(self.calls),
            "my_last" => Box::new(self.calls - 1),
            "items" => Box::new(i32::try_from(count)?),
            "f_n" | "c_n" | "s_n" => Box::new(items),
            "f_account" => text(&self.account),
            "f_fence" => Box::new(vec![self.fence; count]),
            "c_id" | "s_id" => Box::new(each().map(|one| one.id).collect::<Vec<_>>()),
            "c_expected" => Box::new(each().map(|one| one.revision).collect::<Vec<_>>()),
            "c_revision" | "s_revision" => {
                Box::new(each().map(|one| one.revision + 1).collect::<Vec<_>>())
            }
            "c_expected_sends" => Box::new(vec![0_i32; count]),
            "c_reference" => Box::new(each().map(|one| one.reference.clone()).collect::<Vec<_>>()),
            "c_state" | "s_from_state" => text(&self.texts.state),
            "c_finality" => text(&self.texts.finality),
            "c_change_time" => Box::new(vec![self.texts.change_time; count]),
            "c_is_judged" => Box::new(vec![true; count]),
            "c_attempt" => text("keep"),
            "s_cause" => text(&self.texts.cause),
            "s_status" => {
                let status = |one: &Purchase| {
                    let (before, after) = &one.status;
                    format!("{before}{}{after}", one.revision + 1)
                };
                Box::new(each().map(status).collect::<Vec<_>>())
            }
            _ if name.starts_with("c_") || name.starts_with("s_") => nothing(of, count)?,
            _ => nothing(of, 0)?,
        })
    }
}

/// So many nulls in an array of this type.
fn nothing(of: &Type, count: usize) -> Result<Value, Failure> {
    Ok(match *of {
        Type::INT4_ARRAY => Box::new(vec![None::<i32>; count]),
        Type::INT8_ARRAY => Box::new(vec![None::<i64>; count]),
        Type::TEXT_ARRAY => Box::new(vec![None::<String>; count]),
        Type::BYTEA_ARRAY => Box::new(vec![None::<Vec<u8>>; count]),
        Type::UUID_ARRAY => Box::new(vec![None::<Uuid>; count]),
        _ => return Err(format!("the function has a parameter of type {of}").into()),
    })
}
