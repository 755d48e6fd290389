//! The contract is true: its comments, `docs/PROVIDERS.md` and the checks say the same of each field.

use std::{collections::BTreeMap, fs, path::PathBuf};

use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, Kind, Value};
use tillwatch_proto::v1::{
    CreatePurchaseRequest, ProviderReference, create_purchase_request::Order,
};

use super::{fixture, samples};
use crate::{
    provider::{self, REGISTRY, Registered, Stated},
    testing,
};

/// The text of a file of the repository.
fn text_of(path: &[&str]) -> String {
    let root = [env!("CARGO_MANIFEST_DIR"), ".."];
    let path: PathBuf = root.iter().chain(path).collect();
    fs::read_to_string(path).unwrap()
}

/// The comment of each field and oneof of the contract's orders, by message and name. An `option` is no
/// field: only a field has a number.
fn comments() -> BTreeMap<(String, String), String> {
    let mut comments = BTreeMap::new();
    let (mut message, mut comment) = (String::new(), String::new());
    for line in text_of(&["proto", "tillwatch", "v1", "order.proto"]).lines() {
        let line = line.trim();
        if let Some(words) = line.strip_prefix("//") {
            comment = format!("{comment} {}", words.trim()).trim().to_owned();
            continue;
        }
        if let Some(name) = line.strip_prefix("message ") {
            message = name.trim_end_matches(" {").to_owned();
        } else if let Some(name) = line.strip_prefix("oneof ") {
            let name = name.trim_end_matches(" {").to_owned();
            comments.insert((message.clone(), name), comment.clone());
        } else if let Some((declared, number)) = line.split_once(" = ")
            && number.trim_end_matches(';').parse::<u32>().is_ok()
        {
            let name = declared.rsplit(' ').next().unwrap().to_owned();
            comments.insert((message.clone(), name), comment.clone());
        }
        comment.clear();
    }
    comments
}

/// All rules of all providers.
fn stated() -> Vec<Stated> {
    let rules = REGISTRY.iter().map(|row| (row.rules)().concat());
    rules.collect::<Vec<_>>().concat()
}

#[test]
fn each_fields_comment_in_the_contract_has_its_rules() {
    let comments = comments();
    let mut missing = Vec::new();
    for stated in stated() {
        let (message, field) = (stated.message.to_owned(), stated.field.to_owned());
        let comment = comments.get(&(message, field)).expect(stated.field);
        if !comment.to_lowercase().contains(&stated.rule.to_lowercase()) {
            let Stated {
                message,
                field,
                rule,
                ..
            } = &stated;
            missing.push(format!("{message}.{field}: {rule}"));
        }
    }
    assert!(
        missing.is_empty(),
        "not in the comments:\n{}",
        missing.join("\n")
    );
}

#[test]
fn each_field_of_an_order_and_a_reference_has_a_rule() {
    let stated = stated();
    let mut lacking = Vec::new();
    for ((message, field), comment) in comments() {
        let rules = stated
            .iter()
            .filter(|one| one.message == message && one.field == field);
        let rules: Vec<&Stated> = rules.collect();
        // These fields only hold a message, whose fields have rules.
        let is_outer = matches!(
            (&*message, &*field),
            ("ProviderReference", _) | ("DevdraftOrder", "stablecoin" | "bank" | "customer")
        );
        if rules.is_empty() != is_outer {
            lacking.push(format!("{message}.{field}"));
        }
        let is_required = rules.iter().any(|one| one.is_required) || field == "intent";
        if !is_outer {
            let says = comment.contains("Required.");
            assert_eq!(says, is_required, "{message}.{field}: {comment}");
        }
    }
    assert!(lacking.is_empty(), "without a rule: {lacking:?}");
}

