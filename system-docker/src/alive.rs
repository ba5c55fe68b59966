//! A daemon that hangs is worse than one that ended: nobody starts it again, and nobody can ask it for anything.
//! So it ends: alarm(2) is set again and again by the task loop, and ends the process once the loop stands still.
//! PID 1 starts the next one; containers do not notice.

use std::time::Duration;

use nix::unistd::alarm;

/// How long the loop may stand still: longer than a slow disk lets a write wait.
pub const LIMIT: Duration = Duration::from_secs(90);

/// Ends this process by SIGALRM once the runtime that this is called in has stood still for `limit`.
pub fn or_end(limit: Duration) {
    let seconds = u32::try_from(limit.as_secs()).unwrap_or(u32::MAX).max(1);
    tokio::spawn(async move {
        loop {
            alarm::set(seconds);
            tokio::time::sleep(limit / 4).await;
        }
    });
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    const HANGS: &str = "HANGS";

    /// Run anew in a process of its own: the loop turns for longer than the limit, and then stands still.
    #[test]
    fn a_loop_that_turns_lives_and_one_that_stands_still_ends() {
        if std::env::var_os(HANGS).is_none() {
            let name = "alive::tests::a_loop_that_turns_lives_and_one_that_stands_still_ends";
            let mut test = Command::new(std::env::current_exe().unwrap());
            let output =
                test.args(["--exact", name, "--nocapture"]).env(HANGS, "1").output().unwrap();
            assert_eq!(output.status.signal(), Some(nix::libc::SIGALRM), "{output:?}");
            assert!(String::from_utf8_lossy(&output.stdout).contains("turned"), "{output:?}");
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            or_end(Duration::from_secs(1));
            tokio::time::sleep(Duration::from_secs(3)).await;
            println!("turned");
            std::thread::sleep(Duration::from_secs(60));
        });
    }
}
