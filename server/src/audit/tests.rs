use std::fs;

use serde_json::{Value, json};

use super::*;
use crate::{
    purchase::{Cause, Status},
    testing,
};

/// An audit log of a file.
struct Told {
    folder: tempfile::TempDir,
    audit: Audit,
}

impl Told {
    fn begin() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let target = Target::File(folder.path().join("audit"));
        let audit = Audit::open(Some(&target), testing::clock()).unwrap();
        Self { folder, audit }
    }

    /// All lines, each without its time.
    async fn lines(self) -> Vec<Value> {
        self.audit.close(Duration::from_secs(20)).await;
        let text = fs::read_to_string(self.folder.path().join("audit")).unwrap();
        let parsed = text.lines().map(|line| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            let time = line.as_object_mut().unwrap().remove("time").unwrap();
            let time = time.as_str().unwrap();
            assert!(crate::purchase::Timestamp::from_iso(time).is_ok(), "{time}");
            line
        });
        parsed.collect()
    }
}

fn purchase() -> Purchase {
    let id = PurchaseId::from_u128(7);
    let status = Status::pending(testing::clock().now());
    testing::record(id, "main", "carbon", status).purchase
}

#[tokio::test(start_paused = true)]
async fn a_line_says_when_who_with_which_purchase_and_why() {
    let told = Told::begin();
    let purchase = purchase();
    let id = purchase.id.to_string();
    told.audit
        .tell(Event::Create, &purchase, Cause::Create.as_str());
    let desk = CallerName::new("desk");
    let begin = |event, reason| told.audit.begin(event, &desk, &purchase, reason);
    begin(Event::Resolve, "NOT_CREATED").told();
    begin(Event::Resolve, "REFERENCE").refused();
    drop(begin(Event::Stop, "OPERATOR"));
    told.audit.reloaded("APPLIED");
    tokio::time::resume();
    let line = |event: &str, caller: &str, reason: &str| {
        json!({
            "target": "audit", "event": event, "caller": caller, "account": "main",
            "purchase": id, "reason": reason,
        })
    };
    assert_eq!(
        told.lines().await,
        [
            line("create", "shop", "CREATE"),
            line("resolve", "desk", "NOT_CREATED"),
            line("stop", "desk", "UNANSWERED"),
            json!({"target": "audit", "event": "reload", "reason": "APPLIED"}),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn refusals_alike_share_a_line_in_ten_seconds_and_none_is_forgotten() {
    let told = Told::begin();
    let summing = tokio::spawn(told.audit.clone().run());
    let shop = CallerName::new("shop");
    for _ in 0..10_000 {
        told.audit.refused(None, "UNKNOWN_TOKEN");
        told.audit.refused(Some(&shop), "LIMIT_EXCEEDED");
    }
    told.audit.refused(None, "NO_TOKEN");
    tokio::time::sleep(Duration::from_secs(4)).await;
    told.audit.refused(None, "UNKNOWN_TOKEN");
    tokio::time::sleep(Duration::from_secs(25)).await;
    let kinds = told
        .audit
        .0
        .as_ref()
        .map(|inner| lock(&inner.refusals).len());
    assert_eq!(kinds, Some(0), "a kind that is over is forgotten");
    for _ in 0..3 {
        told.audit.refused(None, "UNKNOWN_TOKEN");
    }
    summing.abort();
    // The writer lives in real time.
    tokio::time::resume();
    let lines = told.lines().await;
    let of = |caller: Value, reason: &str| {
        let alike = lines
            .iter()
            .filter(|line| line["caller"] == caller && line["reason"] == reason);
        let left_out = alike.map(|line| line["left_out"].as_u64().unwrap_or(0));
        left_out.collect::<Vec<_>>()
    };
    assert_eq!(of(Value::Null, "UNKNOWN_TOKEN"), [0, 9_999, 0, 1]);
    assert_eq!(of(json!("shop"), "LIMIT_EXCEEDED"), [0, 9_998]);
    assert_eq!(of(Value::Null, "NO_TOKEN"), [0]);
    assert_eq!(lines.len(), 7);
}

#[tokio::test]
async fn a_log_that_is_turned_off_and_on_again_goes_on() {
    let told = Told::begin();
    let target = Target::File(told.folder.path().join("audit"));
    told.audit.reloaded("ONE");
    told.audit.turn_to(None).unwrap();
    told.audit.reloaded("TWO");
    told.audit.turn_to(Some(&target)).unwrap();
    told.audit.reloaded("THREE");
    let nowhere = Target::File(told.folder.path().join("nowhere/audit"));
    assert!(told.audit.turn_to(Some(&nowhere)).is_err());
    told.audit.reloaded("FOUR");
    let mut reasons: Vec<_> = (told.lines().await.iter())
        .map(|line| line["reason"].as_str().unwrap().to_owned())
        .collect();
    // The first writer may still be at it when the second begins.
    reasons.sort();
    assert_eq!(reasons, ["FOUR", "ONE", "THREE"]);
}

#[tokio::test]
async fn a_log_that_is_off_tells_nothing_and_costs_nothing() {
    let audit = Audit::default();
    audit.refused(None, "NO_TOKEN");
    audit.tell(Event::Create, &purchase(), "CREATE");
    audit.close(Duration::ZERO).await;
    assert_eq!(audit.figures(), Figures::default());
}
