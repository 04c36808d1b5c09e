#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| blocklog::cycle::fuzz(data));
