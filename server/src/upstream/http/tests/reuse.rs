//! Requests on connections that were used before.

use super::*;

#[tokio::test]
async fn a_request_whose_kept_connection_closed_without_an_answer_says_so() {
    let server = Server::start(Behaviour::AnswerOnce(EMPTY.to_vec())).await;
    let upstream = server.upstream("");
    let ask = || upstream.send(get().on(Connection::Pooled), TIMEOUT);
    ask().await.unwrap();
    assert_eq!(ask().await.unwrap_err(), UpstreamError::Closed);
    // The repeat gets a connection that nothing has used.
    let again = upstream.send(get().on(Connection::Fresh), TIMEOUT).await;
    assert_eq!(again.unwrap().status, 200);
}

#[tokio::test]
async fn a_new_connection_that_closed_without_an_answer_is_a_lost_answer() {
    for connection in [Connection::Pooled, Connection::Fresh] {
        for behaviour in [Behaviour::Reset, Behaviour::AnswerAndClose(Vec::new())] {
            let server = Server::start(behaviour).await;
            let upstream = server.upstream("");
            let lost = upstream.send(get().on(connection), TIMEOUT).await;
            assert_eq!(lost.unwrap_err(), UpstreamError::Lost("connection lost"));
        }
    }
}
