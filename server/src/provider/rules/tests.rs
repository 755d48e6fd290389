//! Forms that take more than a count of characters.

use super::*;

#[test]
fn uuids_have_one_spelling() {
    let table = [
        (
            "0B7A1C9E-1111-4222-8333-00000000000A",
            Some("0b7a1c9e-1111-4222-8333-00000000000a"),
        ),
        ("0b7a1c9e111142228333000000000001", None),
        ("{0b7a1c9e-1111-4222-8333-000000000001}", None),
        ("../0b7a1c9e-1111-4222-8333-0000000001", None),
        ("../x", None),
        ("", None),
    ];
    for (text, expected) in table {
        assert_eq!(uuid(text).as_deref(), expected, "{text:?}");
    }
}

#[test]
fn web_addresses_are_absolute() {
    for (text, expected) in [
        ("https://shop.example.test/ok?a=b", true),
        ("http://localhost:8080", true),
        ("/ok", false),
        ("javascript:alert(1)", false),
        ("ftp://shop.example.test", false),
        ("https://shop.example.test/a b", false),
        ("https://shop.example.test/\n", false),
        ("https://", false),
    ] {
        assert_eq!(is_web_address(text), expected, "{text:?}");
    }
}

#[test]
fn amounts_are_positive_and_exact() {
    for (text, decimals, expected) in [
        ("10.39", 2, true),
        ("10.390", 2, true),
        ("10.391", 2, false),
        ("0", 2, false),
        ("-1", 2, false),
        ("1e3", 2, false),
        ("", 2, false),
        ("999999999999999", 2, true),
        ("9999999999999999", 2, false),
    ] {
        let form = Form::Amount(Some(decimals));
        assert_eq!(form.holds(text), expected, "{text:?}");
    }
}