/// The rows of a provider's table of fields in `docs/PROVIDERS.md`, without their marks.
fn rows(row: &Registered) -> Vec<String> {
    let [orders, references] = (row.rules)();
    let paths = |rules: Vec<Stated>, whose: &str| {
        let mut paths: Vec<(String, Vec<Stated>)> = Vec::new();
        for one in rules {
            match paths.iter_mut().find(|(path, _)| *path == one.path) {
                Some((_, known)) => known.push(one),
                None => paths.push((one.path.clone(), vec![one])),
            }
        }
        let line = |(path, rules): (String, Vec<Stated>)| {
            let is_required = rules.iter().any(|one| one.is_required);
            let required = if is_required { "required: " } else { "" };
            let rules: Vec<String> = rules.into_iter().map(|one| one.rule).collect();
            let rules = rules.join("; ").replace('|', "\\|");
            format!("| {whose}`{path}` | {required}{rules} |")
        };
        paths.into_iter().map(line).collect::<Vec<String>>()
    };
    [paths(orders, ""), paths(references, "reference ")].concat()
}

#[test]
fn the_docs_have_each_rule_and_no_other() {
    let docs = text_of(&["docs", "PROVIDERS.md"]);
    let mut wrong = Vec::new();
    for row in REGISTRY {
        let section = docs.split("\n## ").find(|section| {
            let head = section.lines().next().unwrap_or_default();
            head.to_lowercase() == row.name
        });
        let section = section.expect(row.name);
        let table = section
            .lines()
            .skip_while(|line| !line.starts_with("| field |"));
        let table = table.skip(2).take_while(|line| line.starts_with('|'));
        let (mut found, expected) = (Vec::new(), rows(&row));
        for line in table {
            let marked = line.trim_end_matches(" |").rsplit_once(" | ");
            let (rule, mark) = marked.expect(line);
            let marks = mark.split(", ").all(|one| ["D", "I", "O"].contains(&one));
            assert!(marks, "{line}");
            found.push(format!("{rule} |"));
        }
        if found != expected {
            wrong.push(format!("{}:\n{}", row.name, expected.join("\n")));
        }
    }
    assert!(
        wrong.is_empty(),
        "the tables should be:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn amounts_that_are_compared_by_value_are_those_with_a_decimal_rule() {
    for row in REGISTRY {
        let [orders, _] = (row.rules)();
        let is_decimal = |one: &&Stated| one.rule.starts_with("a decimal number");
        let decimals = orders
            .iter()
            .filter(is_decimal)
            .map(|one| one.path.as_str());
        let decimals: Vec<&str> = decimals.collect();
        assert_eq!(
            testing::provider(row.name).decimal_fields(),
            decimals,
            "{}",
            row.name
        );
    }
}

/// The meaning of a comment for a text: a second reading of the contract, by its words alone.
fn allows(comment: &str, text: &str) -> bool {
    if text.is_empty() {
        return !comment.contains("Required.");
    }
    let has = |words: &str| comment.contains(words);
    let units = text.encode_utf16().count();
    let is_blank = text.trim().is_empty() && has("not all blank");
    let is_id = has("or 1 to 200 visible ASCII characters")
        && ![".", ".."].contains(&text)
        && units <= 200
        && text
            .chars()
            .all(|letter| letter.is_ascii_graphic() && !"/?#%\\".contains(letter));
    if is_id {
        return true;
    }
    if is_blank {
        return false;
    }
    let between = |after: &str| {
        let (before, _) = comment.split_once(after)?;
        let number = |word: &str| word.replace([',', ':'], "").parse::<usize>().ok();
        let mut words = before.trim_end().rsplit(' ');
        let most = number(words.next()?)?;
        let least = match words.next()? {
            "to" => number(words.next()?)?,
            _ => 0,
        };
        Some(least..=most)
    };
    if let Some((signs, _)) = comment
        .split_once("letters, digits and signs of \"")
        .and_then(|(_, rest)| rest.split_once('"'))
    {
        let range = between(" letters").unwrap();
        return range.contains(&text.len())
            && ![".", ".."].contains(&text)
            && text
                .chars()
                .all(|letter| letter.is_ascii_alphanumeric() || signs.contains(letter));
    }
    if has("yphenated UUID") {
        let groups: Vec<usize> = text.split('-').map(str::len).collect();
        return groups == [8, 4, 4, 4, 12]
            && text
                .chars()
                .all(|letter| letter == '-' || letter.is_ascii_hexdigit());
    }
    if let Some(range) = between(" hexadecimal digits") {
        return range.contains(&units) && text.chars().all(|letter| letter.is_ascii_hexdigit());
    }
    if let Some(range) = between(" visible ASCII characters") {
        return range.contains(&units) && text.chars().all(|letter| letter.is_ascii_graphic());
    }
    if let Some(range) = between(" characters without control characters") {
        let has_blanks = text.trim() != text && has("without blanks around it");
        return range.contains(&text.chars().count())
            && !text.chars().any(char::is_control)
            && !has_blanks;
    }
    if let Some(range) = between(" characters without U+0000") {
        return range.contains(&units) && !text.contains('\0');
    }
    if has("ext without U+0000") {
        return !text.contains('\0') && (!has("100 KiB") || text.len() < 99 * 1024);
    }
    let decimal = |text: &str| {
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |it: &str| !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_digit());
        digits(whole) && digits(part) && text.bytes().any(|byte| (b'1'..=b'9').contains(&byte))
    };
    if has("decimal number above 0 of at most 64 characters") {
        return units <= 64 && decimal(text);
    }
    if has("decimal number above 0 with at most") {
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let (whole, part) = (whole.trim_start_matches('0'), part.trim_end_matches('0'));
        let digits = whole.len().max(1) + part.len();
        let decimals = if has("2 decimals") { 2 } else { usize::MAX };
        return decimal(text) && digits <= 15 && part.len() <= decimals;
    }
    if has("an integer of 1 to 9223372036854775807 in at most 25 digits") {
        let number = text.bytes().all(|byte| byte.is_ascii_digit());
        let value: u128 = text.parse().unwrap_or_default();
        return number && units <= 25 && (1..=9_223_372_036_854_775_807).contains(&value);
    }
    if has("n absolute http or https address of at most 2,048 bytes") {
        return text.starts_with("https://x.test/") && text.len() <= 2_048 && !text.contains(' ');
    }
    if has(" JSON object of at most 16 KiB") {
        return text.starts_with("{\"a\":\"") && text.ends_with("\"}") && text.len() <= 16_384;
    }
    let words = comment.split('"').skip(1).step_by(2);
    let words: Vec<&str> = words.collect();
    assert!(!words.is_empty(), "no rule is read in {comment:?}");
    words.contains(&text)
}

