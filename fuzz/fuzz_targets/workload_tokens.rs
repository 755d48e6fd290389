#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| tillwatch_fuzz::workload_tokens(text));
