//! The command: one file per verb.
//!
//! Everything a verb needs of the world comes in as an argument, so that tests drive the command
//! without a process: what it reads and writes, the environment, and the signals.

mod bar;
mod check;
mod completions;
mod console;
mod exit;
mod explain;
mod failure;
mod import;
mod load;
mod number;
mod offsets;
mod printed;
mod rate;
mod read;
mod reset;
mod run;
mod state;
mod stdio;
mod target;
mod time;
mod topics;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::Write as _;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, FromArgMatches as _};
use futures::stream::BoxStream;

pub use console::{Console, Terminals, printable};
pub use exit::Exit;
pub use failure::Failure;

/// The environment, looked up by name.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// One item for each time the user asks the command to stop.
///
/// Polled only by verbs that have something to finish; the others commit nothing and may be ended at
/// any instant, by whatever means.
pub type Signals = BoxStream<'static, ()>;

/// An embedded, broker-agnostic stream processor for trading.
///
/// A pipeline file says what is read, what becomes of it, and what is written. Tidemill checks it,
/// says what it guarantees, and runs it on an embedded log or in memory.
#[derive(Debug, clap::Parser)]
#[command(
    name = "tidemill",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = AFTER_HELP
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

const AFTER_HELP: &str = "\
Examples:
  tidemill check pipelines/bars.toml            is the file right?
  tidemill explain pipelines/bars.toml          what does it do, what does it guarantee, and why?
  tidemill run pipelines/bars.toml --until-end  run it over everything there is
  tidemill explain E0147                        what does this code mean?
  tidemill read bars-1m --broker file://data    what came out?
  tidemill offsets show pipelines/bars.toml     how far is it?
  tidemill offsets reset --help                 how to start anew
  tidemill state ls pipelines/bars.toml         what does it remember?

Exit codes: 0 done, 1 findings, 2 wrong usage or not confirmed, 3 file system, 6 refused: data
damaged, missing or contradicting the file, 7 owned by somebody else, 8 outcome unknown, 70 mistake
in tidemill, 130 interrupted twice.";

#[derive(Debug, clap::Subcommand)]
enum Verb {
    Check(check::CheckArgs),
    Explain(explain::ExplainArgs),
    Read(read::ReadArgs),
    Topics(topics::TopicsArgs),
    Offsets(offsets::OffsetsArgs),
    State(state::StateArgs),
    Import(Box<import::ImportArgs>),
    Run(run::RunArgs),
    Completions(completions::CompletionsArgs),
}

/// Runs the command `args` (the first is the program's name) and returns how it ended.
///
/// # Cancel safety
///
/// Not cancel safe: ask it to stop through `signals`.
pub async fn run(
    args: impl IntoIterator<Item = OsString>,
    console: &mut Console<'_>,
    env: Env<'_>,
    signals: Signals,
) -> Exit {
    let no_colour = env("NO_COLOR").is_some_and(|value| !value.is_empty());
    let colour = |terminal: bool| terminal && !no_colour;
    let args: Vec<OsString> = args.into_iter().collect();
    let matches = Cli::command().try_get_matches_from(&args);
    let parsed = matches.and_then(|matches| {
        let json = wants_json(&matches);
        Ok((Cli::from_arg_matches(&matches)?, json))
    });
    let (cli, json) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            let failure = match error.kind() {
                ErrorKind::InvalidUtf8 => no_utf8(&args),
                // Help and version are results.
                _ if error.use_stderr() && asks_for_json(&args) => wrong_usage(&error),
                _ => return told_by_clap(&error, console, &colour),
            };
            let colour = colour(console.terminals.errors);
            return tell(&failure, asks_for_json(&args), colour, console);
        }
    };
    let world = World {
        env,
        colour: colour(console.terminals.output),
        errors_colour: colour(console.terminals.errors),
    };
    let ended = dispatch(cli.verb, console, &world, signals).await;
    if let Ok(Exit::Interrupted) = ended {
        // At once: whoever does not read our output may be why it took a second interrupt.
        return Exit::Interrupted;
    }
    let flushed = console.output.flush().map_err(Failure::from);
    match ended.and_then(|exit| flushed.map(|()| exit)) {
        Ok(exit) => exit,
        Err(failure) if failure.is_closed_pipe() => Exit::Ok,
        Err(failure) => tell(&failure, json, world.errors_colour, console),
    }
}

