//! Events as they go in, and their time as text.

use serde::Deserialize;

/// 2020-01-01T00:00:00Z, microseconds.
pub(crate) const EPOCH: i64 = 1_577_836_800_000_000;
const DAY: i64 = 24 * 3_600_000_000;

/// An event of the simulated input.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Move {
    pub(crate) id: i64,
    pub(crate) account: String,
    pub(crate) other: String,
    pub(crate) side: String,
    pub(crate) amount: i64,
    pub(crate) contra: i64,
    #[serde(rename = "at", deserialize_with = "time")]
    pub(crate) at: i64,
}

impl Move {
    pub(crate) fn json(&self, event_type: &str) -> String {
        let head = match event_type {
            "" => String::new(),
            name => format!("\"eventType\":\"{name}\","),
        };
        format!(
            "{{{head}\"id\":{},\"account\":\"{}\",\"other\":\"{}\",\"side\":\"{}\",\"amount\":{},\"contra\":{},\"at\":\"{}\"}}",
            self.id,
            self.account,
            self.other,
            self.side,
            self.amount,
            self.contra,
            write_time(self.at)
        )
    }
}

/// An instant of the first two days of 2020 as text.
pub(crate) fn write_time(at: i64) -> String {
    let since = at - EPOCH;
    let (day, within) = (since.div_euclid(DAY), since.rem_euclid(DAY));
    let seconds = within / 1_000_000;
    format!(
        "2020-01-{:02}T{:02}:{:02}:{:02}.{:06}Z",
        day + 1,
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60,
        within % 1_000_000
    )
}

fn time<'de, D: serde::Deserializer<'de>>(text: D) -> Result<i64, D::Error> {
    let text = <&str>::deserialize(text)?;
    let number = |from: usize, to: usize| text[from..to].parse::<i64>().unwrap();
    Ok(EPOCH
        + (number(8, 10) - 1) * DAY
        + (number(11, 13) * 3_600 + number(14, 16) * 60 + number(17, 19)) * 1_000_000
        + number(20, 26))
}
