//! What a backend's test file says: how a broker is opened, and what it lacks.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tempfile::TempDir;

use super::Need;
use super::kit::Drops;
use crate::{Broker, Clock, Timestamp, TokioClock};

/// What a broker is opened with. A broker that keeps anything beyond its process is the same again
/// when it is opened with the same once more.
#[derive(Debug, Clone)]
pub struct Given {
    /// Follows tokio's clock, which most tests pause, and is moved by clauses on clocks that jump.
    pub clock: Arc<dyn Clock>,
    /// A directory that does not exist yet, whose parent does; removed with the subject.
    pub directory: PathBuf,
}

/// A backend under test.
pub struct Subject {
    open: Box<dyn Fn(Given) -> BoxFuture<'static, Opened> + Send + Sync>,
    without: BTreeSet<Need>,
    patience: Duration,
    quiet: Duration,
    latest: Mutex<Latest>,
    missed: Mutex<BTreeSet<Need>>,
    waiting: bool,
    slow: bool,
    // Whether a call was dropped before it was done.
    cut_short: AtomicBool,
    seed: u64,
    jumped: Arc<Jumped>,
    // Last, so that brokers are gone before what they wrote.
    directories: Mutex<Vec<TempDir>>,
}

type Clean = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

struct Opened {
    broker: Arc<dyn Broker>,
    clean: Option<Clean>,
}

/// The broker opened last.
#[derive(Default)]
struct Latest {
    given: Option<Given>,
    clean: Option<Clean>,
}

