//! The way for fuzzing into this module; nothing else uses it.

use super::{deadline, token};

const BINDING: token::Binding<'static> = token::Binding {
    epoch: "epoch",
    caller: "caller",
};

/// Reads a text as a token of each kind, and writes again what it has read.
#[expect(clippy::panic, reason = "an input that breaks a promise ends the run")]
pub fn tokens(text: &str) {
    if let Some(page) = token::read_page(BINDING, text) {
        let again = token::page(BINDING, &page);
        let _ = page.last();
        if token::read_page(BINDING, &again) != Some(page) {
            panic!("a page token that is not read as it was written");
        }
    }
    if let Ok(position) = token::read_resume(BINDING, text)
        && token::read_resume(BINDING, &token::resume(BINDING, position)) != Ok(position)
    {
        panic!("a resume token that is not read as it was written");
    }
}

/// Like [`tokens`], with a token that has this body and the right checksum.
pub fn forged(body: &[u8]) {
    for kind in ["page", "resume"] {
        tokens(&token::seal(kind, BINDING, body));
    }
}

/// Reads a `grpc-timeout` header; an invalid one leaves no time limit.
pub fn timeout(header: &str) {
    if let Some(left) = deadline::timeout(header) {
        // The service adds it to the time of now.
        let _ = tokio::time::Instant::now().checked_add(left);
    }
}
