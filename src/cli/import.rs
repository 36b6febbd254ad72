//! `tidemill import`: recorded markets into a topic.

use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use jiff::civil::Date;
use tidemill_broker::{SystemClock, Topic};

use super::bar::Bar;
use super::load::load;
use super::number::whole;
use super::target::is_directory;
use super::{Console, Exit, Failure, Signals, World};
use crate::config::plan::{BrokerUrl, SourcePlan};
use crate::config::{broker_url, duration, show_duration};
use crate::events::{MARKET_DATA_UPDATE, SCALE_MAX};
use crate::market::import::{
    self, Error, Kind, Layout, Mapping, OnBadLine, OnImported, Options, Phase, Progress, Report,
};
use crate::pipeline::{self, OpenBroker};

/// Import recorded markets into a topic
///
/// Reads trades, quotes and bars from files and writes MarketDataUpdate events, merged by event time.
/// All files are checked before the first record is written. An import that was killed goes on where
/// it stopped when it is run again; one that finished does nothing. The first Ctrl-C commits what is
/// in and leaves with code 1, for there is more; a second one leaves at once, and nothing is lost
/// either way.
#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("into").required(true),
    after_help = "\
Layouts, told from path and content unless --format names one:
  lean-{equity|crypto}-{tick|second|minute}-{trade|quote}
  binance-trades, binance-agg-trades, binance-klines, ohlcv, json

Examples:
  tidemill import --broker file://data pipelines/data
  tidemill import --pipeline pipelines/bars.toml pipelines/data
  tidemill import --broker file://data BTCUSDT-trades-2025-01-01.zip
  tidemill import --broker file://data --only quote --topic quotes lean/equity/usa/tick/ibm
  tidemill import --broker file://data --pair X-USD --bar 1m prices.csv
  tidemill import --broker file://data --map price=currentPrice --map symbol=pair feed.jsonl"
)]
pub(super) struct ImportArgs {
    /// Files, or directories of which every .zip, .csv, .jsonl and .ndjson file is taken
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// The broker to import into, such as file://data
    #[arg(long, value_name = "URL", group = "into")]
    broker: Option<String>,
    /// Import into a topic that this pipeline reads; given for each of its files
    #[arg(long, value_name = "FILE", group = "into")]
    pipeline: Vec<PathBuf>,
    /// The topic [default: market-data-updates; with --pipeline the one that it reads, needed if it
    /// reads several, where it may be named as in the file]
    #[arg(long, value_name = "NAME")]
    topic: Option<String>,
    /// Where suspicious ticks, zero sizes, one-sided quotes and skipped lines go
    #[arg(long, value_name = "NAME", default_value = "market-data-suspect")]
    suspect_topic: Topic,
    /// Partitions to create missing topics with [default: what the pipeline says, else 1]
    #[arg(long, value_name = "COUNT", value_parser = whole::<NonZeroU32>(1..=u32::MAX.into()))]
    partitions: Option<NonZeroU32>,
    /// Take only files of trades, or only files of quotes [default: either, if all are the same]
    #[arg(long, value_name = "trade|quote")]
    only: Option<Kind>,
    /// The layout of all files [default: told from the path and content of each]
    #[arg(long, value_name = "LAYOUT")]
    format: Option<Layout>,
    /// The pair, such as BTCUSD, where the path does not tell it [default: as the path tells]
    #[arg(long, value_name = "PAIR")]
    pair: Option<String>,
    /// The day of times that count from midnight, as 2024-03-11 [default: as the path tells]
    #[arg(long, value_name = "YYYY-MM-DD")]
    date: Option<Date>,
    /// The time zone of that midnight, and of an ohlcv file's times without one, as Europe/Berlin
    /// [default: America/New_York for US equities, else UTC]
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// The length of the bars of an ohlcv file, as 1m [default: the least time between two of them]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    bar: Option<Duration>,
    /// What a field of JSON lines is called, such as price=currentPrice; may be repeated [default: what ours are called]
    #[arg(long, value_name = "THEIRS=OURS")]
    map: Vec<String>,
    /// Decimals of prices; more are rounded half to even, and counted
    #[arg(long, value_name = "DIGITS", default_value = "8", value_parser = whole::<u8>(0..=SCALE_MAX.into()))]
    price_scale: u8,
    /// Decimals of quantities; more are rounded half to even, and counted
    #[arg(long, value_name = "DIGITS", default_value = "8", value_parser = whole::<u8>(0..=SCALE_MAX.into()))]
    quantity_scale: u8,
    /// What becomes of a line that is not what its layout says
    #[arg(long, value_enum, value_name = "stop|skip", default_value = "stop")]
    on_bad_line: BadLine,
    /// Leave out files that an earlier import has brought into the topic
    #[arg(long)]
    skip_imported: bool,
    /// Print the report as one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum BadLine {
    /// Write nothing and say where it is
    Stop,
    /// Set it aside in the suspect topic and count it, with the event time of the line before it; of the
    /// first lines, with that of the first good one
    Skip,
}

