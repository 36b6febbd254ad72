//! `tidemill read`: the records of a topic.

mod json;
mod table;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt as _;
use tidemill_broker::{
    Broker, ConsumerOptions, Delivery, Error, Offset, RecordRef, Start, Timestamp, Topic,
    TopicPartition,
};

use self::json::json_line;
use self::table::Table;
use super::number::whole;
use super::target::{Access, TargetArgs, described};
use super::{Console, Exit, Failure, Signals, World, printable, time};
use crate::config::plan::BrokerUrl;
use crate::events::parse_time;

/// Read the records of a topic
///
/// On a terminal a table of the events; piped, or with --json, JSON lines, which have everything.
/// Reading commits nothing and is seen by nobody, also while a pipeline writes.
/// Records that retention removes before they are read are told of and passed over.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  tidemill read bars-1m                                      from file://data, to its present end
  tidemill read bars-1m pipelines/bars.toml --limit 10
  tidemill read bars-1m --broker file://data --follow        wait for more, until interrupted
  tidemill read bars-1m --from 2024-03-11T13:30:00Z --json
  tidemill read bars-1m --partition 0 --from 1000            from an offset on

JSON lines have topic, partition, offset, timestamp, headers, and of key and value one each: `key`
(text) or `keyHex`; `value` (JSON, as it is), `valueText` or `valueHex`. A tombstone has none.")]
pub(super) struct ReadArgs {
    /// The topic, as on the broker or as in FILE
    topic: String,
    #[command(flatten)]
    target: TargetArgs,
    /// Where to begin: earliest, latest, an offset, or a time such as 2013-10-07T13:30:00Z
    #[arg(long, value_name = "WHERE", default_value = "earliest", value_parser = read_start)]
    from: Start,
    /// Only this partition [default: all]
    #[arg(long, value_name = "N", value_parser = whole::<u32>(0..=u32::MAX.into()))]
    partition: Option<u32>,
    /// At most this many records [default: all]
    #[arg(long, value_name = "COUNT", value_parser = whole::<u64>(0..=u64::MAX))]
    limit: Option<u64>,
    /// Wait for more at the end, until Ctrl-C, which ends it after a whole line and with code 0
    #[arg(long)]
    follow: bool,
    /// Print JSON lines, also on a terminal
    #[arg(long)]
    json: bool,
}

fn read_start(text: &str) -> Result<Start, String> {
    match text {
        "earliest" => return Ok(Start::Earliest),
        "latest" => return Ok(Start::Latest),
        _ => {}
    }
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let offset = text.parse().map_err(|_| "the offset is too large")?;
        return Ok(Start::Offset(Offset(offset)));
    }
    parse_time(text.as_bytes())
        .map(|micros| Start::At(Timestamp(micros)))
        .map_err(|_| {
            "use earliest, latest, an offset, or a time such as 2013-10-07T13:30:00Z".into()
        })
}

pub(super) async fn run(
    args: ReadArgs,
    console: &mut Console<'_>,
    world: &World<'_>,
    signals: Signals,
) -> Result<Exit, Failure> {
    let target = args.target.resolve(Some(&args.topic), world)?;
    // Before it is opened: one that is replaced meanwhile is told.
    let came_as = match &target.url {
        BrokerUrl::File { path, .. } => identity(path),
        BrokerUrl::Memory | BrokerUrl::Stdio => None,
    };
    let broker = target.open(Access::Read).await?;
    let Some(topic) = target.topic else {
        return Err(Failure::usage("which topic?"));
    };
    let reading = Reading {
        topic,
        from: args.from,
        partition: args.partition,
        limit: args.limit.unwrap_or(u64::MAX),
        follow: args.follow,
        json: args.json || !console.terminals.output,
        colour: world.colour,
    };
    // Only who waits for more is ended by a signal as it is meant to be; others die of it.
    let signals = match reading.follow {
        true => signals,
        false => futures::stream::pending().boxed(),
    };
    let broker = broker.broker();
    let read = read(&*broker, &reading, console, signals);
    match &target.url {
        BrokerUrl::File { path, .. } if reading.follow => tokio::select! {
            biased;
            // Before what is read: of another log nothing is wanted.
            failure = replaced(path, came_as) => return Err(failure),
            ended = read => match ended {
                // What it found wrong there is that it is another.
                Err(_) if identity(path) != came_as => return Err(other_directory(path)),
                ended => ended?,
            },
        },
        BrokerUrl::File { .. } | BrokerUrl::Memory | BrokerUrl::Stdio => read.await?,
    }
    Ok(Exit::Ok)
}

