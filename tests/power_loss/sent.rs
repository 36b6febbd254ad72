//! Outputs of which a loss of power takes more than those of an epoch.

use crate::job::{Outcome, Outputs};

impl Outputs {
    /// Those of one topic.
    pub(crate) fn of(mut self, topic: &str) -> Self {
        self.0.retain(|(of, _), _| of == topic);
        self
    }

    /// Those that are also among others.
    pub(crate) fn among(mut self, others: &Self) -> Self {
        for (at, numbers) in &mut self.0 {
            let others = others.0.get(at);
            numbers.retain(|number| others.is_some_and(|others| others.contains(number)));
        }
        self
    }
}

impl Outcome {
    /// What all epochs wrote that the log has.
    pub(crate) fn committed(&self) -> Outputs {
        let mut all = Outputs::default();
        for marker in self.markers.values() {
            all.add(marker, None);
        }
        all
    }
}
