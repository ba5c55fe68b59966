//! When the machine looks for releases by itself, and when it may install one: pure functions of the clock. All times
//! are UTC: a maintenance window that moves by an hour twice a year is a trap.

use anyhow::{Context, Result, bail, ensure};

const DAY: u64 = 86_400;
const WEEK: u64 = 7 * DAY;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// A maintenance window: some days of the week, from one time to another, past midnight if need be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// The days on which it opens, from Monday on.
    days: [bool; 7],
    /// When it opens, in seconds from midnight.
    opens: u64,
    /// How long it is open, in seconds.
    length: u64,
}

impl Window {
    /// `02:00-04:00`, `sat,sun 22:00-03:00`, `mon-fri 01:30-02:30`.
    ///
    /// # Errors
    /// Says what was expected.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || format!("{text:?}: expected a window such as `sat,sun 02:00-04:00` (UTC)");
        let (days, times) = match text.trim().rsplit_once(' ') {
            Some((days, times)) => (parse_days(days).with_context(wrong)?, times),
            None => ([true; 7], text.trim()),
        };
        let (from, to) = times.split_once('-').with_context(wrong)?;
        let (opens, closes) =
            (parse_time(from).with_context(wrong)?, parse_time(to).with_context(wrong)?);
        let length = (closes + DAY - opens - 1) % DAY + 1;
        Ok(Self { days, opens, length })
    }

    /// Seconds from `now`, in seconds since the epoch, until it is open; 0 when it is.
    #[must_use]
    pub fn wait(&self, now: u64) -> u64 {
        // The epoch was a Thursday.
        let at = (now + 3 * DAY) % WEEK;
        let openings = (0..7u64).filter(|day| self.days[usize::try_from(*day).unwrap_or(0)]);
        let waits = openings.map(|day| {
            let since = (at + WEEK - (day * DAY + self.opens)) % WEEK;
            if since < self.length { 0 } else { WEEK - since }
        });
        waits.min().unwrap_or(WEEK)
    }
}

fn parse_days(text: &str) -> Result<[bool; 7]> {
    let number = |day: &str| {
        let short: String = day.trim().to_lowercase().chars().take(3).collect();
        DAYS.iter().position(|known| *known == short).with_context(|| format!("{day:?} is no day"))
    };
    let mut days = [false; 7];
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut day, last) = (number(first)?, number(last)?);
        days[day] = true;
        while day != last {
            day = (day + 1) % 7;
            days[day] = true;
        }
    }
    Ok(days)
}

fn parse_time(text: &str) -> Result<u64> {
    let (hours, minutes) = text.trim().split_once(':').context("a time has a colon")?;
    let (hours, minutes): (u64, u64) = (hours.parse()?, minutes.parse()?);
    ensure!(hours < 24 && minutes < 60, "{text} is no time of a day");
    Ok(hours * 3600 + minutes * 60)
}

/// Seconds in `90s`, `30m`, `6h`, `1d`.
///
/// # Errors
/// Says what was expected.
pub fn parse_span(text: &str) -> Result<u64> {
    let wrong = || format!("{text:?}: expected a span of time such as `30m` or `6h`");
    let text = text.trim();
    let (number, unit) =
        text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = number.parse().with_context(wrong)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => DAY,
        _ => bail!(wrong()),
    };
    number.checked_mul(unit).filter(|span| *span <= 366 * DAY).with_context(wrong)
}

/// Part of `jitter` that a machine waits longer than asked: its own, so that a thousand machines do not come at once,
/// and another each time.
#[must_use]
pub fn jittered(jitter: u64, machine: &str, round: u64) -> u64 {
    let digest = ros_api::Digest::of(format!("{machine} {round}").as_bytes());
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest.bytes()[..8]);
    u64::from_le_bytes(bytes) % (jitter + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds since the epoch of a day in a week that began on a Monday, and a time.
    fn at(day: u64, time: &str) -> u64 {
        // 2026-01-05 was a Monday.
        1_767_571_200 + day * DAY + parse_time(time).unwrap()
    }

    #[test]
    fn windows_open_and_close() {
        let table = [
            ("02:00-04:00", 2, "02:00", 0),
            ("02:00-04:00", 2, "03:59", 0),
            ("02:00-04:00", 2, "04:00", 22 * 3600),
            ("02:00-04:00", 2, "01:00", 3600),
            ("sat,sun 02:00-04:00", 5, "03:00", 0),
            ("sat,sun 02:00-04:00", 4, "03:00", 23 * 3600),
            ("sat,sun 02:00-04:00", 6, "05:00", 5 * DAY + 21 * 3600),
            ("mon-fri 22:00-03:00", 5, "02:00", 0),
            ("mon-fri 22:00-03:00", 5, "22:00", 2 * DAY),
            ("fri-mon 01:00-02:00", 1, "01:00", 3 * DAY),
            ("Sunday 23:00-01:00", 0, "00:30", 0),
            ("00:00-00:00", 3, "12:00", 0),
        ];
        for (window, day, time, wait) in table {
            let parsed = Window::parse(window).unwrap();
            assert_eq!(parsed.wait(at(day, time)), wait, "{window} on day {day} at {time}");
        }
        for wrong in ["", "2-4", "25:00-26:00", "some 02:00-03:00", "02:00", "mon 02:00"] {
            let error = format!("{:#}", Window::parse(wrong).unwrap_err());
            assert!(error.contains("sat,sun 02:00-04:00"), "{wrong}: {error}");
        }
    }

    #[test]
    fn spans_are_read() {
        for (text, seconds) in [("90s", 90), ("30m", 1800), (" 6h ", 21_600), ("1d", DAY)] {
            assert_eq!(parse_span(text).unwrap(), seconds);
        }
        for wrong in ["", "h", "6", "6 h", "-1h", "9999999999999999999d", "400d"] {
            assert!(parse_span(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn machines_do_not_come_at_once() {
        let all: std::collections::BTreeSet<u64> =
            (0..100).map(|n| jittered(3600, &format!("machine-{n}"), 1)).collect();
        assert!(all.len() > 90 && all.iter().all(|wait| *wait <= 3600));
        assert_eq!(jittered(3600, "a", 1), jittered(3600, "a", 1));
        assert_ne!(jittered(3600, "a", 1), jittered(3600, "a", 2));
        assert_eq!(jittered(0, "a", 1), 0);
    }
}
