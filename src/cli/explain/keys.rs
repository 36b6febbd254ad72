//! What may stand in a file, section by section.

use serde_json::json;

use super::super::{Console, Exit, Failure};
use super::wrapped;
use crate::config::reference::{SECTIONS, Section};

/// Tells what each section is for, then all of them.
pub(super) fn all_explained(json: bool, console: &mut Console<'_>) -> Result<Exit, Failure> {
    if json {
        let sections: Vec<_> = SECTIONS.iter().map(as_json).collect();
        console.json(&json!({ "sections": sections }))?;
        return Ok(Exit::Ok);
    }
    for (index, section) in SECTIONS.iter().enumerate() {
        if index > 0 {
            console.line("")?;
        }
        show(section, console)?;
    }
    Ok(Exit::Ok)
}

/// Tells the keys of a section.
pub(super) fn explained(
    section: &Section,
    json: bool,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    if json {
        console.json(&as_json(section))?;
    } else {
        show(section, console)?;
    }
    Ok(Exit::Ok)
}

/// A file that works, where words alone would leave it open how.
fn example(section: &Section) -> Option<&'static str> {
    // With the broker that is not as others: lines that are read once.
    (section.name == "brokers").then_some(include_str!("../../../pipelines/lines.toml"))
}

fn show(section: &Section, console: &mut Console<'_>) -> Result<(), Failure> {
    console.line(format_args!("{}: {}\n", section.name, section.written))?;
    console.line(wrapped(section.about))?;
    for key in section.keys {
        console.line(format_args!("\n  {}: {}", key.name, key.takes))?;
        for line in wrapped(key.about).lines() {
            console.line(format_args!("      {line}"))?;
        }
    }
    if let Some(example) = example(section) {
        console.line(format_args!("\n{}", example.trim_end()))?;
    }
    Ok(())
}

fn as_json(section: &Section) -> serde_json::Value {
    let keys = section.keys.iter();
    let keys: Vec<_> = keys
        .map(|key| json!({ "name": key.name, "takes": key.takes, "about": key.about }))
        .collect();
    let mut document = json!({
        "name": section.name,
        "written": section.written,
        "about": section.about,
        "keys": keys,
    });
    if let Some(example) = example(section) {
        document["example"] = example.into();
    }
    document
}
