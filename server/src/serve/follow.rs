//! The loops that follow the journal: readiness its state, and observers the commits of others.

use std::{sync::Arc, time::Duration};

use super::loops::Loops;
use crate::{feed::WITHOUT_JOURNAL_MAX, health::Readiness, journal::Journal, progress::Progress};

/// Begins the loop by which observers hear of others' commits.
pub(super) fn hear_others(work: &Loops, journal: &Arc<dyn Journal>) {
    let progress = Progress::new("news");
    let followed = (Arc::clone(journal), progress.clone());
    work.begin(&progress, followed, |(journal, progress)| async move {
        journal.follow(&progress).await;
    });
}

/// Begins the loop of readiness.
pub(super) fn begin(work: &Loops, journal: &Arc<dyn Journal>, readiness: &Readiness) {
    let progress = Progress::new("readiness");
    let followed = (Arc::clone(journal), readiness.clone(), progress.clone());
    work.begin(
        &progress,
        followed,
        |(journal, readiness, progress)| async move {
            let patience = patience(journal.as_ref());
            follow(journal.as_ref(), &readiness, patience, &progress).await;
        },
    );
}

/// The time for which a journal may be away before readiness turns.
fn patience(journal: &dyn Journal) -> Duration {
    // A server that is away is away from every process: sending callers elsewhere helps nobody.
    match journal.is_on_a_server() {
        true => WITHOUT_JOURNAL_MAX,
        false => Duration::ZERO,
    }
}

/// Says that requests are welcome, until the journal has been away for longer than `patience`, and again
/// once it is back. Ends with the journal.
async fn follow(
    journal: &dyn Journal,
    readiness: &Readiness,
    patience: Duration,
    progress: &Progress,
) {
    let mut available = journal.available();
    loop {
        progress.round().await;
        let back = async {
            let back = available.wait_for(|is_available| *is_available);
            back.await.is_ok()
        };
        let back = tokio::time::timeout(patience, back);
        let is_available = match progress.across(back).await {
            Ok(true) => true,
            Ok(false) => return,
            Err(_) => false,
        };
        readiness.set_ready(is_available).await;
        if progress.across(available.changed()).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_util::task::AbortOnDropHandle;

    use super::*;
    use crate::{
        health,
        journal::{Write, memory::MemoryJournal},
    };

    #[tokio::test(start_paused = true)]
    async fn s6_readiness_outlives_a_store_on_a_server_for_as_long_as_streams_do() {
        let journal = Arc::new(MemoryJournal::new("e"));
        let (readiness, _health) = health::health().await;
        let (followed, told) = (Arc::clone(&journal), readiness.clone());
        let following = async move {
            let progress = Progress::new("readiness");
            follow(followed.as_ref(), &told, WITHOUT_JOURNAL_MAX, &progress).await;
        };
        let _following = AbortOnDropHandle::new(tokio::spawn(following));
        let after = async |time: Duration| {
            tokio::time::sleep(time).await;
            readiness.is_ready().await
        };
        let goes_away = async |is_away: bool| {
            journal.fail_writes(is_away);
            let put = Write::Put {
                key: "k".to_owned(),
                fence: None,
                value: "v".to_owned(),
            };
            assert_eq!(journal.write(put).await.is_err(), is_away);
        };
        let second = Duration::from_secs(1);
        assert!(after(second).await);
        goes_away(true).await;
        let nearly = WITHOUT_JOURNAL_MAX - second;
        assert!(after(nearly).await, "it may come back");
        goes_away(false).await;
        assert!(after(second).await);
        goes_away(true).await;
        assert!(after(nearly).await, "another absence counts anew");
        assert!(!after(2 * second).await);
        goes_away(false).await;
        assert!(after(second).await, "it is back");
    }
}
