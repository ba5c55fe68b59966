//! `top`: a container's processes as `ps -ef` shows them, read from /proc: no `ps` is needed anywhere.

use serde_json::{Value, json};

use super::Engine;
use super::container::Container;
use super::error::{ApiError, Result};

/// Clock ticks a second (`USER_HZ`).
const TICKS: u64 = 100;

impl Engine {
    /// The processes. `arguments` other than those of `ps -ef` are not available.
    pub fn top(&self, container: &Container, arguments: &str) -> Result<Value> {
        if !matches!(arguments.trim(), "" | "-ef" | "ef") {
            return Err(ApiError::bad(format!(
                "top with {arguments:?} is not available: only the columns of ps -ef are"
            )));
        }
        let process = container.running()?;
        let mut rows: Vec<[String; 8]> = process.pids()?.into_iter().filter_map(row).collect();
        rows.sort_by_key(|row| row[1].parse::<u32>().unwrap_or(0));
        Ok(
            json!({ "Titles": ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"], "Processes": rows }),
        )
    }
}

/// One process; none when it has ended meanwhile.
fn row(pid: i32) -> Option<[String; 8]> {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
    let stat = read("stat")?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    let status = read("status")?;
    let uid = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))?
        .split_whitespace()
        .next()?
        .to_owned();
    let command = read("cmdline").unwrap_or_default().replace('\0', " ").trim_end().to_owned();
    let name = stat.split_once('(')?.1.rsplit_once(')')?.0;
    let command = if command.is_empty() { format!("[{name}]") } else { command };
    let seconds = (number(11) + number(12)) / TICKS;
    let time = format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
    let terminal =
        if number(4) == 0 { "?".to_owned() } else { format!("pts/{}", number(4) & 0xff) };
    let started = started(number(19));
    Some([
        uid,
        pid.to_string(),
        number(1).to_string(),
        "0".into(),
        started,
        terminal,
        time,
        command,
    ])
}

/// `HH:MM` in UTC, from ticks after the machine's start.
fn started(ticks: u64) -> String {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let boot = text
        .lines()
        .find_map(|line| line.strip_prefix("btime "))
        .and_then(|word| word.trim().parse::<u64>().ok());
    let at = boot.unwrap_or(0) + ticks / TICKS;
    format!("{:02}:{:02}", at / 3600 % 24, at / 60 % 60)
}
