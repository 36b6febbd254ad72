#![no_main]

#[path = "../targets/file_log.rs"]
mod file_log;
#[path = "../targets/seal.rs"]
mod seal;

libfuzzer_sys::fuzz_target!(|data: &[u8]| file_log::run(data));
