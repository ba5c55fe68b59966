//! `top`: a container's processes as `ps -ef` or `ps aux` shows them, read from /proc: no `ps` is needed anywhere.

use serde_json::{Value, json};

use super::Engine;
use super::container::Container;
use super::error::{ApiError, Result};

/// Clock ticks a second (`USER_HZ`).
const TICKS: u64 = 100;

impl Engine {
    /// The processes, in the columns of `ps -ef` or of `ps aux`; other arguments are refused.
    pub fn top(&self, container: &Container, arguments: &str) -> Result<Value> {
        let columns: &[Column] = match arguments.trim() {
            "" | "-ef" | "ef" => &FULL,
            "aux" | "-aux" => &USAGE,
            _ => {
                return Err(ApiError::bad(format!(
                    "top with {arguments:?} is not available: the columns of ps -ef and of ps aux are"
                )));
            }
        };
        let process = container.running()?;
        let mut pids = process.pids()?;
        pids.sort_unstable();
        let rows: Vec<Vec<String>> = pids
            .into_iter()
            .filter_map(Entry::read)
            .map(|entry| columns.iter().map(|(_, show)| show(&entry)).collect())
            .collect();
        let titles: Vec<&str> = columns.iter().map(|(title, _)| *title).collect();
        Ok(json!({ "Titles": titles, "Processes": rows }))
    }
}

/// A title and what is below it.
type Column = (&'static str, fn(&Entry) -> String);

/// `ps -ef`.
const FULL: [Column; 8] = [
    ("UID", |entry| entry.uid.clone()),
    ("PID", |entry| entry.pid.to_string()),
    ("PPID", |entry| entry.number(1).to_string()),
    ("C", |_| "0".into()),
    ("STIME", |entry| started(entry.number(19))),
    ("TTY", Entry::terminal),
    ("TIME", Entry::time),
    ("CMD", |entry| entry.command.clone()),
];

/// `ps aux`; shares of CPU and memory are not computed.
const USAGE: [Column; 11] = [
    ("USER", |entry| entry.uid.clone()),
    ("PID", |entry| entry.pid.to_string()),
    ("%CPU", |_| "0.0".into()),
    ("%MEM", |_| "0.0".into()),
    ("VSZ", |entry| (entry.number(20) / 1024).to_string()),
    ("RSS", |entry| (entry.number(21) * 4).to_string()),
    ("TTY", Entry::terminal),
    ("STAT", |entry| entry.fields.first().cloned().unwrap_or_default()),
    ("START", |entry| started(entry.number(19))),
    ("TIME", Entry::time),
    ("COMMAND", |entry| entry.command.clone()),
];

/// One process, from /proc (`man 5 proc_pid_stat`).
struct Entry {
    pid: i32,
    uid: String,
    command: String,
    /// Of `stat`, from the state on.
    fields: Vec<String>,
}

impl Entry {
    /// None when it has ended meanwhile.
    fn read(pid: i32) -> Option<Self> {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).ok();
        let stat = read("stat")?;
        let (before, after) = stat.rsplit_once(')')?;
        let name = before.split_once('(')?.1;
        let status = read("status")?;
        let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        let line = read("cmdline").unwrap_or_default().replace('\0', " ").trim_end().to_owned();
        Some(Self {
            pid,
            uid: ids.split_whitespace().next()?.to_owned(),
            command: if line.is_empty() { format!("[{name}]") } else { line },
            fields: after.split_whitespace().map(str::to_owned).collect(),
        })
    }

    fn number(&self, at: usize) -> u64 {
        self.fields.get(at).and_then(|word| word.parse().ok()).unwrap_or(0)
    }

    fn terminal(&self) -> String {
        match self.number(4) {
            0 => "?".into(),
            device => format!("pts/{}", device & 0xff),
        }
    }

    fn time(&self) -> String {
        let seconds = (self.number(11) + self.number(12)) / TICKS;
        format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
    }
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
