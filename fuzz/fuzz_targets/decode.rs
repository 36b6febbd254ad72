#![no_main]

#[path = "../targets/decode.rs"]
mod decode;
#[path = "../targets/reference.rs"]
mod reference;

libfuzzer_sys::fuzz_target!(|data: &[u8]| decode::run(data));
