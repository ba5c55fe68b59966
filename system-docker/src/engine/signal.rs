//! Signals as users write them: `TERM`, `SIGTERM`, `15`, `RTMIN+3`.

use super::error::{ApiError, Result};

/// The kernel's first real-time signal that programs may use (glibc keeps 32 and 33).
const RTMIN: i32 = 34;
const LAST: i32 = 64;

/// The number of a signal.
pub fn parse(text: &str) -> Result<i32> {
    let wrong = || ApiError::bad(format!("invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=LAST).contains(&number) { Ok(number) } else { Err(wrong()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = name.strip_prefix("RTMIN") {
        let offset: i32 =
            if offset.is_empty() { 0 } else { offset.parse().map_err(|_| wrong())? };
        let number = RTMIN + offset;
        return if (RTMIN..=LAST).contains(&number) { Ok(number) } else { Err(wrong()) };
    }
    let signal: nix::sys::signal::Signal = format!("SIG{name}").parse().map_err(|_| wrong())?;
    Ok(signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, number) in
            [("TERM", 15), ("SIGKILL", 9), ("sighup", 1), ("15", 15), ("RTMIN+3", 37)]
        {
            assert_eq!(parse(text).unwrap(), number, "{text}");
        }
        for wrong in ["", "0", "65", "SIGNOPE", "RTMIN+99"] {
            assert_eq!(parse(wrong).unwrap_err().status, 400, "{wrong}");
        }
    }
}
