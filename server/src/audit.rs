//! The audit log: one line for each create, adoption, resolve, stop, refusal and reload.
//!
//! A line has a time, an event, names of the operator's own (caller, account), a purchase's id and a
//! fixed word for the reason. It never has a part of an order, a label, a note or a secret. Refusals of
//! one caller for one reason share a line in ten seconds, so that nobody fills the disk with them.

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;

use crate::{
    clock::Clock,
    outlet::{Figures, Outlet, Target},
    purchase::{AccountName, CallerName, Purchase, PurchaseId},
};

/// The shortest time between two lines about refusals of one caller for one reason, and between two
/// warnings that lines are left out.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// The word by which a collector tells these lines from others on the same stream.
const TARGET: &str = "audit";
/// The reason in the line of a decision whose answer nobody heard: it may or may not be committed.
const UNANSWERED: &str = "UNANSWERED";

/// The events that are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// An order's intent is committed.
    Create,
    /// A purchase that exists at its provider is tracked from now on.
    Adoption,
    /// An operator has settled a purchase.
    Resolve,
    /// A purchase is followed no longer, without its provider's word for that.
    Stop,
    /// A call was refused.
    Refusal,
    /// New settings or files were taken up, or could not be.
    Reload,
}

impl Event {
    fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Adoption => "adoption",
            Self::Resolve => "resolve",
            Self::Stop => "stop",
            Self::Refusal => "refusal",
            Self::Reload => "reload",
        }
    }
}

/// The purchase of a line, with its account.
#[derive(Debug, Clone)]
struct Subject {
    account: AccountName,
    purchase: PurchaseId,
}

/// The content of a line, besides its time.
#[derive(Debug, Clone)]
struct Entry {
    event: Event,
    caller: Option<CallerName>,
    subject: Option<Subject>,
    reason: &'static str,
    left_out: u64,
}

#[derive(Serialize)]
struct Line<'a> {
    target: &'static str,
    time: String,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    caller: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    account: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    purchase: Option<String>,
    reason: &'static str,
    /// Lines like this one that were left out since the one before.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<u64>,
}

/// The audit log. Clones are the same; a default one is off.
#[derive(Clone, Default)]
pub struct Audit(Option<Arc<Inner>>);

struct Inner {
    clock: Clock,
    /// `None` while it is off.
    outlet: RwLock<Option<Outlet>>,
    /// Refusals by caller and reason: callers are configured, and reasons are fixed words.
    refusals: Mutex<BTreeMap<(Option<CallerName>, &'static str), Repeated>>,
    /// The last warning that lines are left out.
    warned: Mutex<Option<Instant>>,
}

/// Refusals alike.
#[derive(Debug)]
struct Repeated {
    told: Instant,
    left_out: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Audit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Audit")
    }
}

impl Audit {
    /// An audit log that goes there; without a target it is off until [`Audit::turn_to`]. Blocks on the
    /// disk.
    ///
    /// # Errors
    /// The target cannot be opened.
    pub fn open(target: Option<&Target>, clock: Clock) -> io::Result<Self> {
        let audit = Self(Some(Arc::new(Inner {
            clock,
            outlet: RwLock::default(),
            refusals: Mutex::default(),
            warned: Mutex::default(),
        })));
        audit.turn_to(target)?;
        Ok(audit)
    }

    /// Sends all later lines there. The target is opened anew even if it is the same, since its file may
    /// have been moved away. Blocks on the disk.
    ///
    /// # Errors
    /// The target cannot be opened; the older one is kept.
    pub fn turn_to(&self, target: Option<&Target>) -> io::Result<()> {
        let Some(inner) = &self.0 else { return Ok(()) };
        let file = target.map(Target::open).transpose()?;
        let mut outlet = inner.outlet.write().unwrap_or_else(PoisonError::into_inner);
        match (file, outlet.as_ref()) {
            (Some(file), Some(outlet)) => outlet.turn_to(file),
            (Some(file), None) => {
                let clock = inner.clock.clone();
                let notice = Arc::new(move |left_out| left_out_line(&clock, left_out));
                *outlet = Some(Outlet::begin("audit", file, notice)?);
            }
            (None, _) => {
                if let Some(outlet) = outlet.take() {
                    outlet.end();
                }
            }
        }
        Ok(())
    }

    /// Tells about a purchase of a caller.
    pub fn tell(&self, event: Event, purchase: &Purchase, reason: &'static str) {
        self.begin(event, &purchase.caller, purchase, reason).told();
    }

    /// Begins what `caller` decides about a purchase. The line is written by [`Decision::told`]; if
    /// neither that nor [`Decision::refused`] is called, nobody knows if it was committed, and the line
    /// says so.
    pub fn begin(
        &self,
        event: Event,
        caller: &CallerName,
        purchase: &Purchase,
        reason: &'static str,
    ) -> Decision {
        Decision {
            audit: self.clone(),
            entry: self.0.is_some().then(|| Entry {
                event,
                caller: Some(caller.clone()),
                subject: Some(Subject {
                    account: purchase.account.clone(),
                    purchase: purchase.id,
                }),
                reason,
                left_out: 0,
            }),
        }
    }

    /// Tells that new settings or files were taken up, or why they could not be.
    pub fn reloaded(&self, reason: &'static str) {
        self.write(&Entry {
            event: Event::Reload,
            caller: None,
            subject: None,
            reason,
            left_out: 0,
        });
    }

