#![no_main]

#[path = "../targets/pipeline_file.rs"]
mod pipeline_file;

libfuzzer_sys::fuzz_target!(|data: &[u8]| pipeline_file::run(data));
