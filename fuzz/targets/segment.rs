#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| blocklog::segment::fuzz(data));
