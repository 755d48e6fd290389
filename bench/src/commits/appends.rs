//! A process that appends transitions through the journal, as the owner of its account does.

use std::{sync::Arc, time::Instant};

use tillwatch_server::{
    clock::Clock,
    journal::{
        AttemptChange, Fence, Journal, Ownership, Record, Write, Written,
        postgres::{PostgresJournal, Settings},
    },
    progress::Progress,
    purchase::{AccountName, Cause, Revision, Status, Transition},
};
use tokio::task::JoinSet;

use super::child::{self, Arguments};
use crate::{
    Failure,
    memory::{record, reference},
};

/// The words that a purchase moves between.
const WORDS: [&str; 2] = ["AWAITING_FUNDS", "IN_REVIEW"];

/// Appends for the time that counts.
///
/// # Errors
/// The database does not answer, or refuses a transition.
pub fn append(arguments: &Arguments) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(run(arguments))
}

async fn run(arguments: &Arguments) -> Result<(), Failure> {
    let clock = Clock::system();
    let settings = Settings::parse(&arguments.url)?;
    let journal = Arc::new(PostgresJournal::open_shared(&settings, &clock).await?);
    let account = AccountName::new(&arguments.account());
    let fence = take(&*journal.ownership(), &account).await?;
    let mut records = Vec::new();
    for number in 0..arguments.writers {
        records.push(purchase(&journal, &account, (arguments, number), &clock).await?);
    }
    if arguments.follow {
        let journal = Arc::clone(&journal);
        tokio::spawn(async move { journal.follow(&Progress::new("bench")).await });
    }
    let (from, until) = child::begin(arguments)?;
    let mut writers = JoinSet::new();
    for record in records {
        let writing = Writing {
            journal: Arc::clone(&journal),
            clock: clock.clone(),
            fence: fence.clone(),
        };
        writers.spawn(writing.write(record, (from, until)));
    }
    let mut counted = 0;
    while let Some(written) = writers.join_next().await {
        counted += written??;
    }
    child::tell(counted);
    journal.close().await;
    Ok(())
}

/// The lease of the process's account.
async fn take(ownership: &dyn Ownership, account: &AccountName) -> Result<Fence, Failure> {
    let look = ownership.look(&[]).await?;
    let seen = look.leases.iter().find(|lease| lease.account == *account);
    let fence = ownership.take(account, seen).await?;
    fence.ok_or("another process has the account".into())
}

/// A purchase of the process, as an earlier round has left it, or a new one.
async fn purchase(
    journal: &PostgresJournal,
    account: &AccountName,
    (arguments, number): (&Arguments, u32),
    clock: &Clock,
) -> Result<Record, Failure> {
    let number = arguments.number * arguments.writers + number;
    let mut record = record(number, account, &reference(number), clock.now());
    let status = Status {
        revision: Revision::FIRST,
        ..Status::clone(&record.purchase.status)
    };
    record.purchase.status = Arc::new(status);
    if let Some(known) = journal.record(record.purchase.id).await? {
        return Ok(known);
    }
    let first = Transition {
        from_state: None,
        status: Status::clone(&record.purchase.status),
        cause: Cause::Create,
    };
    let begin = Write::Begin {
        record: Box::new(record.clone()),
        transitions: vec![first],
    };
    done(journal.write(begin).await?)?;
    Ok(record)
}

fn done(written: Written) -> Result<(), Failure> {
    match written {
        Written::Done => Ok(()),
        refused => Err(format!("refused: {refused:?}").into()),
    }
}

/// The means of one writer.
struct Writing {
    journal: Arc<PostgresJournal>,
    clock: Clock,
    fence: Fence,
}

impl Writing {
    /// Appends without a pause. Returns the number of transitions within the time that counts.
    async fn write(
        self,
        mut record: Record,
        (from, until): (Instant, Instant),
    ) -> Result<u64, Failure> {
        let mut counted = 0;
        loop {
            let append = self.next(&mut record);
            done(self.journal.write(append).await?)?;
            let now = Instant::now();
            if now >= until {
                return Ok(counted);
            }
            counted += u64::from(now >= from);
        }
    }

    /// The next transition, and moves the record there.
    fn next(&self, record: &mut Record) -> Write {
        let expected = record.expected();
        let before = &record.purchase.status;
        let [one, other] = WORDS;
        let status = Status {
            revision: Revision(before.revision.0 + 1),
            code: if before.code == one { other } else { one }.to_owned(),
            observe_time: self.clock.now(),
            ..Status::clone(before)
        };
        let transition = Transition {
            from_state: Some(before.state),
            status: status.clone(),
            cause: Cause::Poll,
        };
        let purchase = record.purchase.id;
        record.purchase.status = Arc::new(status);
        Write::Append {
            purchase,
            fence: Some(self.fence.clone()),
            transition: Box::new(transition),
            expected,
            attempt: AttemptChange::Keep,
            note: None,
        }
    }
}
