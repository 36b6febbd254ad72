#![no_main]

#[path = "../targets/import_csv.rs"]
mod import_csv;

libfuzzer_sys::fuzz_target!(|data: &[u8]| import_csv::run(data));
