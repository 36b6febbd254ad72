//! `tidemill explain`: what a pipeline does and promises, what a code means, or what may stand in a
//! file.

mod event;
mod graph;
mod json;
mod keys;
mod text;

use std::path::PathBuf;

use serde_json::json;

use super::load::{load, tell};
use super::{Console, Exit, Failure, World};
use crate::config::Code;
use crate::config::guarantee;
use crate::config::reference::Section;
use crate::events::MARKET_DATA_UPDATE;

/// Explain a pipeline, the code of a problem, or what may stand in a file
///
/// For a pipeline: what is read, what becomes of it, what is written, and what is guaranteed, with
/// one line of cause for each element. Connects to nothing.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidemill explain pipelines/bars.toml
  tidemill explain E0147
  tidemill explain sections                     all that may stand in a file
  tidemill explain dedupe                       what may stand in one section, or with one operator
  tidemill explain MarketDataUpdate             the fields of the built-in event")]
pub(super) struct ExplainArgs {
    /// The files of one pipeline, one code such as E0147, a section such as `topics`, or the built-in event
    #[arg(required = true, value_name = "FILE|CODE|SECTION|EVENT")]
    what: Vec<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(super) fn run(
    args: &ExplainArgs,
    console: &mut Console<'_>,
    world: &World<'_>,
) -> Result<Exit, Failure> {
    if let [one] = args.what.as_slice()
        && let Some(name) = one.to_str().filter(|name| looks_like_code(name))
    {
        let code = Code::find(name).ok_or_else(|| {
            Failure::usage(format!("there is no code `{name}`"))
                .help("codes are printed with each problem, such as `E0147`")
        })?;
        return code_explained(code, args.json, console);
    }
    if let [one] = args.what.as_slice()
        && let Some(name) = one.to_str()
        && !one.exists()
    {
        if name == "sections" {
            return keys::all_explained(args.json, console);
        }
        if name == MARKET_DATA_UPDATE {
            return event::explained(args.json, console);
        }
        if let Some(section) = Section::find(name) {
            return keys::explained(section, args.json, console);
        }
        if !name.contains(['.', '/']) {
            let message = format!("there is no file, section, operator or built-in event `{name}`");
            return Err(Failure::usage(message).help(match Section::nearest(name) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "`tidemill explain sections` tells of all that may stand in a file".into(),
            }));
        }
    }
    let pipeline = load(&args.what, world)?;
    let causes = guarantee::causes(&pipeline.plan);
    if args.json {
        console.json(&json::pipeline(&pipeline.plan, &causes))?;
    } else {
        text::pipeline(&pipeline.plan, &causes, console)?;
        if !pipeline.warnings.is_empty() {
            console.line("\nwarnings\n")?;
            tell(&pipeline.warnings, world.colour, console.output)?;
        }
    }
    Ok(Exit::Ok)
}

fn looks_like_code(name: &str) -> bool {
    let digits = name.strip_prefix(['E', 'W', 'e', 'w']);
    digits
        .is_some_and(|digits| digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

fn code_explained(code: Code, json: bool, console: &mut Console<'_>) -> Result<Exit, Failure> {
    if json {
        console.json(&json!({
            "code": code.as_str(),
            "severity": code.severity().as_str(),
            "title": code.title(),
            "explanation": code.explanation(),
        }))?;
    } else {
        console.line(format_args!("{}: {}\n", code.as_str(), code.title()))?;
        console.line(wrapped(code.explanation()))?;
    }
    Ok(Exit::Ok)
}

/// Broken into lines of at most 80 characters.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.chars().count() + 1 + word.chars().count() <= 80 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}