/// How often a directory that is followed is looked for.
const LOOK: Duration = Duration::from_millis(100);

/// Which directory is at a path; none if there is none.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;

        Some((metadata.dev(), metadata.ino()))
    }
    // Elsewhere it is told only that there is one.
    #[cfg(not(unix))]
    {
        metadata.is_dir().then_some((0, 0))
    }
}

/// Ends once the directory is another than the one that came: nothing more can come in that.
async fn replaced(path: &Path, came_as: Option<(u64, u64)>) -> Failure {
    let mut look = tokio::time::interval(LOOK);
    loop {
        look.tick().await;
        if identity(path) != came_as {
            return other_directory(path);
        }
    }
}

fn other_directory(path: &Path) -> Failure {
    let message = format!(
        "directory `{}` was removed or replaced while it was read",
        path.display()
    );
    Failure::new(Exit::Io, message).help("read it again to see what is there now")
}

/// What to read, and how to show it.
struct Reading {
    topic: Topic,
    from: Start,
    partition: Option<u32>,
    limit: u64,
    follow: bool,
    json: bool,
    colour: bool,
}

async fn read(
    broker: &dyn Broker,
    reading: &Reading,
    console: &mut Console<'_>,
    mut signals: Signals,
) -> Result<(), Failure> {
    let description = described(broker, &reading.topic).await?;
    let partitions: Vec<u32> = match reading.partition {
        Some(partition) if partition < description.partitions => vec![partition],
        Some(partition) => {
            let (topic, last) = (&reading.topic, description.partitions - 1);
            return Err(
                Failure::usage(format!("topic `{topic}` has no partition {partition}"))
                    .help(format!("its partitions are 0 to {last}")),
            );
        }
        None => (0..description.partitions).collect(),
    };
    let at = |partition: &u32| TopicPartition::new(reading.topic.clone(), *partition);
    if let Start::Offset(offset) = reading.from {
        for partition in &partitions {
            let marks = broker.watermarks(&at(partition)).await?;
            if !(marks.low..=marks.high).contains(&offset) {
                let at = at(partition);
                let (low, high) = (marks.low, marks.high);
                let message = format!("{at} has no offset {offset}: it goes from {low} to {high}");
                return Err(
                    Failure::usage(message).help("name a `--partition`, or another `--from`")
                );
            }
        }
    }
    let mut open: BTreeSet<u32> = partitions.iter().copied().collect();
    let assigned = partitions
        .iter()
        .map(|partition| (at(partition), reading.from));
    let mut consumer = broker
        .consumer(ConsumerOptions::partitions(assigned.collect()))
        .await?;
    let mut left = reading.limit;
    let mut table = Table::new(reading.colour);
    while left > 0 {
        let delivery = tokio::select! {
            biased;
            Some(()) = signals.next() => return Ok(()),
            delivery = consumer.next() => delivery,
        };
        let delivery = match delivery {
            Err(Error::OutOfRange { at, asked, low, .. }) if asked < low => {
                writeln!(
                    console.errors,
                    "warning: retention removed records of {at} from offset {asked} before they were read; going on at {low}"
                )?;
                consumer.seek(&at, low).await?;
                continue;
            }
            other => other?,
        };
        match delivery {
            Delivery::Records(batch) => {
                let count = usize::try_from(left).unwrap_or(usize::MAX);
                let records: Vec<_> = batch.iter().take(count).collect();
                left -= records.len() as u64;
                if !reading.json {
                    table.show(batch.at(), &records, console)?;
                    continue;
                }
                for record in &records {
                    console.line(json_line(batch.at(), record)?)?;
                }
            }
            Delivery::End { partition, .. } => {
                console.output.flush()?;
                open.remove(&partition.partition);
                if open.is_empty() && !reading.follow {
                    return Ok(());
                }
            }
            Delivery::Assigned { .. } => {}
            Delivery::Revoked { .. } | Delivery::Lost { .. } => {
                return Err(tidemill_broker::Error::TopicDeleted {
                    topic: reading.topic.clone(),
                }
                .into());
            }
        }
    }
    Ok(())
}

