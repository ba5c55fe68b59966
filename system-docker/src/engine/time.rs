//! Times as Docker writes them: RFC 3339 with nanoseconds, UTC. Inside, nanoseconds since the epoch.

use std::time::{SystemTime, UNIX_EPOCH};

use chrono::{DateTime, NaiveDate, NaiveDateTime, SecondsFormat};

/// Now.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// `2026-01-02T03:04:05.000000006Z`; the zero time for 0.
pub fn rfc3339(nanoseconds: i64) -> String {
    if nanoseconds == 0 {
        return "0001-01-01T00:00:00Z".to_owned();
    }
    DateTime::from_timestamp_nanos(nanoseconds).to_rfc3339_opts(SecondsFormat::Nanos, true)
}

/// Nanoseconds of a `since`/`until`: Unix seconds with a fraction, RFC 3339, or what Docker takes of it: without a zone (this
/// daemon's is UTC), without seconds, a day alone.
pub fn parse(text: &str) -> Option<i64> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return time.timestamp_nanos_opt();
    }
    let local = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M"];
    let of_day = || NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0);
    let time = local.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
    if let Some(time) = time.or_else(of_day) {
        return time.and_utc().timestamp_nanos_opt();
    }
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let seconds: i64 = seconds.parse().ok()?;
    let digits = fraction.bytes().all(|byte| byte.is_ascii_digit());
    let fraction: i64 = format!("{fraction:0<9}").get(..9).filter(|_| digits)?.parse().ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_both_ways() {
        for (nanoseconds, text) in [
            (1_000_000_006, "1970-01-01T00:00:01.000000006Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00.000000000Z"),
            (1_795_500_000_123_456_789, "2026-11-24T06:00:00.123456789Z"),
        ] {
            assert_eq!(rfc3339(nanoseconds), text);
            assert_eq!(parse(text), Some(nanoseconds));
        }
        assert_eq!(parse("12.5"), Some(12_500_000_000));
        assert_eq!(parse("2000-02-29T02:00:00+02:00"), Some(951_782_400_000_000_000));
        for (text, same) in [
            ("2000-02-29", "2000-02-29T00:00:00Z"),
            ("2000-02-29T03:04", "2000-02-29T03:04:00Z"),
            ("2000-02-29T03:04:05.5", "2000-02-29T03:04:05.5Z"),
        ] {
            assert_eq!(parse(text), parse(same), "{text}");
            assert!(parse(text).is_some(), "{text}");
        }
        for wrong in [
            "x",
            "",
            "1.x",
            "9999999999999999999",
            "99999-01-01T00:00:00Z",
            "T",
            "2000-02-30",
            "2000-02-29T25:00",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
