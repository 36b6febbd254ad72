//! `tidemill run`: runs a pipeline.

mod report;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use tidemill_broker::{Broker, Offset, SystemClock, TopicPartition};
use tidemill_state::{Doing, Headway};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::bar::Bar;
use super::import::takes_imports;
use super::load::{load, tell};
use super::printed::Printed;
use super::{Console, Exit, Failure, Signals, World, counted, stdio};
use crate::config::plan::{BrokerPlan, BrokerUrl, STATE_ROOT, SourcePlan};
use crate::config::{Plan, entangled, shell_word, threads};
use crate::pipeline::{
    self, Counts, Cut, Instance, MemoryStores, OpenBroker, Pipeline, Progress, RunOptions,
    SledStores, Stores,
};

/// Run a pipeline
///
/// Goes on where the last run committed. The first Ctrl-C commits what is open and leaves; a second
/// one leaves at once. No record of a topic is lost either way: the next run reads it.
///
/// Standard input cannot be read again. Of what it has given, the first Ctrl-C loses the lines that were
/// not taken yet, a second one or a crash all that is not committed. A run also ends, with code 0, when
/// whoever reads its standard output leaves, as `head` does; what could not be handed over is written by
/// the next run, unless it came from standard input or the pipeline is at_most_once.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidemill run pipelines/bars.toml                  until Ctrl-C
  tidemill run pipelines/bars.toml --until-end      until everything there is has been read
  tidemill run pipelines/bars.toml --threads 2      on two threads
  tidemill run pipelines/lines.toml < trades.jsonl > minutes.jsonl    through `stdio:`")]
