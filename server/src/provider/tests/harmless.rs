//! Every answer on file with the differences that mean nothing: another simulation of a provider, or
//! its next version, has some of them, and all have to be read the same.

use serde_json::{Number, Value, json};

use super::{
    fixture,
    reading::{answer_line, submit_line},
    table::Sample,
};
use crate::{
    observation::{Answer, Observation, Submitted},
    purchase::{Amount, BuyerAction, Decimal},
    upstream::Response,
};

/// A change of a body that means nothing, by what it does to each value in it.
type Change = fn(&str, Value) -> Option<Value>;

/// Fields whose text is a name and not a number, whatever it looks like.
fn is_name(field: &str) -> bool {
    let field = field.to_lowercase();
    ["id", "hash", "identifier", "address", "memo"]
        .iter()
        .any(|end| field.ends_with(end))
}

const CHANGES: [(&str, Change); 7] = [
    ("as it is", |_, value| Some(value)),
    ("null is missing", |_, value| {
        (!value.is_null()).then_some(value)
    }),
    ("null is an empty text", |_, value| match value {
        Value::Null => Some(json!("")),
        value => Some(value),
    }),
    ("an empty list is null", |_, value| match value {
        Value::Array(values) if values.is_empty() => Some(Value::Null),
        value => Some(value),
    }),
    ("numbers are text", |_, value| match value {
        Value::Number(number) => Some(json!(number.to_string())),
        value => Some(value),
    }),
    ("text is numbers", |field, value| {
        let number: Option<Number> = match &value {
            Value::String(text) if !is_name(field) => text.parse().ok(),
            _ => None,
        };
        Some(number.map_or(value, Value::Number))
    }),
    ("there is more", |_, value| match value {
        Value::Object(mut fields) => {
            fields.insert("sandbox_extra".to_owned(), json!({ "a": [1, null, "x"] }));
            let huge: Number = "123456789012345678901234567890e400".parse().unwrap();
            fields.insert("sandboxHuge".to_owned(), Value::Number(huge));
            Some(Value::Object(fields))
        }
        value => Some(value),
    }),
];

/// A value with a change made to it and to everything in it, from the leaves up.
fn changed(field: &str, value: Value, change: Change) -> Option<Value> {
    let value = match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().filter_map(|(name, value)| {
                let value = changed(&name, value, change)?;
                Some((name, value))
            });
            Value::Object(fields.collect())
        }
        Value::Array(values) => {
            let values = values.into_iter();
            Value::Array(
                values
                    .filter_map(|value| changed(field, value, change))
                    .collect(),
            )
        }
        value => value,
    };
    change(field, value)
}

/// The parts that have to stay the same: all but the spelling of an amount, and a fact that is named as
/// absent.
fn meaning(observation: &Observation) -> Observation {
    let mut observation = observation.clone();
    observation.facts.retain(|(_, value)| value.is_some());
    let by_value = |amount: &mut Amount| {
        amount.value = Decimal::parse(&amount.value).unwrap().canonical();
    };
    observation.amounts.iter_mut().for_each(by_value);
    if let Some(BuyerAction::Deposit(deposit)) = &mut observation.buyer_action {
        deposit.amount.iter_mut().for_each(by_value);
    }
    observation
}

/// The meaning of a file's answer for the sender of its request.
fn read(sample: &Sample, name: &str, answer: &Response) -> (String, Option<Observation>) {
    if name.starts_with("create_") {
        return match sample.submitted(answer) {
            Submitted::Accepted(observation) => {
                ("accepted".to_owned(), Some(meaning(&observation)))
            }
            other => (submit_line(&other), None),
        };
    }
    match sample.read(answer) {
        Answer::Observed(observation) => ("observed".to_owned(), Some(meaning(&observation))),
        other => (answer_line(&other), None),
    }
}

/// The same in other bytes: behind a byte order mark, spread over lines, behind other headers, with another 2xx.
fn rewritten(answer: &Response, body: &Value) -> Vec<Response> {
    let pretty = serde_json::to_string_pretty(body).unwrap();
    let pretty = format!("\u{feff}\r\n\t {} \n", pretty.replace('\n', "\r\n"));
    let headers = json!({ "CONTENT-TYPE": "text/json ; charset=UTF-8; v=2", "X-Other": "1" });
    let statuses = match answer.status {
        200..=299 => vec![200, 201, 202],
        status => vec![status],
    };
    statuses
        .into_iter()
        .map(|status| fixture::answer_with(status, &headers, &pretty))
        .collect()
}

#[test]
fn differences_that_mean_nothing_change_nothing() {
    let mut count = 0;
    for sample in Sample::all() {
        let names = fixture::names(sample.name, "").into_iter();
        let is_read = |name: &String| {
            (name.starts_with("status_") || name.starts_with("create_"))
                && !name.contains("request")
        };
        for name in names.filter(is_read) {
            let answer = fixture::answer(sample.name, &name);
            let expected = read(&sample, &name, &answer);
            let body = answer.json().unwrap();
            for (what, change) in CHANGES {
                let body = changed("", body.clone(), change).unwrap();
                for answer in rewritten(&answer, &body) {
                    let found = read(&sample, &name, &answer);
                    let provider = sample.name;
                    assert_eq!(found, expected, "{provider} {name}: {what}\n{body:#}");
                    count += 1;
                }
            }
        }
    }
    assert!(count > 1_000, "{count} variants");
}