/// Texts that one rule or another is about.
const ODD: [&str; 77] = [
    ".",
    "..",
    "...",
    "a b",
    " a",
    "a ",
    "a\nb",
    "a\0b",
    "\u{7f}",
    "\u{85}",
    "a/b",
    "a?b",
    "a#b",
    "a%b",
    "a\\b",
    "._-~:=+@|",
    "a_-",
    "a\u{a0}",
    "0b7a1c9e-1111-4222-8333-00000000000A",
    "0b7a1c9e111142228333000000000001",
    "{0b7a1c9e-1111-4222-8333-000000000001}",
    "usdc",
    "USDC",
    "eurc",
    "usd",
    "eur",
    "mxn",
    "USD",
    "EUR",
    "ethereum",
    "base",
    "Base",
    "wire",
    "ach",
    "sepa",
    "spei",
    "swift",
    "stellar",
    "Preprod",
    "Mainnet",
    "preprod",
    "Web3CardanoV1",
    "Web3CardanoV2",
    "Web3CardanoV3",
    "0",
    "1",
    "00",
    "0.0",
    "1.5",
    "1.50",
    "10.391",
    "10.390",
    "-1",
    "+1",
    "1e3",
    "1,5",
    ".5",
    "5.",
    "１",
    "999999999999999",
    "9999999999999999",
    "0.00000000000001",
    "0.000000000000001",
    "9223372036854775807",
    "9223372036854775808",
    "0000000000000000000000001",
    "00000000000000000000000001",
    "/ok",
    "javascript:alert(1)",
    "ftp://x.test/",
    "https://",
    "https://x.test/a b",
    "[1]",
    "{",
    "null",
    "abcdef0123456789",
    "ABCDEF0123456789",
];