/// Where an import goes.
struct Destination {
    url: BrokerUrl,
    topic: Topic,
    partitions: Option<NonZeroU32>,
}

pub(super) async fn run(
    args: &ImportArgs,
    console: &mut Console<'_>,
    world: &World<'_>,
    mut signals: Signals,
) -> Result<Exit, Failure> {
    let destination = match &args.broker {
        Some(url) => by_url(args, url)?,
        None => by_pipeline(args, world)?,
    };
    if !matches!(destination.url, BrokerUrl::File { .. }) {
        return Err(
            Failure::usage("nothing would be left of an import into this broker")
                .help("import into `file://DIRECTORY`"),
        );
    }
    if let BrokerUrl::File { path, .. } = &destination.url {
        is_directory(path)?;
    }
    let options = options(args, &destination)?;
    let bar = Bar::new(console.terminals.errors && !args.json);
    let mut come_to = None;
    let mut progress = |progress| {
        come_to = Some(progress);
        draw(&bar, progress);
    };
    // Before the broker is opened: files that are refused must not leave an empty log behind.
    let checked = tokio::select! {
        biased;
        Some(()) = signals.next() => None,
        checked = import::check(&options, &mut progress) => Some(checked),
    };
    let Some(checked) = checked else {
        bar.clear();
        return Err(stopped(come_to));
    };
    let checked = checked.map_err(|error| {
        bar.clear();
        failure(error)
    })?;
    let open = OpenBroker::open(&destination.url, Arc::new(SystemClock))
        .await
        .map_err(refused)?;
    let imported = tokio::select! {
        biased;
        Some(()) = signals.next() => None,
        imported = import::write(&options, checked, open.broker(), &mut progress) => Some(imported),
    };
    bar.clear();
    if imported.is_none() {
        writeln!(
            console.errors,
            "stopping: committing what is in (again to leave at once)"
        )?;
    }
    // Also after a failure: what is in, whole chunks, is made durable.
    let closed = tokio::select! {
        biased;
        closed = open.close() => closed.map_err(refused),
        Some(()) = signals.next(), if imported.is_none() => return Ok(Exit::Interrupted),
    };
    let Some(imported) = imported else {
        closed?;
        return Err(stopped(come_to));
    };
    let report = imported.map_err(failure)?;
    closed?;
    if args.json {
        let document = serde_json::to_value(&report).map_err(|error| {
            Failure::new(Exit::Internal, "cannot write the report").because(error)
        })?;
        console.json(&document)?;
    } else {
        show(&report, &options, console)?;
    }
    if report.goes_back {
        warn_of_time(&options.topic, console)?;
    }
    Ok(Exit::Ok)
}

/// The import was asked to stop, which is no error; but not everything is in.
fn stopped(come_to: Option<Progress>) -> Failure {
    let message = match come_to {
        Some(Progress {
            phase: Phase::Writing,
            done,
            total,
        }) => format!("stopped with {done} of {total} records in"),
        _ => "stopped before anything was written by this run".to_owned(),
    };
    Failure::new(Exit::Findings, message).help("run the same command again to go on")
}

fn by_url(args: &ImportArgs, url: &str) -> Result<Destination, Failure> {
    let topic = args.topic.as_deref().unwrap_or("market-data-updates");
    Ok(Destination {
        url: broker_url(url).map_err(|message| Failure::usage(format!("--broker: {message}")))?,
        topic: named(topic)?,
        partitions: args.partitions,
    })
}

fn named(topic: &str) -> Result<Topic, Failure> {
    Topic::new(topic).map_err(|error| Failure::usage(format!("--topic: {error}")))
}

