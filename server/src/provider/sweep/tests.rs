use super::*;

#[test]
fn a_place_is_kept_as_text() {
    let since = Timestamp::from_iso("2026-11-20T07:13:01.234Z").unwrap();
    for after in ["", "cmtest0000000000000000021", "a b"] {
        let place = Cursor {
            since,
            after: after.to_owned(),
        };
        assert_eq!(Cursor::parse(&place.to_string()), Some(place));
    }
    for text in ["", "1", "x y"] {
        assert_eq!(Cursor::parse(text), None, "{text}");
    }
}
