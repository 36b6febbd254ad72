//! Calls that are dropped before they are done.

use std::future::Future;
use std::task::Poll;
use std::time::Duration;

use crate::conformance::Subject;

/// After how many polls calls are dropped: drawn from a seed, so that each is cut short elsewhere, and
/// a failure can be repeated.
#[derive(Debug)]
pub(in crate::conformance) struct Drops(u64);

/// After how many polls a call is dropped at most.
const POLLS_MAX: u64 = 6;

/// Short beside what a slow broker waits for, so that calls are dropped at different points.
const BETWEEN_POLLS: Duration = Duration::from_millis(1);

impl Drops {
    pub(in crate::conformance) fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// At least one.
    fn draw(&mut self) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        1 + (mixed ^ (mixed >> 31)) % POLLS_MAX
    }

    /// Polls a call so often as is drawn, others running and time passing in between, and drops it; `None`
    /// if it was cut short.
    pub(in crate::conformance) async fn drop<T>(
        &mut self,
        subject: &Subject,
        call: impl Future<Output = T>,
    ) -> Option<T> {
        let mut call = std::pin::pin!(call);
        for poll in 0..self.draw() {
            if poll > 0 {
                subject.pass(BETWEEN_POLLS).await;
            }
            if let Poll::Ready(done) = futures::poll!(&mut call) {
                return Some(done);
            }
        }
        subject.note_cut_short();
        None
    }
}