/// Texts at and around each limit of the contract, of ordinary and of odd characters.
fn texts() -> Vec<String> {
    let lengths = [
        0, 1, 5, 6, 9, 10, 11, 13, 14, 15, 16, 25, 26, 27, 32, 33, 56, 57, 64, 65, 99, 100, 101,
        140, 141, 150, 151, 200, 201, 204, 205, 250, 251, 255, 256, 257, 500, 501, 4_096, 4_097,
        8_000, 8_001,
    ];
    let filled = lengths.into_iter().flat_map(|length| {
        let of = move |one: &str| one.repeat(length);
        ["a", "7", "z", "é", "😀", " ", "-", "/"].map(of)
    });
    let address = |length: usize| format!("https://x.test/{}", "x".repeat(length - 15));
    let object = |length: usize| format!("{{\"a\":\"{}\"}}", "x".repeat(length - 8));
    let built = [
        address(2_048),
        address(2_049),
        object(16_384),
        object(16_385),
        "x".repeat(100 * 1024),
        format!("0.{}1", "0".repeat(61)),
        format!("0.{}1", "0".repeat(62)),
    ];
    filled
        .chain(built)
        .chain(ODD.map(str::to_owned))
        .chain(drawn())
        .collect()
}

/// Texts that are drawn, from a seed that is the same each time.
fn drawn() -> Vec<String> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let alphabets = [
        "0123456789",
        "0123456789.",
        "abcdefABCDEF0123456789",
        "az._-~:=+@|/?#%\\",
        "a \n\0é😀\u{fffd}",
    ];
    let mut text = || {
        let letters: Vec<char> = alphabets[draw(5) as usize].chars().collect();
        let longest = [8, 30, 300][draw(3) as usize];
        let length = draw(longest);
        (0..length)
            .map(|_| letters[draw(letters.len() as u64) as usize])
            .collect()
    };
    (0..400).map(|_| text()).collect()
}

/// The same message with another text in the field at a path.
fn with(message: &DynamicMessage, path: &str, text: &str) -> DynamicMessage {
    let mut message = message.clone();
    match path.split_once('.') {
        None => message.set_field_by_name(path, Value::String(text.to_owned())),
        Some((outer, inner)) => {
            let list = outer.strip_suffix("[]");
            let name = list.unwrap_or(outer);
            let value = message.get_field_by_name(name).unwrap().into_owned();
            let value = match value {
                Value::Message(value) => Value::Message(with(&value, inner, text)),
                Value::List(values) => Value::List(
                    (values.iter())
                        .map(|value| Value::Message(with(value.as_message().unwrap(), inner, text)))
                        .collect(),
                ),
                other => panic!("{path} is in {other:?}"),
            };
            message.set_field_by_name(name, value);
        }
    }
    message
}

/// True if a field is a text.
fn is_text(pool: &DescriptorPool, stated: &Stated) -> bool {
    let message = pool
        .get_message_by_name(&format!("tillwatch.v1.{}", stated.message))
        .unwrap();
    let field = message.get_field_by_name(stated.field);
    field.is_some_and(|field| field.kind() == Kind::String && !field.is_list())
}

/// Each field of an order or a reference that is a text, once.
fn text_fields(pool: &DescriptorPool, rules: Vec<Stated>) -> Vec<Stated> {
    let mut fields: Vec<Stated> = rules.into_iter().filter(|one| is_text(pool, one)).collect();
    fields.dedup_by(|one, other| one.path == other.path);
    fields
}

