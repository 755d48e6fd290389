//! The demo's several processes, as a user runs them.

use std::time::Duration;

use tokio::process::Command;

use crate::{consumers::print, executables::executable, store::Store};

#[tokio::test]
async fn the_demo_loses_nothing_though_one_of_its_replicas_is_killed() {
    let store = Store::postgres();
    // A second demo meets the purchases of the first.
    for round in 0..2 {
        let mut demo = Command::new(executable("tillwatch-sandbox"));
        demo.args(["demo", "--replicas", "3", "--listen", "127.0.0.1:0"])
            .args(["--speed", "4", "--scenario", "paid"])
            .args(["--store", &store.database().url()])
            .kill_on_drop(true);
        let shown = tokio::time::timeout(Duration::from_secs(90), print(&mut demo)).await;
        let shown = shown.expect("a demo ends");
        assert!(shown.success, "round {round}: {}\n{}", shown.out, shown.err);
        assert!(
            shown.out.contains("3 processes on one database"),
            "{}",
            shown.out
        );
        let killed = shown.out.find("was killed (SIGKILL to process").unwrap();
        let after = &shown.out[killed..];
        assert!(
            after.contains("COMPLETED"),
            "all had ended before: {}",
            shown.out
        );
        assert!(after.contains("Nothing was lost: 5 purchases, each made once"));
    }
    let gone = "SELECT count(*) FROM replica WHERE is_gone";
    assert_eq!(
        store.database().run(gone).trim(),
        "4",
        "the others left by themselves"
    );
}
