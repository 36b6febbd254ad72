//! The command `tidemill`: hands the process's streams, environment and signals to the library, and
//! ends with the code it gives back. Logs go to standard error: warnings and worse, or what
//! `TIDEMILL_LOG` asks for, such as `tidemill=info`.
//!
//! The command runs on a thread of its own and this one waits, so that it can leave whatever the
//! command is blocked in: a pipe that nobody reads, a file that never answers.

use std::io::{self, BufReader, IsTerminal as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use futures::stream::StreamExt as _;
use tidemill::cli::{self, Console, Exit, Signals, Terminals};
use tokio::runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tracing_subscriber::EnvFilter;

/// As much stack as the main thread has on most systems: the command ran there once.
const STACK_BYTES: usize = 8 << 20;

fn main() -> ExitCode {
    // Whoever says first how it ended is believed.
    let (ended, how) = sync_channel(1);
    let leave = ended.clone();
    let command = move || {
        let exit = catch_unwind(AssertUnwindSafe(|| command(leave)));
        // With nobody waiting any more, the process is ending.
        let _ = ended.try_send(exit.unwrap_or(Exit::Internal));
    };
    let thread = thread::Builder::new().name("command".into());
    match thread.stack_size(STACK_BYTES).spawn(command) {
        Ok(_) => how.recv().unwrap_or(Exit::Internal).into(),
        Err(_) => Exit::Io.into(),
    }
}

/// Runs the command of the process. `leave` ends the process without it.
fn command(leave: SyncSender<Exit>) -> Exit {
    let (input, output, errors) = (io::stdin(), io::stdout(), io::stderr());
    let terminals = Terminals {
        input: input.is_terminal(),
        output: output.is_terminal(),
        errors: errors.is_terminal(),
    };
    let mut console = Console {
        input: &mut BufReader::new(input),
        output: &mut io::BufWriter::new(output),
        errors: &mut io::stderr(),
        terminals,
    };
    let env = |name: &str| std::env::var(name).ok();
    let filter = env("TIDEMILL_LOG").unwrap_or_else(|| "warn".to_owned());
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_env_filter(EnvFilter::new(filter))
        .with_ansi(terminals.errors && env("NO_COLOR").is_none_or(|value| value.is_empty()))
        .compact()
        .init();
    let Ok(runtime) = runtime::Builder::new_multi_thread().enable_all().build() else {
        tracing::error!("cannot start threads");
        return Exit::Io;
    };
    let args = std::env::args_os();
    runtime.block_on(cli::run(args, &mut console, &env, asked(leave)))
}

/// One item for each signal that asks to stop. Until a verb waits for one, and so for verbs that never
/// do, signals do what they do to any program: they end it.
fn asked(leave: SyncSender<Exit>) -> Signals {
    let (ask, asked) = mpsc::channel(1);
    let mut start = Some((ask, leave));
    let mut asked = ReceiverStream::new(asked);
    futures::stream::poll_fn(move |context| {
        if let Some((ask, leave)) = start.take() {
            let thread = thread::Builder::new().name("signals".into());
            let (begin, begun) = sync_channel(1);
            // Without the thread nothing is changed: a signal ends the process.
            if thread.spawn(move || heed(&begin, &ask, &leave)).is_ok() {
                // Nothing the verb does from here on is cut short by a signal.
                let _ = begun.recv();
            }
        }
        asked.poll_next_unpin(context)
    })
    .boxed()
}

/// Tells the verb of the first signal. At the second, or at once if the verb no longer waits for one,
/// leaves. Says `begin` once signals no longer end the process.
fn heed(begin: &SyncSender<()>, ask: &mpsc::Sender<()>, leave: &SyncSender<Exit>) {
    let Ok(runtime) = runtime::Builder::new_current_thread().enable_all().build() else {
        return;
    };
    runtime.block_on(async {
        let mut signals = signals();
        let _ = begin.send(());
        if signals.next().await.is_none() {
            return;
        }
        if ask.send(()).await.is_ok() {
            let _ = signals.next().await;
        }
        // If the command has ended meanwhile, so has the process.
        let _ = leave.try_send(Exit::Interrupted);
    });
}

/// SIGINT and SIGTERM, as often as they come.
fn signals() -> Signals {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        use tokio_stream::wrappers::SignalStream;

        let kinds = [SignalKind::interrupt(), SignalKind::terminate()];
        let streams = kinds.into_iter().filter_map(|kind| signal(kind).ok());
        futures::stream::select_all(streams.map(SignalStream::new)).boxed()
    }
    #[cfg(not(unix))]
    {
        futures::stream::unfold((), |()| async {
            tokio::signal::ctrl_c().await.ok().map(|()| ((), ()))
        })
        .boxed()
    }
}
