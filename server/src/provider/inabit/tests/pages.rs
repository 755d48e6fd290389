//! Pages of all purchases: how they are asked for and read.

use serde_json::json;

use super::{ID, provider};
use crate::provider::{
    inabit::*,
    sweep::{Bounds, Coverage, Cursor, ROWS_MAX, Wanted},
    tests::{fixture, reading},
};

#[test]
fn a_page_of_all_purchases_is_asked_for_and_read() {
    let provider = provider();
    let sweep = provider.sweep().unwrap();
    assert_eq!(sweep.coverage(), Coverage::All);
    let place = sweep.start(Bounds {
        kept: None,
        oldest: fixture::now(),
        newest: None,
        now: fixture::now(),
    });
    let wanted = Wanted {
        list: "purchases",
        place: &place,
        rows: ROWS_MAX,
    };
    let request = sweep.request(wanted);
    fixture::assert_request_but_body(&request, NAME, "search_request");
    let body: Value = serde_json::from_slice(request.body.as_ref().unwrap()).unwrap();
    assert_eq!(body, json!({ "createdAt": "2026-07-01T10:05:00.000Z" }));
    let read = |answer: &Response, place: &Cursor| {
        let wanted = Wanted { place, ..wanted };
        sweep.read(wanted, answer, fixture::now())
    };
    let answer = fixture::answer(NAME, "search_response");
    let page = read(&answer, &place).unwrap();
    assert!(page.is_last);
    assert_eq!(page.pages, Some(1));
    assert_eq!(page.rows[0].reference, reference(ID).unwrap());
    let observation = page.rows[0].said.as_ref().unwrap();
    let expected = "COMPLETED TERMINAL Completed";
    assert_eq!(reading::brief(observation), expected);
    // Rows move while pages are read, so that pages overlap; `total` may stand beside `data`.
    let row = &fixture::file(NAME, "search_response")["body"]["data"]["purchases"][0];
    let rows = vec![row.clone(); 100];
    let body = json!({ "data": { "purchases": rows }, "total": 250 });
    let page = read(&fixture::answer_of(201, body.to_string()), &place).unwrap();
    assert!(!page.is_last);
    assert_eq!((page.next.after.as_str(), page.pages), ("90", Some(3)));
    let end = Cursor {
        after: "180".to_owned(),
        ..place.clone()
    };
    let rows = vec![row.clone(); 70];
    let body = json!({ "data": { "purchases": rows, "total": 250 } });
    let page = read(&fixture::answer_of(200, body.to_string()), &end).unwrap();
    assert_eq!((page.is_last, page.pages), (true, None));
    // One page of few rows is one page, and not as many as its overlap would make.
    let rows = vec![row.clone(); 12];
    let body = json!({ "data": { "purchases": rows, "total": 12 } });
    let page = read(&fixture::answer_of(201, body.to_string()), &place).unwrap();
    assert_eq!((page.is_last, page.pages), (true, Some(1)));
    for (what, body) in fixture::hostile_bodies() {
        assert!(
            read(&fixture::answer_of(201, body), &place).is_err(),
            "{what}"
        );
    }
    let refused = fixture::answer_of(401, "{}");
    assert_eq!(read(&refused, &place).unwrap_err(), Trouble::Unauthorized);
}