/// The topic of a pipeline.
fn by_pipeline(args: &ImportArgs, world: &World<'_>) -> Result<Destination, Failure> {
    let plan = load(&args.pipeline, world)?.plan;
    let names = || {
        let names: Vec<&str> = plan.sources.iter().map(|source| &*source.name).collect();
        names.join(", ")
    };
    let source = match (&args.topic, plan.sources.as_slice()) {
        (None, [only]) => only,
        (None, _) => {
            return Err(
                Failure::usage("the pipeline reads several topics: give --topic")
                    .help(format!("it reads {}", names())),
            );
        }
        (Some(name), sources) => sources
            .iter()
            .find(|source| *source.name == **name || source.topic.topic.as_str() == name)
            .ok_or_else(|| {
                Failure::usage(format!("the pipeline reads no topic `{name}`"))
                    .help(format!("it reads {}", names()))
            })?,
    };
    if !takes_imports(source) {
        let message = format!(
            "source `{}` reads events of type `{}`, and an import writes `{MARKET_DATA_UPDATE}`",
            source.name, source.schema.name
        );
        return Err(Failure::usage(message).help(
            "events of other types come from a program, or from a pipeline that reads `stdio:` (`tidemill explain brokers` shows one)",
        ));
    }
    Ok(Destination {
        url: plan.brokers[source.topic.broker].url.clone(),
        topic: source.topic.topic.clone(),
        partitions: args.partitions.or(source.topic.partitions),
    })
}

/// Whether a source reads what an import writes. Its key is `pair` then: no other field of these events
/// can be one.
pub(super) fn takes_imports(source: &SourcePlan) -> bool {
    *source.schema.name == *MARKET_DATA_UPDATE
}

fn options(args: &ImportArgs, destination: &Destination) -> Result<Options, Failure> {
    let mut files = Vec::new();
    // Told all at once, as what is wrong in files is.
    let taken = args.paths.iter().map(|path| take(path, &mut files));
    let mut failed: Vec<Failure> = taken.filter_map(Result::err).collect();
    match failed.len() {
        0 => {}
        1 => return Err(failed.remove(0)),
        number => {
            let told: String = failed.iter().map(|one| format!("\n  {one}")).collect();
            let message = format!("{number} paths cannot be imported:{told}");
            return Err(Failure::new(failed[0].exit, message));
        }
    }
    if files.is_empty() {
        let paths: Vec<String> = args
            .paths
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        return Err(Failure::usage(format!("no files to import in {}", paths.join(" "))).help(
            "of a directory every .zip, .csv, .jsonl and .ndjson file is taken; others are named one by one",
        ));
    }
    Ok(Options {
        suspect_topic: args.suspect_topic.clone(),
        partitions: destination.partitions.unwrap_or(NonZeroU32::MIN),
        only: args.only,
        layout: args.format,
        pair: args.pair.clone(),
        date: args.date,
        zone: args.zone.clone(),
        bar: args.bar,
        mapping: Arc::new(Mapping::new(&args.map).map_err(Failure::usage)?),
        price_scale: args.price_scale,
        quantity_scale: args.quantity_scale,
        on_bad_line: match args.on_bad_line {
            BadLine::Stop => OnBadLine::Stop,
            BadLine::Skip => OnBadLine::Skip,
        },
        on_imported: if args.skip_imported {
            OnImported::Skip
        } else {
            OnImported::Refuse
        },
        ..Options::new(files, destination.topic.clone())
    })
}

/// A file as it is given; of a directory the files in it and below, sorted.
fn take(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let failed =
        |error| Failure::new(Exit::Io, format!("cannot read {}", path.display())).because(error);
    // Before the broker is opened: a misspelt name must not leave an empty log behind.
    let metadata = std::fs::metadata(path).map_err(failed)?;
    if metadata.is_file() {
        files.push(path.to_path_buf());
        return Ok(());
    }
    if !metadata.is_dir() {
        let message = format!("{} is neither a file nor a directory", path.display());
        return Err(Failure::usage(message).help("write it to a file first: an import reads twice"));
    }
    let mut entries = std::fs::read_dir(path)
        .map_err(failed)?
        .map(|entry| entry.and_then(|entry| Ok((entry.path(), entry.file_type()?))))
        .collect::<Result<Vec<_>, std::io::Error>>()
        .map_err(failed)?;
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    for (entry, ty) in entries {
        let taken = entry
            .extension()
            .and_then(|extension| extension.to_str())
            .is_some_and(|extension| matches!(extension, "zip" | "csv" | "jsonl" | "ndjson"));
        // A link to a directory is not followed: it may lead back up.
        if ty.is_dir() || taken && !(ty.is_symlink() && entry.is_dir()) {
            take(&entry, files)?;
        }
    }
    Ok(())
}