/// Tells of a failure, and with which code it ends.
fn tell(failure: &Failure, json: bool, colour: bool, console: &mut Console<'_>) -> Exit {
    // If errors cannot be written either, the code must do.
    let _ = match json {
        true => writeln!(console.errors, "{}", failure.to_json()),
        false => failure.tell(colour, console.errors),
    };
    failure.exit
}

/// An argument was to be text and is not. Files may be called anything.
fn no_utf8(args: &[OsString]) -> Failure {
    let bad = args.iter().filter(|arg| arg.to_str().is_none());
    let shown: Vec<String> = bad
        .map(|arg| format!("`{}`", printable(&arg.to_string_lossy())))
        .collect();
    Failure::usage(format!("not UTF-8: {}", shown.join(", ")))
        .help("only names of files and directories may be anything else")
}

/// A number of things, each called `thing`.
fn counted(number: u64, thing: &str) -> String {
    match number {
        1 => format!("1 {thing}"),
        _ => format!("{number} {thing}s"),
    }
}

/// What verbs know of the world besides their console.
struct World<'a> {
    env: Env<'a>,
    /// Whether results may be coloured.
    colour: bool,
    /// Whether errors may be.
    errors_colour: bool,
}

/// Whether a machine reads what the verb says.
fn wants_json(matches: &clap::ArgMatches) -> bool {
    let given = matches.try_get_one::<bool>("json");
    matches!(given, Ok(Some(true)))
        || matches
            .subcommand()
            .is_some_and(|(_, inner)| wants_json(inner))
}

/// The same of arguments that could not be taken apart.
fn asks_for_json(args: &[OsString]) -> bool {
    let mut options = args.iter().take_while(|arg| *arg != "--");
    options.any(|arg| arg == "--json")
}

/// What is wrong with the arguments, as others of our failures: what clap says first, and the rest of it as
/// what to do.
fn wrong_usage(error: &clap::Error) -> Failure {
    let told = error.render().to_string();
    let told = told.trim();
    let (message, help) = match told.strip_prefix("error: ") {
        Some(told) => told.split_once("\n\n").unwrap_or((told, "")),
        // Of a verb without its own verb clap shows the help and says no more.
        None => ("a command is missing", told),
    };
    let message: Vec<&str> = message.split_whitespace().collect();
    Failure::usage(message.join(" ")).help(help.trim())
}

async fn dispatch(
    verb: Verb,
    console: &mut Console<'_>,
    world: &World<'_>,
    signals: Signals,
) -> Result<Exit, Failure> {
    match verb {
        Verb::Check(args) => check::run(&args, console, world),
        Verb::Explain(args) => explain::run(&args, console, world),
        Verb::State(args) => state::run(args, console, world).await,
        Verb::Import(args) => import::run(&args, console, world, signals).await,
        Verb::Read(args) => read::run(args, console, world, signals).await,
        Verb::Topics(args) => topics::run(args, console, world).await,
        Verb::Offsets(args) => offsets::run(args, console, world).await,
        Verb::Run(args) => run::run(&args, console, world, signals).await,
        Verb::Completions(args) => completions::run(&args, console),
    }
}

/// Help and version are results; everything else that clap says is an error.
fn told_by_clap(
    error: &clap::Error,
    console: &mut Console<'_>,
    colour: &dyn Fn(bool) -> bool,
) -> Exit {
    let is_error = error.use_stderr();
    let terminal = if is_error {
        console.terminals.errors
    } else {
        console.terminals.output
    };
    let rendered = error.render();
    let text = if colour(terminal) {
        rendered.ansi().to_string()
    } else {
        rendered.to_string()
    };
    let target = if is_error {
        &mut console.errors
    } else {
        &mut console.output
    };
    let written = target
        .write_all(text.as_bytes())
        .and_then(|()| target.flush());
    match written.map_err(Failure::from) {
        // If errors cannot be written, the code must do.
        _ if is_error => Exit::Usage,
        Err(failure) if !failure.is_closed_pipe() => {
            let _ = failure.tell(colour(console.terminals.errors), console.errors);
            failure.exit
        }
        Ok(()) | Err(_) => Exit::Ok,
    }
}