pub(super) struct RunArgs {
    /// The files of one pipeline
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// End once everything there is has been read: close every window, commit and leave
    ///
    /// Records that come later for windows closed this way are late, and how many were is told. Ended
    /// before the end by Ctrl-C, it says so and exits with code 1.
    #[arg(long)]
    until_end: bool,
    /// Go on with state that another version of the file wrote
    #[arg(long)]
    accept_new_version: bool,
    /// Commit epoch by epoch in step, so that the outputs are equal byte for byte in every run
    /// over the same records, whatever the number of threads. Meant for --until-end: epochs are cut by
    /// number of records, and wait for inputs in which nothing comes
    #[arg(long)]
    lockstep: bool,
    /// Threads to run on, 1 to 1024 [default: what the file says, else 1]
    #[arg(long, value_name = "N", value_parser = threads)]
    threads: Option<NonZeroUsize>,
    /// Keep state here [default: where the file says, else .tidemill/PIPELINE/INSTANCE]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Print one JSON document at the end; on standard error if results go to standard output
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(
    args: &RunArgs,
    console: &mut Console<'_>,
    world: &World<'_>,
    mut signals: Signals,
) -> Result<Exit, Failure> {
    let pipeline = load(&args.files, world)?;
    if !pipeline.warnings.is_empty() {
        tell(&pipeline.warnings, world.errors_colour, console.errors)?;
    }
    let mut plan = pipeline.plan;
    refuse_empty_memory(&plan)?;
    if let Some(threads) = args.threads {
        plan.threads = threads;
    }
    if let Some(dir) = &args.state_dir {
        // What the file says is checked with it.
        if let Some(told) = plan
            .brokers
            .iter()
            .find_map(|broker| entangled(dir, broker))
        {
            return Err(Failure::usage(told).help("give the state a directory of its own"));
        }
        plan.state_dir = Some(dir.clone());
    }
    // Between results, a report would be taken for one.
    let prints_results = plan
        .sinks
        .iter()
        .any(|sink| plan.brokers[sink.topic.broker].url == BrokerUrl::Stdio);
    let reads_lines = reads_lines(&plan);
    let dead_letters = plan.dead_letter.topic.clone();
    let begun = Instant::now();
    let (stop, asked) = watch::channel(false);
    let mut running = start(plan, args, asked)?;
    let bar = Bar::new(console.terminals.errors);
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    let mut interrupted = false;
    let ended = loop {
        tokio::select! {
            biased;
            ended = &mut running.ended => break ended,
            Some(()) = signals.next() => {
                if interrupted {
                    return Ok(Exit::Interrupted);
                }
                interrupted = true;
                bar.suspend(|| writeln!(console.errors, "stopping: committing what is open (again to leave at once)"))?;
                // A run that has just ended needs no telling.
                let _ = stop.send(true);
            }
            _ = tick.tick() => running.show(&bar),
        }
    };
    bar.clear();
    let counts = running.counts();
    let set_aside = running.set_aside();
    match ended {
        Ok(ended) => ended?,
        Err(_) => {
            return Err(Failure::new(
                Exit::Internal,
                "the pipeline's thread panicked; this is a mistake in tidemill, and what it had committed stays",
            ));
        }
    }
    let took = begun.elapsed();
    let json = || report::json(counts, &set_aside, took);
    match (args.json, prints_results) {
        (true, true) => writeln!(console.errors, "{}", json())?,
        (true, false) => console.json(&json())?,
        (false, _) => {
            let set_aside = report::set_aside(counts, &set_aside, &dead_letters);
            writeln!(console.errors, "{}", report::text(counts, &set_aside, took))?;
        }
    }
    if args.until_end && interrupted && !counts.has_ended {
        return Err(stopped(reads_lines));
    }
    Ok(Exit::Ok)
}

/// The run was asked to stop, which is no error; but it was to go on to the end.
fn stopped(reads_lines: bool) -> Failure {
    let failure = Failure::new(
        Exit::Findings,
        "stopped before the end of what there is to read",
    );
    failure.help(match reads_lines {
        false => "run the same command again to go on",
        true => "run it again over what standard input has not given yet: what it gave is read by this run alone",
    })
}

/// Whether lines of standard input are read.
fn reads_lines(plan: &Plan) -> bool {
    let mut sources = plan.sources.iter();
    sources.any(|source| plan.brokers[source.topic.broker].url == BrokerUrl::Stdio)
}

/// Refuses to read a topic that nobody can have written: a broker in memory begins empty in each
/// process.
fn refuse_empty_memory(plan: &Plan) -> Result<(), Failure> {
    let empty = plan.sources.iter().find(|source| {
        source.topic.partitions.is_none()
            && plan.brokers[source.topic.broker].url == BrokerUrl::Memory
    });
    let Some(source) = empty else {
        return Ok(());
    };
    let message = format!(
        "topic `{}` of source `{}` does not exist: `mem://` lies in this process and begins empty",
        source.topic.topic, source.name
    );
    Err(Failure::usage(message)
        .help("read from `stdio:` or from `file://DIRECTORY`; `mem://` is for programs that embed tidemill, and for sinks"))
}

/// What is shown of a pipeline at work.
const RECORDS: &str = "{bar:30} {human_pos}/{human_len} records, {rate}, {msg}";

/// A pipeline at work on threads of its own.
struct Running {
    progress: watch::Receiver<Option<(Arc<Progress>, u64)>>,
    ended: oneshot::Receiver<Result<(), Failure>>,
}

impl Running {
    fn counts(&self) -> Counts {
        self.progress
            .borrow()
            .as_ref()
            .map(|(progress, _)| progress.counts())
            .unwrap_or_default()
    }

    /// What was set aside, by class.
    fn set_aside(&self) -> Vec<(&'static str, u64)> {
        let progress = self.progress.borrow();
        let progress = progress.as_ref();
        progress.map_or_else(Vec::new, |(progress, _)| progress.dead_by_class())
    }

    fn show(&self, bar: &Bar) {
        if let Some((progress, total)) = &*self.progress.borrow() {
            let counts = progress.counts();
            if counts.redone < counts.to_redo {
                let (doing, total) = (Doing::Redoing, Some(counts.to_redo));
                return bar.headway(Headway {
                    doing,
                    done: counts.redone,
                    total,
                });
            }
            let message = format!("{} written, {} set aside", counts.written, counts.set_aside);
            bar.show(RECORDS, counts.taken.min(*total), Some(*total), message);
        }
    }
}

/// Starts the pipeline on a runtime with as many threads as asked.
fn start(plan: Plan, args: &RunArgs, stop: watch::Receiver<bool>) -> Result<Running, Failure> {
    let (told, progress) = watch::channel(None);
    let (answer, ended) = oneshot::channel();
    let threads = plan.threads.get();
    let mut runtime = if threads == 1 {
        tokio::runtime::Builder::new_current_thread()
    } else {
        tokio::runtime::Builder::new_multi_thread()
    };
    if threads > 1 {
        runtime
            .worker_threads(threads)
            .thread_name("pipeline-worker");
    }
    let runtime = runtime
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Io, "cannot start threads").because(error))?;
    let mut options = RunOptions::new("", rand::random());
    options.accept_new_version = args.accept_new_version;
    options.cut = if args.lockstep {
        Cut::Lockstep
    } else {
        Cut::Live
    };
    let until_end = args.until_end;
    let files = args.files.clone();
    std::thread::Builder::new()
        .name("pipeline".into())
        .spawn(move || {
            let end = runtime.block_on(work(plan, files, options, until_end, stop, told));
            // Whoever does not listen any more has left.
            let _ = answer.send(end);
        })
        .map_err(|error| Failure::new(Exit::Io, "cannot start a thread").because(error))?;
    Ok(Running { progress, ended })
}

