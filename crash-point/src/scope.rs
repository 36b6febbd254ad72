//! Scopes: which simulated process runs at this instant.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// Whether a scope may run.
#[derive(Default)]
enum Stopped {
    /// Until it is thawed: who asked to be polled meanwhile.
    #[default]
    Dead,
    Frozen(Vec<Waker>),
}

thread_local! {
    static CURRENT: Cell<u64> = const { Cell::new(0) };
    static STOPPED: RefCell<BTreeMap<u64, Stopped>> = const { RefCell::new(BTreeMap::new()) };
}

/// What unwinds a poll that was stopped in its midst.
struct Left;

/// The scope that is being polled; 0 outside of all.
pub fn current() -> u64 {
    CURRENT.get()
}

/// Ends a scope: nothing of it is polled again. Called within it, at a crash point, it runs no further.
pub fn stop(scope: u64) {
    STOPPED.with_borrow_mut(|stopped| stopped.insert(scope, Stopped::Dead));
}

/// Keeps a scope from being polled until it is [thawed](thaw), as SIGSTOP does.
pub fn freeze(scope: u64) {
    STOPPED.with_borrow_mut(|stopped| {
        stopped
            .entry(scope)
            .or_insert_with(|| Stopped::Frozen(Vec::new()));
    });
}

/// Lets a frozen scope go on. One that was stopped stays so.
pub fn thaw(scope: u64) {
    let wakers = STOPPED.with_borrow_mut(|stopped| match stopped.remove(&scope) {
        Some(Stopped::Frozen(wakers)) => wakers,
        Some(Stopped::Dead) => {
            stopped.insert(scope, Stopped::Dead);
            Vec::new()
        }
        None => Vec::new(),
    });
    wakers.into_iter().for_each(Waker::wake);
}

/// Forgets all scopes of this thread.
pub fn reset() {
    STOPPED.with_borrow_mut(BTreeMap::clear);
    CURRENT.set(0);
}

/// After a crash point: runs no further if its scope was stopped there.
pub(super) fn leave_if_stopped() {
    let dead =
        STOPPED.with_borrow(|stopped| matches!(stopped.get(&current()), Some(Stopped::Dead)));
    if dead {
        // Not a panic: nothing is wrong, and no hook is to hear of it.
        resume_unwind(Box::new(Left));
    }
}

/// A future that belongs to a scope.
pub struct Scoped<T> {
    scope: u64,
    future: Pin<Box<dyn Future<Output = T> + Send>>,
}

impl<T> fmt::Debug for Scoped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scoped")
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

/// Runs a future in a scope.
pub fn in_scope<F: Future + Send + 'static>(scope: u64, future: F) -> Scoped<F::Output> {
    Scoped {
        scope,
        future: Box::pin(future),
    }
}

/// Makes a future that is about to be spawned part of the scope it is spawned from.
pub fn inherit<F: Future + Send + 'static>(future: F) -> Scoped<F::Output> {
    in_scope(current(), future)
}

impl<T> Future for Scoped<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let stopped = STOPPED.with_borrow_mut(|stopped| match stopped.get_mut(&self.scope) {
            None => false,
            Some(Stopped::Dead) => true,
            Some(Stopped::Frozen(wakers)) => {
                wakers.push(cx.waker().clone());
                true
            }
        });
        if stopped {
            return Poll::Pending;
        }
        let before = CURRENT.replace(self.scope);
        // A future that was left in its midst is never polled again.
        let polled = catch_unwind(AssertUnwindSafe(|| self.future.as_mut().poll(cx)));
        CURRENT.set(before);
        match polled {
            Ok(polled) => polled,
            Err(payload) if payload.is::<Left>() => Poll::Pending,
            Err(payload) => resume_unwind(payload),
        }
    }
}
