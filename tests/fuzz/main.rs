//! The fuzz targets on a stable compiler: the committed seeds, and mutations of them drawn from a seed.
//!
//! libFuzzer, which is led by what code an input reaches, runs the same targets: see `fuzz/`. Here a few
//! thousand inputs of each make sure that the targets themselves stay true. `FUZZ_INPUTS` is how many
//! mutations there are of each, `FUZZ_SEED` what they are drawn from; `FUZZ_FILE` names one input that
//! is run alone, by the target whose name its directory has.

#[path = "../../fuzz/targets/decode.rs"]
mod decode;
mod draw;
#[path = "../../fuzz/targets/file_log.rs"]
mod file_log;
#[path = "../../fuzz/targets/import_csv.rs"]
mod import_csv;
#[path = "../../fuzz/targets/pipeline_file.rs"]
mod pipeline_file;
#[path = "../../fuzz/targets/reference.rs"]
mod reference;
#[path = "../../fuzz/targets/seal.rs"]
mod seal;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use draw::Mutator;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Runs one input; where the target panics, keeps the input and says how to repeat it.
fn run(target: fn(&[u8]), name: &str, input: &[u8]) {
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) else {
        return;
    };
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::create_dir_all(&kept).unwrap();
    let kept = kept.join("failed");
    std::fs::write(&kept, input).unwrap();
    resume_unwind(Box::new(format!(
        "{}\nrepeat with FUZZ_FILE={}",
        message(&*panic),
        kept.display()
    )));
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it panicked")
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Runs a target over its seeds and `default` mutations of them.
fn campaign(target: fn(&[u8]), name: &str, default: u64) {
    if let Ok(file) = std::env::var("FUZZ_FILE") {
        let of_this = Path::new(&file)
            .parent()
            .is_some_and(|parent| parent.ends_with(name));
        if of_this {
            target(&std::fs::read(&file).unwrap());
        }
        return;
    }
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let seeds: Vec<Vec<u8>> = files(&fuzz.join("seeds").join(name))
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect();
    assert!(seeds.len() >= 5, "seeds of {name}");
    for seed in &seeds {
        run(target, name, seed);
    }
    let words = fuzz.join("dictionaries").join(format!("{name}.dict"));
    let words = draw::words(&std::fs::read_to_string(words).unwrap());
    let mut mutator = Mutator::new(number("FUZZ_SEED", 1), &seeds, &words);
    for _ in 0..number("FUZZ_INPUTS", default) {
        run(target, name, &mutator.draw());
    }
}

#[test]
fn the_decoder_says_of_every_record_what_serde_json_says() {
    campaign(decode::run, "decode", 6_000);
}

#[test]
fn any_text_as_a_pipeline_file_is_told_where_it_is_wrong() {
    campaign(pipeline_file::run, "pipeline_file", 3_000);
}

#[test]
fn any_bytes_as_a_log_directory_are_told_and_what_is_sound_is_read() {
    campaign(file_log::run, "file_log", 2_000);
}

#[test]
fn any_bytes_as_a_market_file_are_refused_whole_or_imported_whole() {
    campaign(import_csv::run, "import_csv", 2_000);
}
