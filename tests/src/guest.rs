//! Commands inside a machine, over ssh with a key.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// What a single command may take at most: one that hangs is a failure with its name, not a run that never ends.
pub const COMMAND: Duration = Duration::from_secs(420);

/// Seconds that sshd may take to answer. While a machine boots it is asked again and again: a question that came before
/// the machine had an address is never answered.
const ANSWER: u32 = 10;
const ANSWER_IN_BOOT: u32 = 4;

/// What the connection that commands share may take to end.
const HANG_UP: Duration = Duration::from_secs(5);

/// How to reach a machine.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Port on the loopback.
    pub port: u16,
    /// Private key.
    pub key: PathBuf,
    /// User to log in as.
    pub user: String,
    /// Socket of the connection that commands share, so that not each has a key exchange of its own; none: they do not
    /// share one.
    pub line: Option<PathBuf>,
    /// Where each command is noted with its time.
    pub journal: Option<Journal>,
}

/// What was done when, and how long it took, one line each: where a case's time goes.
#[derive(Clone, Debug)]
pub struct Journal {
    file: PathBuf,
    began: Instant,
}

impl Journal {
    /// A journal in `file`; its times count from now.
    #[must_use]
    pub fn new(file: &Path) -> Self {
        Self { file: file.to_owned(), began: Instant::now() }
    }

    /// Notes `what`, which began at `start`. A journal that cannot be written is no failure of the case.
    pub fn note(&self, start: Instant, what: &str) {
        let at = start.duration_since(self.began).as_secs_f64();
        let took = start.elapsed().as_secs_f64();
        let short: String = what.chars().take(100).collect();
        let line = format!("{at:7.1} {took:6.1}  {}\n", short.replace('\n', " "));
        let file = fs::OpenOptions::new().create(true).append(true).open(&self.file);
        let _ = file.and_then(|mut file| file.write_all(line.as_bytes()));
    }
}

/// What a command left behind.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Exit status; 255 is ssh's own failure.
    pub status: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Guest {
    /// The machine at `port`, as user `ros`.
    #[must_use]
    pub fn new(port: u16, key: &Path) -> Self {
        Self { port, key: key.to_owned(), user: "ros".to_owned(), line: None, journal: None }
    }

    /// `ssh` with everything but the command.
    #[must_use]
    pub fn ssh(&self) -> Command {
        self.ssh_within(ANSWER)
    }

    fn ssh_within(&self, answer: u32) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.arg("-i").arg(&self.key).args(["-p", &self.port.to_string()]);
        for option in [
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
            "LogLevel=ERROR",
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            "ServerAliveInterval=10",
        ] {
            ssh.args(["-o", option]);
        }
        ssh.args(["-o", &format!("ConnectTimeout={answer}")]);
        ssh.arg(format!("{}@127.0.0.1", self.user));
        ssh
    }

    /// Runs a shell command as root.
    ///
    /// # Errors
    /// When ssh itself cannot be started, or the command does not end within [`COMMAND`].
    pub fn run(&self, command: &str) -> Result<Ran> {
        self.run_by(self.sharing(self.ssh()), command)
    }

    /// By the connection that commands share; it is made when there is none.
    fn sharing(&self, mut ssh: Command) -> Command {
        if let Some(line) = &self.line {
            ssh.args(["-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-S"]).arg(line);
        }
        ssh
    }

    /// Ends the connection that commands share, if there is one.
    fn hang_up(&self) {
        let Some(line) = self.line.as_ref().filter(|line| line.exists()) else { return };
        let mut ssh = self.ssh();
        ssh.args(["-O", "exit", "-S"]).arg(line);
        // A master that does not answer holds on to a machine that is gone: without its socket nobody asks it.
        let _ = output_within(ssh, HANG_UP);
        let _ = fs::remove_file(line);
    }

    fn run_by(&self, mut ssh: Command, command: &str) -> Result<Ran> {
        ssh.arg(format!("sudo -n sh -c {}", quoted(command)));
        let start = Instant::now();
        let output = output_within(ssh, COMMAND);
        if let Some(journal) = &self.journal {
            journal.note(start, command);
        }
        Ok(Ran::from(output?))
    }

    /// Copies a file of this machine to `to`, as root.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub fn send(&self, file: &Path, to: &str) -> Result<()> {
        let mut ssh = self.ssh();
        ssh.arg(format!("sudo -n sh -c {}", quoted(&format!("cat > {to}"))));
        let file = File::open(file).with_context(|| format!("open {}", file.display()))?;
        let status = ssh.stdin(file).status().context("start ssh")?;
        ensure!(status.success(), "send to {to}: ssh ended with {status}");
        Ok(())
    }

    /// Runs a shell command as root that must succeed; returns its standard output, trimmed.
    ///
    /// # Errors
    /// When it fails, with all it printed.
    pub fn ok(&self, command: &str) -> Result<String> {
        let ran = self.run(command)?;
        ensure!(
            ran.status == 0,
            "{command:?} ended with {}:\n{}{}",
            ran.status,
            ran.stdout,
            ran.stderr
        );
        Ok(ran.stdout.trim().to_owned())
    }

    /// Waits until ssh answers; returns the machine's boot id.
    ///
    /// # Errors
    /// When the time is over, with ssh's last complaint.
    pub fn wait(&self, limit: Duration) -> Result<String> {
        self.wait_boot("", limit)
    }

    /// Waits until ssh answers from another boot than `before`; returns the new boot id.
    ///
    /// # Errors
    /// When the time is over, with ssh's last complaint.
    pub fn wait_boot(&self, before: &str, limit: Duration) -> Result<String> {
        let end = Instant::now() + limit;
        loop {
            // What is shared is with the machine before it. The connection that answers is the one to go on with: sshd makes
            // who hangs up too often without a log-in wait (PerSourcePenalties, sshd_config(5)).
            self.hang_up();
            let ssh = self.sharing(self.ssh_within(ANSWER_IN_BOOT));
            let ran = self.run_by(ssh, "cat /proc/sys/kernel/random/boot_id")?;
            let id = ran.stdout.trim();
            if ran.status == 0 && id != before {
                return Ok(id.to_owned());
            }
            if Instant::now() > end {
                bail!(
                    "ssh did not answer within {limit:?} (boot {before:?}): {} {}",
                    id,
                    ran.stderr
                );
            }
            // A refused connection answers at once: without a pause this would be a busy loop. A machine that is still up
            // spends half a second of an emulated processor on each answer.
            sleep(Duration::from_millis(if ran.status == 0 { 2000 } else { 300 }));
        }
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap_or(255),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a command to its end, without input; one that is not over after `limit` is killed.
///
/// # Errors
/// When it cannot be started, or took longer; with what it had printed by then.
pub fn output_within(mut command: Command, limit: Duration) -> Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().with_context(|| format!("start {:?}", command.get_program()))?;
    let pid = Pid::from_child(&child);
    let (ended, end) = mpsc::channel::<()>();
    let guard = std::thread::spawn(move || {
        let late = end.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout);
        if late {
            let _ = kill_process(pid, Signal::KILL);
        }
        late
    });
    let output = child.wait_with_output();
    drop(ended);
    let late = guard.join().unwrap_or(false);
    let output = output.with_context(|| format!("wait for {:?}", command.get_program()))?;
    ensure!(
        !late,
        "killed after {limit:?}: {:?}\n{}{}",
        command.get_args().last().unwrap_or_default(),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output)
}

/// One word for the shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
