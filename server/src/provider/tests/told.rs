//! The words about a refusal that a caller reads: the provider's, never the account's credentials.

use std::sync::Arc;

use crate::{
    observation::WORD_CHARACTERS_MAX,
    provider::{Provider, REGISTRY, STRUCK, registered, told},
    purchase::Secret,
};

/// The provider with its secrets, each another text.
fn provider(name: &str) -> (Arc<dyn Provider>, Vec<String>) {
    let row = registered(name).unwrap();
    let secrets: Vec<(String, String)> = (row.secrets.iter())
        .map(|name| ((*name).to_owned(), format!("TESTONLY-{name}+/=")))
        .collect();
    let built = (row.build)(
        &(secrets.iter())
            .map(|(name, value)| (name.clone(), Secret::new(value.clone())))
            .collect(),
    );
    let values = secrets.into_iter().map(|(_, value)| value).collect();
    (built.unwrap(), values)
}

#[test]
fn d2_a_refusal_that_repeats_a_secret_is_told_without_it() {
    for row in REGISTRY {
        let (provider, secrets) = provider(row.name);
        assert_eq!(provider.secrets().len(), secrets.len(), "{}", row.name);
        for secret in &secrets {
            let at_the_cut = "x".repeat(WORD_CHARACTERS_MAX - 10);
            let (half, rest) = secret.split_at(5);
            for message in [
                format!("key {secret} of the widget is not allowed"),
                format!("{secret}{secret}"),
                format!("Bearer {secret}"),
                format!("{at_the_cut}{secret}"),
                format!("{half}\n{rest}"),
            ] {
                let told = told(&*provider, &message);
                assert!(!told.contains("TESTONLY"), "{}: {told}", row.name);
                assert!(told.contains(&STRUCK[..8]), "{}: {told}", row.name);
                assert!(told.chars().count() <= WORD_CHARACTERS_MAX);
            }
        }
        let plain = told(&*provider, "the card is\u{0} blocked");
        assert_eq!(plain, "the card is blocked");
    }
}
