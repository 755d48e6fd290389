//! The fuzz targets: they read what others wrote. Each target is one function of bytes. It must not
//! panic, and must keep its promises about its result.

use std::{collections::BTreeMap, io::Write as _, sync::LazyLock, time::SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde_json::Value;
use tillwatch_sandbox::{Recipe, Sample, simulated};
use tillwatch_server::{
    config::Config,
    grpc,
    jwt::{Keys, Token},
    observation::{
        Answer, BUYER_ACTION_BYTES_MAX, IDENTIFIER_BYTES_MAX, Observation, Submitted,
        WORD_CHARACTERS_MAX,
    },
    provider::{Intent, Provider, registered, told},
    purchase::{BuyerAction, Decimal, PurchaseId, Secret, Timestamp},
    upstream::{Response, rate_headers, retry_after},
};

/// The time at which the fixtures are read, 2026-07-01T10:10:00Z.
const NOW_MS: i64 = 1_782_900_600_000;
/// HTTP statuses with which each body is read, beside the input's own.
const STATUSES: [u16; 6] = [200, 201, 400, 404, 409, 429];

fn now() -> Timestamp {
    Timestamp::from_millis(NOW_MS).expect("a time of this century")
}

/// An order of a provider with the fields by which its answers are read, and its fixtures' reference.
fn sample(name: &str) -> Sample {
    let now = jiff::Timestamp::from_millisecond(NOW_MS).expect("a time of this century");
    (simulated(name).expect("a simulated provider").sample)(&Recipe::at(now))
}

fn recovery() -> BTreeMap<String, String> {
    [
        ("blockchain_identifier", "TEST_blockchain_identifier_0001"),
        ("network", "Preprod"),
        ("purchase_identifier", "ord-3001"),
        ("pulls", "2"),
        ("idempotency_key", "11111111-1111-4111-8111-111111111111"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// The status, headers and body of an input: a fixture's parts, or the input itself as a body.
fn parts(data: &[u8]) -> (u16, HeaderMap, Bytes) {
    let mut headers = HeaderMap::new();
    let whole: Option<Value> = serde_json::from_slice(data).ok();
    let Some(file) = whole.filter(|file| file.get("body").is_some()) else {
        return (200, headers, Bytes::copy_from_slice(data));
    };
    for (name, value) in file["headers"].as_object().into_iter().flatten() {
        let name = HeaderName::from_bytes(name.as_bytes());
        let value = HeaderValue::from_str(value.as_str().unwrap_or_default());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let status = file["http_status"]
        .as_u64()
        .and_then(|status| u16::try_from(status).ok());
    let body = match &file["body"] {
        Value::String(text) => text.clone(),
        body => body.to_string(),
    };
    (status.unwrap_or(200), headers, Bytes::from(body))
}

/// Reads an answer as a provider's status, submit and look-up.
pub fn provider(name: &'static str, data: &[u8]) {
    static PROVIDERS: LazyLock<BTreeMap<&'static str, std::sync::Arc<dyn Provider>>> =
        LazyLock::new(|| {
            let built = tillwatch_server::provider::REGISTRY.map(|row| {
                let secrets: BTreeMap<String, Secret> = (row.secrets.iter())
                    .map(|secret| ((*secret).to_owned(), Secret::new("secret")))
                    .collect();
                (
                    row.name,
                    (row.build)(&secrets).expect("a secret of letters"),
                )
            });
            built.into()
        });
    assert!(registered(name).is_some());
    let provider = &PROVIDERS[name];
    let (status, headers, body) = parts(data);
    let sample = sample(name);
    let reference = provider
        .reference(&sample.reference)
        .expect("the provider's own reference");
    let recovery = recovery();
    let order = provider
        .order(&sample.order)
        .expect("the provider's own order");
    for is_ours in [false, true] {
        let matches = move |_: &str, _: &str| is_ours;
        let intent = Intent {
            purchase: PurchaseId::from_u128(1),
            create_time: now().minus(std::time::Duration::from_secs(86_400 * 600)),
            recovery: &recovery,
            matches: &matches,
        };
        for status in [status].into_iter().chain(STATUSES) {
            let answer = Response {
                status,
                headers: headers.clone(),
                body: body.clone(),
            };
            for read in [
                provider.read_status(&reference, &answer, now()),
                provider.read_look_up(&intent, &answer, now()),
            ] {
                if let Answer::Observed(observation) = read {
                    check(&observation);
                }
            }
            match order.read(&intent, &answer, now()) {
                Submitted::Accepted(observation) => {
                    assert!(observation.reference.is_some(), "accepted without a name");
                    check(&observation);
                }
                Submitted::Refused { message } => {
                    assert!(
                        name == "carbon" || !(200..300).contains(&answer.status),
                        "an accepted order is refused"
                    );
                    let told = told(&**provider, &message);
                    check_word(&told);
                    assert!(!told.contains("secret") || told.contains("[secret]"));
                }
                _ => {}
            }
        }
    }
}

fn check_word(word: &str) {
    assert!(word.chars().count() <= WORD_CHARACTERS_MAX);
    assert!(!word.chars().any(char::is_control));
}

/// Promise D2: each value that is kept of an answer is within its limit.
fn check(observation: &Observation) {
    check_word(&observation.code);
    assert!(!observation.code.is_empty() || observation.reference.is_some());
    for (_, value) in &observation.facts {
        if let Some(value) = value {
            assert!(value.len() <= IDENTIFIER_BYTES_MAX);
            assert!(!value.chars().any(char::is_control));
        }
    }
    for hash in observation.transaction_hashes.iter().flatten() {
        assert!(!hash.contains(char::REPLACEMENT_CHARACTER), "half a name");
        assert!(hash.len() <= IDENTIFIER_BYTES_MAX && !hash.chars().any(char::is_control));
    }
    for amount in &observation.amounts {
        assert!(Decimal::parse(&amount.value).is_ok(), "{:?}", amount.value);
    }
    for item in observation.items.iter().flatten() {
        for text in [&item.id, &item.kind, &item.name, &item.image_url] {
            check_word(text);
        }
    }
    match &observation.buyer_action {
        Some(BuyerAction::Redirect(redirect)) => {
            let form = redirect.form_fields.iter();
            let bytes: usize = form.map(|(name, value)| name.len() + value.len()).sum();
            assert!(bytes + redirect.url.len() <= BUYER_ACTION_BYTES_MAX);
        }
        Some(BuyerAction::Deposit(deposit)) => {
            assert!(deposit.address.len() <= BUYER_ACTION_BYTES_MAX);
        }
        None => {}
    }
}

/// `Retry-After` and the rate headers give no wait beyond its limit.
pub fn retry_after(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let mut headers = HeaderMap::new();
    for name in [
        header::RETRY_AFTER,
        header::DATE,
        HeaderName::from_static("x-ratelimit-remaining"),
        HeaderName::from_static("x-ratelimit-reset"),
    ] {
        if let Some(Ok(value)) = lines.next().map(HeaderValue::from_bytes) {
            headers.insert(name, value);
        }
    }
    for now in [None, Some(SystemTime::UNIX_EPOCH)] {
        if let Some(wait) = retry_after::at(&headers, now) {
            assert!(wait <= retry_after::WAIT_MAX);
        }
    }
    if let Some(left) = rate_headers::left(&headers, now()) {
        assert!(!left.ahead.is_zero());
    }
}

/// A time or amount that can be read is written as the same.
pub fn numbers(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let times = [
        Timestamp::from_iso(text),
        Timestamp::from_javascript(text),
        Timestamp::from_millis_text(text),
    ];
    for time in times.into_iter().flatten() {
        assert_eq!(Timestamp::from_millis(time.as_millis()).ok(), Some(time));
        assert_eq!(Timestamp::from_iso(&time.to_string()).ok(), Some(time));
        let day = std::time::Duration::from_secs(86_400);
        assert!(time.plus(day) >= time && time.minus(day) <= time);
    }
    let numbers = [Decimal::parse(text), Decimal::parse_json(text)];
    for number in numbers.into_iter().flatten() {
        let canonical = number.canonical();
        let again = Decimal::parse(&canonical).expect("canonical text can be read");
        assert_eq!(again, number);
        assert_eq!(again.canonical(), canonical);
        for decimals in [0, 2, 8] {
            if let Some(minor) = number.to_minor_units(decimals) {
                assert!(
                    minor
                        .bytes()
                        .all(|sign| sign.is_ascii_digit() || sign == b'-')
                );
            }
        }
    }
}

/// A page or resume token that can be read is a token that this service writes.
pub fn tokens(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        grpc::fuzz::tokens(text);
    }
    grpc::fuzz::forged(data);
}

/// A `grpc-timeout` header is read or refused.
pub fn grpc_timeout(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        grpc::fuzz::timeout(text);
    }
}

/// A configuration's file is read or refused, and no refusal shows a value.
pub fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    // The file may name others, and some files of a machine never end.
    if text.contains("_file") || text.contains("/dev") || text.contains("/proc") {
        return;
    }
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(text.as_bytes()).expect("a temporary file");
    if let Err(error) = Config::load(Some(file.path()), std::iter::empty()) {
        assert!(!error.to_string().contains("CANARY"), "{error}");
    }
}

/// Reads a text as a workload's token and as a set of keys. Of all texts only the signed seed proves
/// anything.
pub fn workload_tokens(text: &str) {
    const KEYS: &[u8] = include_bytes!("../seeds/workload_tokens/keys");
    const TOKEN: &str = include_str!("../seeds/workload_tokens/token");
    static KNOWN: LazyLock<Keys> = LazyLock::new(|| Keys::parse(KEYS).expect("a set of keys"));
    let _ = Keys::parse(text.as_bytes());
    if let Some(token) = Token::parse(text)
        && token.check(&KNOWN, now()).is_ok()
    {
        assert_eq!(text, TOKEN, "a token that nobody has signed");
    }
}
