//! The name of a run: a seed, and the setting it is played in. The setting is part of the name, so that a
//! new one leaves alone what every seed has meant before.

use std::fmt;
use std::str::FromStr;

/// In which world a seed is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Setting {
    /// The log is in memory, and breaks as a remote broker does.
    Memory,
    /// The same, with bounds so small that whatever may wait does wait.
    Tight,
    /// The log is in files on a disk that loses power.
    Files,
    /// As in memory; two sources side by side in one task, or a second broker.
    Wide,
}

/// One run, and how to ask for it: `42`, `tight:42`, `files:42` or `wide:42`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scenario {
    pub(crate) setting: Setting,
    pub(crate) seed: u64,
}

impl Scenario {
    pub(crate) fn new(setting: Setting, seed: u64) -> Self {
        Self { setting, seed }
    }

    /// The run with this number in the series of a base.
    pub(crate) fn of_series(base: u64, index: u64) -> Self {
        let settings = [
            Setting::Memory,
            Setting::Files,
            Setting::Memory,
            Setting::Tight,
            Setting::Wide,
        ];
        let setting = settings[index as usize % settings.len()];
        Self::new(setting, seed(base, index))
    }
}

/// The seed with this number in a series: splitmix64, so that neighbours have nothing in common.
fn seed(base: u64, index: u64) -> u64 {
    let mut z = base.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let setting = match self.setting {
            Setting::Memory => "",
            Setting::Tight => "tight:",
            Setting::Files => "files:",
            Setting::Wide => "wide:",
        };
        write!(f, "{setting}{}", self.seed)
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (setting, seed) = text.split_once(':').unwrap_or(("", text));
        let setting = match setting {
            "" => Setting::Memory,
            "tight" => Setting::Tight,
            "files" => Setting::Files,
            "wide" => Setting::Wide,
            other => return Err(format!("no setting is called `{other}`")),
        };
        let seed = seed
            .parse()
            .map_err(|error| format!("`{seed}` is no seed: {error}"))?;
        Ok(Self { setting, seed })
    }
}

#[test]
fn a_run_is_asked_for_by_the_name_that_it_is_told_by() {
    for name in ["42", "tight:7", "wide:7", "files:18446744073709551615"] {
        assert_eq!(name.parse::<Scenario>().unwrap().to_string(), name);
    }
    assert!("other:1".parse::<Scenario>().is_err());
}
