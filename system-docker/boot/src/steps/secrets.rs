//! What stands after ` -- ` on the kernel command line is for the configuration only: from here on `/proc/cmdline` and
//! this process's own arguments, which everybody may read, are without it.
//!
//! ```text
//!  /run/ros/cmdline          the whole line, root's: the configuration's layer is read from here
//!  /run/ros/cmdline.public   what stands before ` -- `; bound over /proc/cmdline here and in every container
//! ```

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use cloud_config::cmdline;
use ros_api::durable::named;
use ros_api::paths;

/// Hides what is to be hidden; on most machines nothing is.
pub fn hide() -> io::Result<String> {
    let line = Path::new("/proc/cmdline");
    let text = fs::read_to_string(line).map_err(|e| named("read", line, &e))?;
    let Some(public) = cmdline::public(&text) else { return Ok("none".into()) };
    let public_file = Path::new(paths::RUN_CMDLINE_PUBLIC);
    write(Path::new(paths::RUN_CMDLINE), text.trim_end(), 0o600)?;
    write(public_file, public, 0o444)?;
    rustix::mount::mount_bind(public_file, line)
        .map_err(|e| named("bind over", line, &e.into()))?;
    // The kernel log has the whole line.
    let restrict = Path::new("/proc/sys/kernel/dmesg_restrict");
    fs::write(restrict, "1").map_err(|e| named("write", restrict, &e))?;
    forget_arguments()?;
    Ok("hidden".into())
}

fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(mode);
    let mut file = options.open(path).map_err(|e| named("create", path, &e))?;
    file.write_all(format!("{text}\n").as_bytes()).map_err(|e| named("write", path, &e))
}

/// The kernel gave PID 1 what stands after ` -- ` as its arguments: all but the first become zeros, where they are.
fn forget_arguments() -> io::Result<()> {
    let memory = Path::new("/proc/self/mem");
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (start, end) =
        arguments(&stat).ok_or_else(|| io::Error::other("/proc/self/stat: no arguments in it"))?;
    let file = OpenOptions::new().read(true).write(true).open(memory);
    let file = file.map_err(|e| named("open", memory, &e))?;
    let mut words = vec![0; usize::try_from(end - start).map_err(io::Error::other)?];
    file.read_exact_at(&mut words, start).map_err(|e| named("read", memory, &e))?;
    let first = words.iter().position(|byte| *byte == 0).unwrap_or(words.len());
    words[first..].fill(0);
    file.write_all_at(&words, start).map_err(|e| named("write", memory, &e))
}

/// Where the arguments are: proc_pid_stat(5), fields 48 and 49; the third follows the name's bracket.
fn arguments(stat: &str) -> Option<(u64, u64)> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(48 - 3);
    let (start, end) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    (0 < start && start <= end).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// In a process of its own: the test's own arguments are the harness's.
    #[test]
    fn arguments_are_forgotten() {
        const CHILD: &str = "ROS_TEST_FORGETS";
        if std::env::var_os(CHILD).is_some() {
            forget_arguments().unwrap();
            println!("left: {:?}", fs::read("/proc/self/cmdline").unwrap());
            return;
        }
        let ended = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "steps::secrets::tests::arguments_are_forgotten", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&ended.stdout);
        let left = said.lines().find(|line| line.contains("left: ")).unwrap_or_default();
        // The letters of "nocapture".
        assert!(left.contains(", 0, 0, 0") && !left.contains("110, 111, 99, 97, 112"), "{said}");
    }

    #[test]
    fn a_name_with_brackets_hides_no_field() {
        let fields: Vec<String> = (3..53).map(|number| (number * 10).to_string()).collect();
        let stat = format!("1 (a) b (c)) {}", fields.join(" "));
        assert_eq!(arguments(&stat), Some((480, 490)));
        assert_eq!(arguments("1 (init) S 1 2"), None);
    }
}