async fn work(
    plan: Plan,
    files: Vec<PathBuf>,
    mut options: RunOptions,
    until_end: bool,
    stop: watch::Receiver<bool>,
    told: watch::Sender<Option<(Arc<Progress>, u64)>>,
) -> Result<(), Failure> {
    refuse_missing_log(&plan, &files)?;
    // Before a directory of state is taken: a run that finds its log in use leaves none behind.
    let mut open = Vec::with_capacity(plan.brokers.len());
    for broker in 0..plan.brokers.len() {
        open.push(OpenBroker::open_for_run(&plan, broker, Arc::new(SystemClock)).await?);
    }
    // Where the log does not outlive the process, neither may the state.
    let instance = if plan.outlives_process(plan.home()) {
        let dir = plan.state_dir.as_deref();
        Some(Instance::take(
            Path::new(STATE_ROOT),
            plan.name.as_str(),
            dir,
        )?)
    } else {
        None
    };
    let stores: Arc<dyn Stores> = match &instance {
        Some(instance) => Arc::new(SledStores::new(instance.dir().to_owned(), options.run)),
        None => Arc::new(MemoryStores::default()),
    };
    options.instance = instance.as_ref().map_or("0", Instance::name).to_owned();
    let brokers: Vec<Arc<dyn Broker>> = open.iter().map(OpenBroker::broker).collect();
    // What standard input has not given yet is no end: that is told when it is there.
    let (drain, draining) = watch::channel(until_end && !reads_lines(&plan));
    options.until_end = draining;
    let total = records_in(&plan, &brokers).await;
    let (printed, seen) = watch::channel(Offset::START);
    let printing = |(broker, inner): (&BrokerPlan, &Arc<dyn Broker>)| -> Arc<dyn Broker> {
        match broker.url {
            BrokerUrl::Stdio => Arc::new(Printed::new(inner.clone(), seen.clone())),
            _ => inner.clone(),
        }
    };
    let written = plan.brokers.iter().zip(&brokers).map(printing).collect();
    let pipeline = Pipeline::in_order(plan.clone(), written, stores);
    let progress = pipeline.progress();
    told.send_replace(Some((progress.clone(), total)));
    let mut pumps = stdio::Pumps::start(
        &plan,
        &brokers,
        progress.clone(),
        printed,
        drain,
        stop.clone(),
    )
    .await?;
    let (halt, halted) = watch::channel(false);
    let end = {
        let run = pipeline.run(options, halted);
        tokio::pin!(run);
        tokio::select! {
            end = &mut run => end,
            () = asked(stop) => {
                halt.send_replace(true);
                run.await
            }
            // Whom the lines were for has gone, as after `| head`.
            () = pumps.broken() => {
                halt.send_replace(true);
                run.await
            }
        }
    };
    drop(pipeline);
    let pumped = pumps.finish().await;
    let mut closed = Ok(());
    for broker in open {
        closed = closed.and(broker.close().await);
    }
    // Where nobody reads what is printed, that is why the run ended.
    pumped?;
    // What stopped the run comes first: a log that cannot be closed is most often its consequence.
    let committed = progress.counts().committed;
    end.map_err(|error| ended_on(error, instance.as_ref(), &plan, &files, committed))?;
    closed?;
    Ok(())
}

