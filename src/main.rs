//! The command `tidemill`: hands the process's streams, environment and signals to the library, and
//! ends with the code it gives back. Logs go to standard error: warnings and worse, or what
//! `TIDEMILL_LOG` asks for, such as `tidemill=info`.

use std::io::{self, BufReader, IsTerminal as _};
use std::process::ExitCode;

use futures::StreamExt as _;
use tidemill::cli::{self, Console, Signals, Terminals};
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> ExitCode {
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
    cli::run(std::env::args_os(), &mut console, &env, signals())
        .await
        .into()
}

/// SIGINT and SIGTERM, as often as they come.
fn signals() -> Signals {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};

        let kinds = [SignalKind::interrupt(), SignalKind::terminate()];
        let streams = kinds.into_iter().filter_map(|kind| signal(kind).ok());
        let streams = streams.map(|signal| {
            futures::stream::unfold(signal, |mut signal| async move {
                signal.recv().await.map(|()| ((), signal))
            })
            .boxed()
        });
        futures::stream::select_all(streams).boxed()
    }
    #[cfg(not(unix))]
    {
        futures::stream::unfold((), |()| async {
            tokio::signal::ctrl_c().await.ok().map(|()| ((), ()))
        })
        .boxed()
    }
}
