//! The progress bar of what takes long: on a terminal; nothing elsewhere.

use std::sync::{Mutex, PoisonError};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tidemill_state::{Doing, Headway};

use super::rate::with_rate;

#[derive(Debug)]
pub(super) struct Bar {
    bar: ProgressBar,
    template: Mutex<&'static str>,
}

impl Bar {
    /// Goes to standard error, if `shown` and that is a terminal.
    pub(super) fn new(shown: bool) -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if shown {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        Self {
            bar,
            template: Mutex::new(""),
        }
    }

    /// Shows how far it is, and a message if the template has a place for one.
    pub(super) fn show(
        &self,
        template: &'static str,
        done: u64,
        total: Option<u64>,
        message: String,
    ) {
        let mut shown = self.template.lock().unwrap_or_else(PoisonError::into_inner);
        if *shown != template {
            *shown = template;
            // Its rate is that of what it is doing now.
            self.bar.reset();
            if let Ok(style) = ProgressStyle::with_template(template) {
                self.bar.set_style(with_rate(style));
            }
        }
        match total {
            Some(total) => self.bar.set_length(total),
            None => self.bar.unset_length(),
        }
        self.bar.set_message(message);
        self.bar.set_position(done);
    }

    /// Shows how far work on state has come.
    pub(super) fn headway(&self, headway: Headway) {
        let Headway { doing, done, total } = headway;
        self.show(template(doing), done, total, String::new());
    }

    /// Writes a line without the bar in its way.
    pub(super) fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bar.suspend(write)
    }

    /// Takes it away; what is shown next begins anew.
    pub(super) fn clear(&self) {
        *self.template.lock().unwrap_or_else(PoisonError::into_inner) = "";
        self.bar.finish_and_clear();
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}

fn template(doing: Doing) -> &'static str {
    match doing {
        Doing::Redoing => "redoing the changelog {bar:30} {human_pos}/{human_len} {rate} {eta}",
        Doing::Comparing => "reading {human_pos} elements {rate}",
        Doing::Saving => "saving {human_pos} elements {rate}",
        Doing::Checking => "checking {bar:30} {bytes}/{total_bytes} {eta}",
        Doing::Filling => "filling {bar:30} {human_pos}/{human_len} elements {rate} {eta}",
    }
}