fn text_line(at: &TopicPartition, record: &RecordRef<'_>, colour: bool) -> String {
    let (dim, reset) = if colour {
        ("\x1b[2m", "\x1b[0m")
    } else {
        ("", "")
    };
    let place = format!("{}@{}", at.partition, record.offset);
    let time = time::show(record.timestamp.0);
    let key = record.key.map_or_else(|| "-".to_owned(), shown);
    let value = record.value.map_or_else(|| "(tombstone)".to_owned(), shown);
    let mut line = format!("{dim}{place:>12}  {time:<27}{reset}  {key:<12}  {value}");
    for (name, value) in record.headers() {
        let header = format!(
            "\n{dim}{:>12}  {}: {}{reset}",
            "",
            printable(name),
            shown(value)
        );
        line.push_str(&header);
    }
    line
}

/// Bytes as text that is safe to show.
fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => printable(text),
        Err(_) => format!("0x{}", hex(bytes)),
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    bytes.iter().fold(String::new(), |mut out, byte| {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};

    use tidemill_broker::{BrokerExt as _, NewRecord, TopicSpec};
    use tidemill_broker_memory::MemoryBroker;

    use super::*;
    use crate::cli::Terminals;

    /// Standard output, at whose first line retention comes.
    struct Overtaken {
        broker: MemoryBroker,
        at: TopicPartition,
        low: Offset,
        written: Vec<u8>,
    }

    impl Write for Overtaken {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.written.is_empty() {
                self.broker
                    .faults()
                    .drop_before(&self.at, self.low)
                    .unwrap();
            }
            self.written.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// It ended with the code of damaged data, though nothing was damaged.
    #[tokio::test]
    async fn records_that_retention_removes_before_they_are_read_are_told_and_passed_over() {
        const RECORDS: u64 = 1_000;
        let broker = MemoryBroker::default();
        let topic: Topic = "ticks".parse().unwrap();
        let spec = TopicSpec::new(topic.clone(), 1.try_into().unwrap());
        broker.create_topic(&spec).await.unwrap();
        for _ in 0..RECORDS {
            broker
                .send(NewRecord::new(topic.clone(), "1"))
                .await
                .unwrap();
        }
        let low = Offset(RECORDS - 10);
        let mut output = Overtaken {
            broker: broker.clone(),
            at: TopicPartition::new(topic.clone(), 0),
            low,
            written: Vec::new(),
        };
        let mut errors = Vec::new();
        let mut console = Console {
            input: &mut io::empty(),
            output: &mut output,
            errors: &mut errors,
            terminals: Terminals::default(),
        };
        let reading = Reading {
            topic,
            from: Start::Earliest,
            partition: None,
            limit: u64::MAX,
            follow: false,
            json: true,
            colour: false,
        };
        let signals = futures::stream::pending().boxed();
        read(&broker, &reading, &mut console, signals)
            .await
            .unwrap();
        let lines = String::from_utf8(output.written).unwrap();
        let offsets: Vec<u64> = lines
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|record| record["offset"].as_u64().unwrap())
            .collect();
        let first = offsets
            .iter()
            .zip(0..)
            .take_while(|(offset, at)| **offset == *at)
            .count() as u64;
        assert!(first > 0 && first < low.0, "{first}");
        let expected: Vec<u64> = (0..first).chain(low.0..RECORDS).collect();
        assert_eq!(offsets, expected);
        let told = format!(
            "warning: retention removed records of ticks/0 from offset {first} before they were read; going on at {low}\n"
        );
        assert_eq!(String::from_utf8(errors).unwrap(), told);
    }
}
