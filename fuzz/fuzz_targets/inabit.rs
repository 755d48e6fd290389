#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tillwatch_fuzz::provider("inabit", data));