    /// Tells that a call was refused, of this caller if it is known. The first refusal of its kind is
    /// told at once, and later ones are counted and summed up every ten seconds.
    pub fn refused(&self, caller: Option<&CallerName>, reason: &'static str) {
        let Some(inner) = &self.0 else { return };
        let now = Instant::now();
        let mut refusals = lock(&inner.refusals);
        let key = (caller.cloned(), reason);
        if let Some(alike) = refusals.get_mut(&key)
            && now.saturating_duration_since(alike.told) < TOLD_EVERY
        {
            alike.left_out += 1;
            return;
        }
        let alike = Repeated {
            told: now,
            left_out: 0,
        };
        let before = refusals.insert(key, alike);
        drop(refusals);
        let left_out = before.map_or(0, |before| before.left_out);
        self.write(&refusal(caller.cloned(), reason, left_out));
    }

    /// Tells how many refusals were left out, of each kind that was last told at least ten seconds ago;
    /// at the end, of all kinds.
    fn sum_up(&self, is_end: bool) {
        let Some(inner) = &self.0 else { return };
        let now = Instant::now();
        let mut due = Vec::new();
        lock(&inner.refusals).retain(|(caller, reason), alike| {
            let is_due = now.saturating_duration_since(alike.told) >= TOLD_EVERY;
            if alike.left_out > 0 && (is_due || is_end) {
                // The line that is written now stands for the last of them.
                due.push(refusal(caller.clone(), reason, alike.left_out - 1));
                (alike.told, alike.left_out) = (now, 0);
                return true;
            }
            !is_due
        });
        for entry in &due {
            self.write(entry);
        }
    }

    /// Sums refusals up without end.
    pub async fn run(self) {
        loop {
            tokio::time::sleep(TOLD_EVERY).await;
            self.sum_up(false);
        }
    }

    /// Writes what waits, for so long at the most, and takes nothing more.
    pub async fn close(&self, within: Duration) {
        self.sum_up(true);
        let Some(outlet) = self.outlet() else { return };
        if !outlet.close(within).await {
            tracing::warn!("gave up on lines of the audit log");
        }
    }

    /// The numbers of its lines; zero while it is off.
    pub fn figures(&self) -> Figures {
        let outlet = self.outlet();
        outlet.map(|outlet| outlet.figures()).unwrap_or_default()
    }

    fn outlet(&self) -> Option<Outlet> {
        let outlet = self.0.as_ref()?.outlet.read();
        outlet.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn write(&self, entry: &Entry) {
        let (Some(inner), Some(outlet)) = (&self.0, self.outlet()) else {
            return;
        };
        if !outlet.push(entry.line(&inner.clock)) {
            inner.warn(outlet.figures().left_out);
        }
    }
}

impl Inner {
    fn warn(&self, left_out: u64) {
        let now = Instant::now();
        let mut warned = lock(&self.warned);
        let is_new = |warned: Instant| now.saturating_duration_since(warned) >= TOLD_EVERY;
        if warned.is_none_or(is_new) {
            *warned = Some(now);
            tracing::error!(left_out, "lines of the audit log are left out");
        }
    }
}

fn refusal(caller: Option<CallerName>, reason: &'static str, left_out: u64) -> Entry {
    Entry {
        event: Event::Refusal,
        caller,
        subject: None,
        reason,
        left_out,
    }
}

impl Entry {
    fn line(&self, clock: &Clock) -> Vec<u8> {
        let subject = self.subject.as_ref();
        encoded(&Line {
            target: TARGET,
            time: clock.now().to_string(),
            event: self.event.word(),
            caller: self.caller.as_ref().map(CallerName::as_str),
            account: subject.map(|subject| subject.account.as_str()),
            purchase: subject.map(|subject| subject.purchase.to_string()),
            reason: self.reason,
            left_out: (self.left_out > 0).then_some(self.left_out),
        })
    }
}

/// The line that stands for lines for which there was no room.
fn left_out_line(clock: &Clock, left_out: u64) -> Vec<u8> {
    encoded(&Line {
        target: TARGET,
        time: clock.now().to_string(),
        event: "gap",
        caller: None,
        account: None,
        purchase: None,
        reason: "QUEUE_FULL",
        left_out: Some(left_out),
    })
}

fn encoded(line: &Line<'_>) -> Vec<u8> {
    // A struct of texts and numbers can always be written as JSON.
    let mut text = serde_json::to_vec(line).unwrap_or_default();
    text.push(b'\n');
    text
}

/// A decision about a purchase on its way into the journal.
#[derive(Debug)]
pub struct Decision {
    audit: Audit,
    /// `None` once it is told, or if there is nothing to tell.
    entry: Option<Entry>,
}

impl Decision {
    /// It is committed.
    pub fn told(mut self) {
        if let Some(entry) = self.entry.take() {
            self.audit.write(&entry);
        }
    }

    /// It is not committed.
    pub fn refused(mut self) {
        self.entry = None;
    }
}

impl Drop for Decision {
    fn drop(&mut self) {
        if let Some(mut entry) = self.entry.take() {
            entry.reason = UNANSWERED;
            self.audit.write(&entry);
        }
    }
}

#[cfg(test)]
mod tests;
