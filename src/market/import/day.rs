//! A trading day in its market's time zone: from "since midnight" to an instant.

use jiff::ToSpan;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use tidemill_broker::Timestamp;

/// Microseconds of a day without a change of the clock.
const DAY: i64 = 86_400_000_000;

/// A calendar day of a zone.
///
/// Times are wall-clock times since midnight. Where the clocks go forward, a time that does not
/// exist is read with the offset before the change; where they go back, a time that occurs twice is
/// the first one.
#[derive(Debug, Clone)]
pub(super) struct Day {
    date: Date,
    zone: TimeZone,
    // Midnight, where the whole day has one offset from UTC.
    midnight: Option<Timestamp>,
}

impl Day {
    pub(super) fn new(date: Date, zone: TimeZone) -> Result<Self, jiff::Error> {
        let start = date.to_zoned(zone.clone())?;
        let end = date.checked_add(1.day())?.to_zoned(zone.clone())?;
        let (start, end) = (
            start.timestamp().as_microsecond(),
            end.timestamp().as_microsecond(),
        );
        Ok(Self {
            date,
            zone,
            midnight: (end - start == DAY).then_some(Timestamp(start)),
        })
    }

    /// The instant this many microseconds after midnight; `None` outside the day.
    pub(super) fn at(&self, micros: i64) -> Option<Timestamp> {
        if !(0..DAY).contains(&micros) {
            return None;
        }
        if let Some(midnight) = self.midnight {
            return Some(Timestamp(midnight.0 + micros));
        }
        let wall = self
            .date
            .at(0, 0, 0, 0)
            .checked_add(micros.microseconds())
            .ok()?;
        let zoned = wall.to_zoned(self.zone.clone()).ok()?;
        Some(Timestamp(zoned.timestamp().as_microsecond()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000;

    fn utc(date: Date, hour: i64) -> String {
        let day = Day::new(date, TimeZone::get("America/New_York").unwrap()).unwrap();
        let time = day.at(hour * HOUR).unwrap();
        jiff::Timestamp::from_microsecond(time.0)
            .unwrap()
            .to_string()
    }

    #[test]
    fn new_york_is_four_hours_behind_in_summer_and_five_in_winter() {
        use jiff::civil::date;
        assert_eq!(utc(date(2013, 10, 7), 9), "2013-10-07T13:00:00Z");
        assert_eq!(utc(date(2013, 12, 2), 9), "2013-12-02T14:00:00Z");
        // The clocks go forward at 2 on 10 March 2013 and back at 2 on 3 November.
        assert_eq!(utc(date(2013, 3, 10), 1), "2013-03-10T06:00:00Z");
        assert_eq!(utc(date(2013, 3, 10), 2), "2013-03-10T07:00:00Z");
        assert_eq!(utc(date(2013, 3, 10), 9), "2013-03-10T13:00:00Z");
        assert_eq!(utc(date(2013, 11, 3), 1), "2013-11-03T05:00:00Z");
        assert_eq!(utc(date(2013, 11, 3), 9), "2013-11-03T14:00:00Z");
    }

    #[test]
    fn a_time_outside_the_day_is_refused() {
        let day = Day::new(jiff::civil::date(2013, 10, 7), TimeZone::UTC).unwrap();
        assert_eq!(day.at(-1), None);
        assert_eq!(day.at(24 * HOUR), None);
        assert!(day.at(24 * HOUR - 1).is_some());
    }
}