fn show(report: &Report, options: &Options, console: &mut Console<'_>) -> Result<(), Failure> {
    let counts = &report.counts;
    let time = |time: Option<tidemill_broker::Timestamp>| {
        time.map_or_else(
            || "-".to_owned(),
            // Without zeros at its end, as far as the calendar of the library reaches.
            |time| match jiff::Timestamp::from_microsecond(time.0) {
                Ok(time) => time.to_string(),
                Err(_) => super::time::show(time.0),
            },
        )
    };
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        row("files", report.files.to_string()),
        row(
            "updates",
            format!("{} in `{}`", counts.records, options.topic),
        ),
    ];
    let mut add = |name: &str, count: u64, what: String| {
        if count > 0 {
            rows.push(row(name, format!("{count} {what}")));
        }
    };
    add(
        "left out",
        report.skipped_files as u64,
        "files that were in already".into(),
    );
    add(
        "suspect",
        counts.suspicious,
        format!("in `{}`", options.suspect_topic),
    );
    add(
        "bad lines",
        counts.bad_lines,
        format!("in `{}`", options.suspect_topic),
    );
    add(
        "rounded",
        counts.rounded,
        "numbers had more decimals than their scale".into(),
    );
    add(
        "backwards",
        counts.backwards,
        "updates earlier than the one before them".into(),
    );
    if !report.guessed_bar_micros.is_empty() {
        let lengths = report.guessed_bar_micros.iter();
        let lengths = lengths.map(|micros| show_duration(Duration::from_micros(*micros)));
        let lengths = lengths.collect::<Vec<_>>().join(" and ");
        let told = format!("{lengths} long, the least time between two; `--bar` says another");
        rows.push(row("bars", told));
    }
    rows.push(row("from", time(counts.first)));
    rows.push(row("to", time(counts.last)));
    rows.push(row("written", format!("{} by this run", report.written)));
    console.table(&["imported", ""], &rows)?;
    if !report.exactly_once {
        writeln!(
            console.errors,
            "note: this broker has no transactions: had the import been killed, a chunk could be in twice"
        )?;
    }
    Ok(())
}

/// Nothing is lost, but a pipeline's results may not be what is expected.
fn warn_of_time(topic: &Topic, console: &mut Console<'_>) -> Result<(), Failure> {
    writeln!(
        console.errors,
        "warning: `{topic}` held later updates than these begin with: event time goes back there, and a pipeline that reads both sets aside as late what is behind\n\
         help: import such files together, in one call, which merges them by event time; or into a topic of their own, with `--topic`"
    )?;
    Ok(())
}

fn failure(error: Error) -> Failure {
    if let Error::Broker(error) = error {
        return error.into();
    }
    let exit = exit(&error);
    let help = match &error {
        Error::AlreadyImported { .. } => {
            Some("give `--skip-imported` to leave out what is in, or another `--topic`")
        }
        _ => None,
    };
    let message = error.to_string();
    let failure = match std::error::Error::source(&error) {
        Some(cause) => Failure::new(exit, format!("{message}: {cause}")),
        None => Failure::new(exit, message),
    };
    match help {
        Some(help) => failure.help(help),
        None => failure,
    }
}

fn exit(error: &Error) -> Exit {
    match error {
        Error::Io { .. } => Exit::Io,
        Error::Line { .. } => Exit::Findings,
        Error::Archive { .. } | Error::Log { .. } => Exit::Integrity,
        // That of the first: it is told first.
        Error::Files(errors) => errors.first().map_or(Exit::Usage, exit),
        _ => Exit::Usage,
    }
}

fn refused(error: pipeline::Error) -> Failure {
    use tidemill_broker::Error::InUse;

    match error {
        // Most often a pipeline runs on it, and is to have more to read.
        pipeline::Error::Broker {
            source: source @ InUse { .. },
            ..
        } => Failure::from(source).help(BESIDE_A_RUN),
        pipeline::Error::Broker { source, .. } => source.into(),
        error => Failure::new(Exit::Internal, error.to_string()),
    }
}

/// How to import while a pipeline runs: one writes a log at a time.
const BESIDE_A_RUN: &str = "stop what uses it; or import into a log of its own, which a pipeline reads while it runs: `--broker file://feed`, with `[brokers.feed]` and `url = \"file://feed\"` in the pipeline's file";

fn draw(bar: &Bar, progress: Progress) {
    let template = match progress.phase {
        Phase::Checking => "checking {bar:30} {bytes}/{total_bytes} {eta}",
        Phase::Writing => "writing  {bar:30} {human_pos}/{human_len} {rate} {eta}",
    };
    bar.show(template, progress.done, Some(progress.total), String::new());
}
