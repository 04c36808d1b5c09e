#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| source::nbd::fuzz_replies(data));
