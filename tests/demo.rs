//! The demo's several processes, as a user runs them.

use std::{process::Stdio, time::Duration};

use tokio::process::Command;

use crate::{executables::executable, store::Store};

/// The longest that a demo takes on a slow machine.
const ENDS_WITHIN: Duration = Duration::from_secs(90);

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn the_demo_loses_nothing_though_one_of_its_replicas_is_killed() {
    let store = Store::postgres();
    // A second demo meets the purchases of the first.
    for round in 0..2 {
        let mut demo = Command::new(executable("tillwatch-sandbox"));
        demo.args(["demo", "--replicas", "3", "--listen", "127.0.0.1:0"])
            .args(["--speed", "4", "--scenario", "paid"])
            .args(["--store", &store.database().url()])
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let shown = tokio::time::timeout(ENDS_WITHIN, demo.output()).await;
        let shown = shown.expect("a demo ends").unwrap();
        let (out, err) = (text(&shown.stdout), text(&shown.stderr));
        assert!(shown.status.success(), "round {round}: {out}\n{err}");
        assert!(out.contains("3 processes on one database"), "{out}");
        let (_, after) = out.split_once("was killed (SIGKILL to process").unwrap();
        assert!(after.contains("COMPLETED"), "all had ended before: {out}");
        assert!(after.contains("Nothing was lost: 5 purchases, each made once"));
    }
}
