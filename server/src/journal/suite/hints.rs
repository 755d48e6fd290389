//! The hints of a server that somebody has committed, and its news without them.

use std::{future::poll_fn, sync::Arc, time::Duration};

use tillwatch_cluster::{Cluster, Database, Gate, Way};
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, NoTls};

use super::{
    fences::{account, put_under},
    server::{open, open_shared},
    shared::{follow, told},
    values::{begin, record},
};
use crate::journal::{Fence, Journal};

/// The payloads of the notifications that a database's processes send.
async fn notified(database: &Database) -> (Client, mpsc::UnboundedReceiver<String>) {
    let (client, mut connection) = tokio_postgres::connect(&database.url(), NoTls)
        .await
        .unwrap();
    let (heard, hears) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(notification) = message {
                heard.send(notification.payload().to_owned()).ok();
            }
        }
    });
    client.batch_execute("LISTEN tillwatch").await.unwrap();
    (client, hears)
}

#[tokio::test]
async fn transitions_of_a_process_beside_others_are_hinted_and_nothing_else_is() {
    for (is_shared, expected) in [(true, vec!["", "end"]), (false, vec!["end"])] {
        let database = Cluster::shared().database();
        let url = database.url();
        let journal = match is_shared {
            true => open_shared(&url, 1).await.unwrap(),
            false => open(&url, 1).await.unwrap(),
        };
        let (client, mut hears) = notified(&database).await;
        begin(&journal, record(1)).await;
        put_under(&journal, &Fence::alone(account())).await;
        client
            .batch_execute("NOTIFY tillwatch, 'end'")
            .await
            .unwrap();
        for payload in expected {
            assert_eq!(hears.recv().await.as_deref(), Some(payload));
        }
    }
}

#[tokio::test]
async fn others_commits_are_heard_soon_although_no_hint_comes() {
    let database = Cluster::shared().database();
    let gate = Gate::before(&database).await;
    gate.turn(Way::LosesHints);
    let first = open_shared(&database.url(), 1).await.unwrap();
    let second: Arc<dyn Journal> = Arc::new(open_shared(gate.url(), 2).await.unwrap());
    let _follows = follow(Arc::clone(&second));
    for number in 1..=3 {
        begin(&first, record(number)).await;
        told(&*second, number).await;
    }
    assert!(second.behind() < Duration::from_secs(1), "{second:?}");
}
