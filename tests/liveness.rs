//! Liveness follows the progress of the process's own loops: a loop that stands still is told by
//! liveness, in the log and in the metrics, also if it has taken its thread with it.

use std::time::Duration;

use tillwatch_proto::health::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    house::{House, Settings},
    process::{Server, until, until_within, within},
};

/// Twice the time after which a loop stands still, and some more for a machine at work.
const TOLD_WITHIN: Duration = Duration::from_secs(90);

/// A house in which this loop stands still from a signal on.
async fn house(stands: &str, threads: u32) -> House {
    let mut house = House::start(Settings {
        listen: format!("drain = \"1s\"\nthreads = {threads}"),
        ..Settings::default()
    })
    .await;
    house.server.kill().await;
    let arguments = ["--stand-still", stands];
    let server = Server::start_with(house.config(), &house.log, &arguments).await;
    house.server = server.unwrap();
    house
}

/// The HTTP status of a page of the operators' listener.
async fn status(house: &House, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(&house.server.ops)
        .await
        .unwrap();
    let request = format!("GET {path} HTTP/1.0\r\nhost: a\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    within("an answer", read).await.unwrap();
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

/// Liveness by the health protocol, on the service's own port.
async fn liveness(house: &House) -> ServingStatus {
    let request = HealthCheckRequest {
        service: "liveness".to_owned(),
    };
    let mut health = HealthClient::new(house.channel().await);
    let answer = within("an answer", health.check(request)).await;
    answer.unwrap().into_inner().status()
}

/// Waits until the loop's end of progress is told in all ways.
async fn told(house: &House, name: &str) {
    let what = format!("{name} turns liveness");
    until_within(TOLD_WITHIN, &what, async || {
        status(house, "/healthz").await == "503"
    })
    .await;
    until("gRPC says the same", async || {
        liveness(house).await == ServingStatus::NotServing
    })
    .await;
    let line = format!("a loop stands still name=\"{name}\"");
    assert!(house.log.text().contains(&line), "{}", house.log.text());
    let metrics = house.metrics().await;
    let of = |metric: &str, name: &str| {
        let start = format!("tillwatch_{metric}{{loop=\"{name}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&start));
        line.unwrap_or_else(|| panic!("{start}\n{metrics}"))
            .parse::<f64>()
            .unwrap()
    };
    assert!(of("loop_stuck", name) >= 1.0, "{metrics}");
    assert!(of("loop_silent_seconds", name) >= 30.0, "{metrics}");
    for other in ["journal", "feed", "lane", "intake", "clock", "retention"] {
        let is_stuck = of("loop_stuck", other) > 0.0;
        assert!(!is_stuck || other == name, "{other} is blamed for {name}");
    }
}

async fn stands_still(stands: &str, threads: u32) {
    let house = house(stands, threads).await;
    assert_eq!(status(&house, "/healthz").await, "200");
    assert_eq!(liveness(&house).await, ServingStatus::Serving);
    house.server.signal("USR1").await;
    told(&house, stands.trim_end_matches(":block")).await;
}

#[tokio::test]
async fn a_committer_that_stands_still_turns_liveness_and_is_named() {
    stands_still("journal", 1).await;
}

#[tokio::test]
async fn a_feed_that_stands_still_turns_liveness_and_is_named() {
    stands_still("feed", 1).await;
}

#[tokio::test]
async fn a_tracker_that_stands_still_turns_liveness_and_is_named() {
    stands_still("lane", 1).await;
}

#[tokio::test]
async fn an_intake_that_stands_still_turns_liveness_and_is_named() {
    stands_still("intake", 1).await;
}

#[tokio::test]
async fn a_loop_that_takes_its_thread_with_it_turns_liveness_on_the_other_threads() {
    stands_still("intake:block", 3).await;
}

/// Nobody is left to answer, so a probe gets no answer, which is the truth.
#[tokio::test]
async fn a_loop_that_takes_the_only_thread_with_it_is_named_and_probes_get_no_answer() {
    let house = house("feed:block", 1).await;
    house.server.signal("USR1").await;
    until_within(TOLD_WITHIN, "the log names the loop", async || {
        let line = "a loop stands still name=\"feed\"";
        house.log.text().contains(line)
    })
    .await;
    let probe = tokio::process::Command::new(crate::executables::executable("tillwatch-server"))
        .args(["health", "--address", &house.server.ops, "liveness"])
        .output();
    let probe = within("a probe gives up", probe).await.unwrap();
    assert!(!probe.status.success());
    let told = String::from_utf8(probe.stderr).unwrap();
    assert!(told.contains("no answer"), "{told}");
}
