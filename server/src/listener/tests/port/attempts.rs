use super::*;

#[tokio::test]
async fn a_connection_with_many_refused_attempts_is_sent_away_and_its_good_calls_go_on() {
    let served = serve(10).await;
    let before = Limit::RefusedAttempts.times();
    let (mut peer, _connection) = connect(&served).await;
    let (finish, finished) = tokio::sync::oneshot::channel();
    let body = stream::once(async move {
        let _ = finished.await;
        Ok(Frame::data(Bytes::from_static(&[0; 5])))
    });
    let open = tokio::spawn(peer.send_request(call("caller", "/echo", body.boxed())));
    let mut refused = 0;
    while refused < 1_000 && peer.ready().await.is_ok() {
        let answer = peer.send_request(call("refused", "/echo", nothing())).await;
        if answer.is_err() {
            break;
        }
        refused += 1;
    }
    assert!((100..150).contains(&refused), "{refused}");
    assert_eq!(Limit::RefusedAttempts.times(), before + 1);
    // A caller over another connection is let in.
    let (mut other, other_connection) = connect(&served).await;
    let status = told(&mut other, call("caller", "/echo", nothing())).await;
    assert_eq!(status.code(), Code::Ok);
    drop((other, other_connection));
    // The call that was open goes on to its end, and so does the connection.
    finish.send(()).unwrap();
    let answer = open.await.unwrap().unwrap();
    let end = answer.into_body().collect().await.unwrap();
    let status = Status::from_header_map(end.trailers().unwrap()).unwrap();
    assert_eq!(status.code(), Code::Ok);
    let ended = async {
        while served.port.connections() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), ended)
        .await
        .unwrap();
}