#[test]
fn a_check_takes_what_the_contract_states_and_nothing_else() {
    let pool = DescriptorPool::decode(tillwatch_proto::FILE_DESCRIPTOR_SET).unwrap();
    let dynamic = |name: &str, bytes: &[u8]| {
        let descriptor = pool
            .get_message_by_name(&format!("tillwatch.v1.{name}"))
            .unwrap();
        DynamicMessage::decode(descriptor, bytes).unwrap()
    };
    let (comments, texts, mut taken) = (comments(), texts(), 0);
    let mut wrong = Vec::new();
    for row in REGISTRY {
        let provider = testing::provider(row.name);
        let name = row.name;
        let mut hold = |path: &str, stated: &Stated, text: &str, broken: Vec<String>| {
            let key = (stated.message.to_owned(), stated.field.to_owned());
            let is_allowed = allows(&comments[&key], text);
            let expected = if is_allowed {
                vec![]
            } else {
                vec![path.to_owned()]
            };
            taken += usize::from(is_allowed);
            let mut broken = broken;
            broken.dedup();
            if broken != expected {
                let text: String = text.chars().take(40).collect();
                wrong.push(format!("{path} {text:?}: {broken:?}"));
            }
        };
        let [orders, references] = (row.rules)();
        for order in samples::orders(name) {
            let whole = CreatePurchaseRequest {
                order: Some(order),
                ..Default::default()
            };
            let whole = dynamic("CreatePurchaseRequest", &whole.encode_to_vec());
            for stated in text_fields(&pool, orders.clone()) {
                let outer = stated.path.split('.').next().unwrap();
                let order = whole.get_field_by_name(name).unwrap();
                let order = order.as_message().unwrap();
                if ["stablecoin", "bank"].contains(&outer) && !order.has_field_by_name(outer) {
                    continue;
                }
                // A text so long is told of the metadata, whose rule is about the whole order.
                let is_whole = |text: &&String| text.len() < 50_000 || stated.field == "metadata";
                for text in texts.iter().filter(is_whole) {
                    let changed = with(&whole, &format!("{name}.{}", stated.path), text);
                    let request: CreatePurchaseRequest = changed.transcode_to().unwrap();
                    let order = request.order.unwrap();
                    let placed = provider::order(&*provider, &order).unwrap();
                    let broken = provider::violations(&*provider, &*placed, fixture::now());
                    let fields = broken.into_iter().map(|one| one.field).collect();
                    let path = format!("{name}.{}", stated.path.replace("[]", "[0]"));
                    hold(&path, &stated, text, fields);
                }
            }
        }
        let whole = dynamic(
            "ProviderReference",
            &samples::reference(name).encode_to_vec(),
        );
        for stated in text_fields(&pool, references) {
            for text in &texts {
                let changed = with(&whole, &format!("{name}.{}", stated.path), text);
                let message: ProviderReference = changed.transcode_to().unwrap();
                let broken = provider::reference(&*provider, "existing", &message).err();
                let fields = broken
                    .unwrap_or_default()
                    .into_iter()
                    .map(|one| one.field)
                    .collect();
                hold(
                    &format!("existing.{name}.{}", stated.path),
                    &stated,
                    text,
                    fields,
                );
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of them:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert!(taken > 5_000, "only {taken} texts were taken");
}

#[test]
fn an_order_of_samples_breaks_no_rule() {
    for row in REGISTRY {
        let provider = testing::provider(row.name);
        for order in samples::orders(row.name) {
            assert!(!matches!(order, Order::Existing(_)));
            let placed = provider::order(&*provider, &order).unwrap();
            let broken = provider::violations(&*provider, &*placed, fixture::now());
            assert_eq!(broken, [], "{}", row.name);
        }
    }
}
