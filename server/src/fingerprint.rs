//! Order fingerprints: one HMAC-SHA-256 per field that is set, so that a repeated key can be
//! compared with its order although the order is not kept (promise C5).
