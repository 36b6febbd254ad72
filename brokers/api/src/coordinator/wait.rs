//! Waiting for the next delivery: look, listen, look again.

use std::fmt;
use std::pin::pin;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::MemberId;
use crate::{Delivery, Result};

/// What a look came to.
#[derive(Debug)]
pub enum Look {
    /// This is to be delivered. It has been taken: whoever looked must return it at once.
    Deliver(Result<Delivery>),
    /// Nothing yet. It is to be looked again when the bell rings, or at this time.
    Wait(Option<Instant>),
}

/// The next delivery, by looking whenever `bell` rings.
///
/// `look` says of a member that waits [that it does](Waiting::of).
///
/// # Errors
///
/// What `look` delivers.
///
/// # Cancel safety
///
/// Nothing is lost if `look` takes only what it returns, and the member no longer counts as one that
/// waits.
pub async fn next<L>(bell: &Notify, mut look: L) -> Result<Delivery>
where
    L: FnMut(&mut Waiting) -> Look + Send,
{
    // A reader that always finds something would keep a single-threaded runtime to itself.
    tokio::task::consume_budget().await;
    let mut waiting = Waiting::default();
    if let Look::Deliver(delivery) = look(&mut waiting) {
        return delivery;
    }
    loop {
        // Listen before looking, so that nothing falls in between.
        let mut rung = pin!(bell.notified());
        rung.as_mut().enable();
        match look(&mut waiting) {
            Look::Deliver(delivery) => return delivery,
            Look::Wait(None) => rung.await,
            Look::Wait(Some(until)) => {
                // Which of both it was is seen at the next look.
                let _ = tokio::time::timeout_at(until, rung).await;
            }
        }
    }
}

/// Says when a member no longer waits for its next delivery: as this drops, also with the future that
/// waits.
#[derive(Default)]
pub struct Waiting {
    member: Option<MemberId>,
    stop: Option<Box<dyn FnOnce() + Send>>,
}

impl Waiting {
    /// `member` waits now, and `stop` is called once it no longer does. One that had waited before is not
    /// told of: it is a member no more.
    pub fn of(&mut self, member: &MemberId, stop: impl FnOnce() + Send + 'static) {
        if self.member.as_ref() != Some(member) {
            self.member = Some(member.clone());
            self.stop = Some(Box::new(stop));
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop();
        }
    }
}

impl fmt::Debug for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waiting")
            .field("member", &self.member)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    fn delivery() -> Look {
        Look::Deliver(Ok(Delivery::Assigned {
            generation: None,
            partitions: Vec::new(),
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_looked_again_at_each_ring_and_at_the_time_that_was_said() {
        let bell = Notify::new();
        let begun = Instant::now();
        let mut times = Vec::new();
        let next = next(&bell, |_| {
            times.push(begun.elapsed().as_secs());
            match times.len() {
                5 => delivery(),
                looks => Look::Wait((looks > 3).then(|| begun + Duration::from_secs(9))),
            }
        });
        let ring = async {
            tokio::time::sleep(Duration::from_secs(4)).await;
            bell.notify_one();
            tokio::time::sleep(Duration::from_secs(1)).await;
            bell.notify_waiters();
        };
        let (delivered, ()) = tokio::join!(next, ring);
        assert!(delivered.is_ok());
        assert_eq!(times, [0, 0, 4, 5, 9]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_waits_until_it_is_told_something_or_no_longer_asks() {
        let (bell, told) = (Notify::new(), Arc::new(AtomicU32::new(0)));
        let look = |mut waits: u32| {
            let told = Arc::clone(&told);
            move |waiting: &mut Waiting| {
                if waits == 0 {
                    return delivery();
                }
                waits -= 1;
                let told = Arc::clone(&told);
                waiting.of(&"m".into(), move || {
                    told.fetch_add(1, Ordering::Relaxed);
                });
                Look::Wait(Some(Instant::now() + Duration::from_secs(1)))
            }
        };
        let count = || told.load(Ordering::Relaxed);
        next(&bell, look(5)).await.unwrap();
        assert_eq!(count(), 1, "once, however often it looked");
        next(&bell, look(0)).await.unwrap();
        assert_eq!(count(), 1, "it did not wait");
        let asked = next(&bell, look(9));
        let dropped = tokio::time::timeout(Duration::from_millis(2_500), asked).await;
        assert!(dropped.is_err());
        assert_eq!(count(), 2);
    }
}