/// Refuses a log that would be made only to find that the topics to be read are not in it: a misspelt
/// name leaves nothing behind.
fn refuse_missing_log(plan: &Plan, files: &[PathBuf]) -> Result<(), Failure> {
    let is_missing =
        |source: &&SourcePlan| OpenBroker::is_new(&plan.brokers[source.topic.broker].url);
    let mut missing = plan.sources.iter().filter(is_missing).peekable();
    if missing.peek().is_none() {
        return Ok(());
    }
    let dir = plan.state_dir.as_deref();
    let taken = Instance::take_all(
        Path::new(STATE_ROOT),
        plan.name.as_str(),
        dir,
        "tidemill run",
    )?;
    let with_state = taken.iter().find(|instance| instance.holds_state());
    // One that says its partitions is made by the first run.
    let Some(source) =
        missing.find(|source| source.topic.partitions.is_none() || with_state.is_some())
    else {
        return Ok(());
    };
    let error = pipeline::Error::MissingTopic {
        topic: source.topic.topic.clone(),
        source_name: source.name.to_string(),
        create: pipeline::what_creates(plan, &source.topic),
    };
    let failure = ended_on(error, with_state, plan, files, 0);
    Err(match &plan.brokers[source.topic.broker].url {
        BrokerUrl::File { path, .. } => {
            failure.because(format!("there is no log in `{}`", path.display()))
        }
        BrokerUrl::Memory | BrokerUrl::Stdio => failure,
    })
}

/// Waits until the run is to stop.
async fn asked(mut stop: watch::Receiver<bool>) {
    // Nobody left to ask is as good as being asked.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Why a run ended. A topic that is missing although there is state built from it is lost data, not
/// wrong usage.
fn ended_on(
    error: pipeline::Error,
    instance: Option<&Instance>,
    plan: &Plan,
    files: &[PathBuf],
    committed: u64,
) -> Failure {
    let files = files
        .iter()
        .map(|file| shell_word(&file.display().to_string()));
    let files: Vec<String> = files.collect();
    let (topic, source_name, create) = match &error {
        pipeline::Error::MissingTopic {
            topic,
            source_name,
            create,
        } => (topic, source_name, create),
        pipeline::Error::Broker {
            source: tidemill_broker::Error::Damaged { .. },
            ..
        } if committed > 0 => {
            return Failure::from(error).help(format!(
                "restore the file from a copy and run it again: the {} that this run committed are safe; without a copy, `tidemill offsets reset {} --to OFFSET --keep-state --yes` goes on behind the damage",
                counted(committed, "record"),
                files.join(" ")
            ));
        }
        _ => return error.into(),
    };
    if let Some(instance) = instance.filter(|instance| instance.holds_state()) {
        let dir = instance.dir().display();
        let message =
            format!("topic `{topic}` does not exist, but {dir} holds state that was built from it");
        return Failure::new(Exit::Integrity, message).help(format!(
            "restore the log from a copy; to start anew, remove {dir} and create the topic"
        ));
    }
    let message = format!("topic `{topic}` of source `{source_name}` does not exist");
    let mut sources = plan.sources.iter();
    let source = sources.find(|source| *source.name == **source_name);
    let fill = match source.is_some_and(takes_imports) {
        true => {
            let files = files.join(" --pipeline ");
            format!("`tidemill import --pipeline {files} --topic {source_name} PATH`")
        }
        false => "a pipeline that reads `stdio:` (`tidemill explain brokers` shows one)".into(),
    };
    Failure::usage(message).help(format!(
        "fill it with {fill}, create it with {create}, or give it `partitions` in the file"
    ))
}

/// Records in the inputs now, as far as offsets tell; for the progress bar.
async fn records_in(plan: &Plan, brokers: &[Arc<dyn Broker>]) -> u64 {
    let mut total = 0;
    for source in plan.sources.iter().filter(|source| !source.broadcast) {
        let broker = &brokers[source.topic.broker];
        let Ok(found) = broker.describe_topic(&source.topic.topic).await else {
            continue;
        };
        for partition in 0..found.partitions {
            let at = TopicPartition::new(source.topic.topic.clone(), partition);
            let asked = broker
                .committed(&plan.group, std::slice::from_ref(&at))
                .await;
            let next = asked.ok().and_then(|mut found| found.pop().flatten());
            if let Ok(ends) = broker.watermarks(&at).await {
                let from = next.unwrap_or(ends.low);
                total += ends.last_stable.0.saturating_sub(from.0);
            }
        }
    }
    total
}