impl Subject {
    /// A backend, by how a fresh, empty broker of it is opened. It lacks [`Need::Cleaning`].
    pub fn new<B: Broker, F>(open: impl Fn(Given) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = B> + Send + 'static,
    {
        Self::opened(move |given| {
            let opening = open(given);
            let opened = async {
                Opened {
                    broker: Arc::new(opening.await),
                    clean: None,
                }
            };
            opened.boxed()
        })
    }

    /// A backend that also runs retention and compaction to the end when asked, on the newest records
    /// too.
    pub fn cleaned<B: Broker + Clone, F, C>(
        open: impl Fn(Given) -> F + Send + Sync + 'static,
        clean: impl Fn(B) -> C + Copy + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = B> + Send + 'static,
        C: Future<Output = ()> + Send + 'static,
    {
        Self::opened(move |given| {
            let opening = open(given);
            let opened = async move {
                let broker = opening.await;
                let same = broker.clone();
                Opened {
                    broker: Arc::new(broker),
                    clean: Some(Arc::new(move || clean(same.clone()).boxed())),
                }
            };
            opened.boxed()
        })
    }

    fn opened(open: impl Fn(Given) -> BoxFuture<'static, Opened> + Send + Sync + 'static) -> Self {
        Self {
            open: Box::new(open),
            without: BTreeSet::new(),
            patience: Duration::from_secs(10),
            quiet: Duration::from_millis(50),
            latest: Mutex::default(),
            missed: Mutex::default(),
            waiting: false,
            slow: false,
            cut_short: AtomicBool::new(false),
            seed: 0,
            jumped: Arc::default(),
            directories: Mutex::default(),
        }
    }

    /// Says what the backend lacks: exactly this.
    pub fn without(mut self, needs: impl IntoIterator<Item = Need>) -> Self {
        self.without.extend(needs);
        self
    }

    /// Sets how long something that must come may take; 10 s unless set.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Sets how long to wait before taking it that nothing comes; 50 ms unless set.
    pub fn quiet(mut self, quiet: Duration) -> Self {
        self.quiet = quiet;
        self
    }

    /// Says that calls which change something wait before they are answered, so that one which is dropped
    /// is cut short: the clauses on that check that it was.
    pub fn waiting(mut self) -> Self {
        self.waiting = true;
        self
    }

    /// Says that every call waits before it is answered, also those that only ask or open; but a seek, which
    /// may be done where the consumer is.
    pub fn slow(mut self) -> Self {
        self.slow = true;
        self.waiting()
    }

    /// Sets from what it is drawn after how many polls calls are dropped; 0 unless set.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// After how many polls each of a clause's calls is dropped.
    pub(super) fn drops(&self) -> Drops {
        Drops::of(self.seed)
    }

    /// Moves the brokers' clock, not the time that passes: what a person does, or a machine that was off.
    pub(super) fn jump(&self, micros: i64) {
        self.jumped.0.fetch_add(micros, Ordering::SeqCst);
    }

    /// A fresh, empty broker.
    pub(super) async fn broker(&self) -> Arc<dyn Broker> {
        let made = TempDir::new().expect("a directory for a broker is made");
        let given = Given {
            clock: Arc::new(JumpingClock {
                steady: TokioClock::starting_at(START),
                jumped: Arc::clone(&self.jumped),
            }),
            directory: made.path().join("broker"),
        };
        lock(&self.directories).push(made);
        self.open(given).await
    }

    /// The latest broker, dropped and opened again.
    pub(super) async fn again(&self, broker: Arc<dyn Broker>) -> Arc<dyn Broker> {
        drop(broker);
        let latest = std::mem::take(&mut *lock(&self.latest));
        drop(latest.clean);
        // What a dropped broker leaves behind may take a moment to go.
        self.pass(self.quiet).await;
        self.open(latest.given.expect("a broker was opened")).await
    }

    async fn open(&self, given: Given) -> Arc<dyn Broker> {
        let opened = (self.open)(given.clone()).await;
        *lock(&self.latest) = Latest {
            given: Some(given),
            clean: opened.clean,
        };
        opened.broker
    }

    /// Lets time pass, at once where tokio's clock is paused.
    pub(super) async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Runs retention and compaction of the latest broker, if it can be asked to.
    pub(super) async fn clean(&self) {
        let clean = lock(&self.latest).clean.clone();
        if let Some(clean) = clean {
            clean().await;
        }
    }

    /// Notes that a call was dropped before it was done.
    pub(super) fn note_cut_short(&self) {
        self.cut_short.store(true, Ordering::Relaxed);
    }

    /// Checks that a call was cut short since the last such check, where calls wait.
    #[track_caller]
    pub(super) fn check_cut_short(&self) {
        let any = self.cut_short.swap(false, Ordering::Relaxed);
        assert!(
            any || !self.waiting,
            "every call was done when it was dropped"
        );
    }

    /// As [`check_cut_short`](Self::check_cut_short), for calls that change nothing another can see.
    #[track_caller]
    pub(super) fn check_cut_short_if_slow(&self) {
        if self.slow {
            self.check_cut_short();
        }
    }

    pub(super) fn patient(&self) -> Duration {
        self.patience
    }

    pub(super) fn calm(&self) -> Duration {
        self.quiet
    }

    /// Whether the backend has what a clause needs. If not, that the clause left something out is
    /// [told](Self::tell).
    pub(super) fn has(&self, broker: &dyn Broker, need: Need) -> bool {
        let has = self.offers(broker, need);
        if !has {
            lock(&self.missed).insert(need);
        }
        has
    }

    fn offers(&self, broker: &dyn Broker, need: Need) -> bool {
        match need {
            Need::Cleaning => lock(&self.latest).clean.is_some(),
            Need::Hours => !self.without.contains(&need),
            _ => need.is_met_by(&broker.capabilities()),
        }
    }

    /// Says what a clause left out for want of something.
    ///
    /// # Panics
    ///
    /// If it is not among what the backend's test file says that it lacks.
    // The tests' runner shows it with `--show-output`.
    #[expect(clippy::print_stdout)]
    pub(super) fn tell(&self, clause: &str) {
        for need in std::mem::take(&mut *lock(&self.missed)) {
            assert!(
                self.without.contains(&need),
                "{clause} needs {need}, which is lacking, and nobody said so"
            );
            println!("{clause}: left out what needs {need}");
        }
    }

    /// Checks that the broker lacks what its test file says, and nothing else.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub async fn lacks_what_it_says(&self) {
        let broker = self.broker().await;
        let lacking = Need::ALL.iter().copied();
        let lacking: BTreeSet<Need> = lacking
            .filter(|need| !self.offers(&*broker, *need))
            .collect();
        assert_eq!(lacking, self.without, "what is lacking, and what is said");
    }
}

/// By how much a clock was moved, in microseconds.
#[derive(Debug, Default)]
struct Jumped(AtomicI64);

/// A clock that can be moved, also backwards.
#[derive(Debug)]
struct JumpingClock {
    steady: TokioClock,
    jumped: Arc<Jumped>,
}

impl Clock for JumpingClock {
    fn now(&self) -> Timestamp {
        let jumped = self.jumped.0.load(Ordering::SeqCst);
        Timestamp(self.steady.now().0.saturating_add(jumped))
    }
}

/// When the clock starts that brokers are opened with.
const START: Timestamp = Timestamp(1_381_152_600_000_000);

// A clause that panicked is over: nobody else sees what it left.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject")
            .field("without", &self.without)
            .finish_non_exhaustive()
    }
}
