//! The boot stage's own kernel arguments (`ros.generation`, `ros.state.*`, `ros.recovery`, `ros.on_failure`,
//! `ros.watchdog`, `ros.debug`; `rancher.` is read as `ros.`). Everything else on the command line is not
//! for here. A value that is not understood is a complaint, and the default.

use std::time::Duration;

/// Parsed arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Args {
    /// `ros.generation=2`: chosen by the boot loader.
    pub generation: Option<u32>,
    /// `ros.state.*`.
    pub state: StateArgs,
    /// `ros.recovery`: a shell, devices up, nothing mounted.
    pub recovery: bool,
    /// `ros.on_failure=shell|reboot`.
    pub on_failure: OnFailure,
    /// `ros.watchdog=60`: seconds; 0 is off.
    pub watchdog: u32,
    /// `ros.debug`.
    pub debug: bool,
}

/// Where STATE is, and what to do when it is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateArgs {
    /// `ros.state.dev`.
    pub device: StateDevice,
    /// `ros.state.autoformat`.
    pub autoformat: Autoformat,
    /// `ros.state.wait`; none when not given.
    pub wait: Option<Duration>,
    /// `ros.state.required`.
    pub required: bool,
}

/// `ros.state.dev`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateDevice {
    /// `LABEL=…`
    Label(String),
    /// `UUID=…`
    Uuid(String),
    /// `/dev/…`
    Path(String),
    /// `none`: everything in RAM.
    None,
}

/// `ros.state.autoformat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Autoformat {
    /// Never.
    No,
    /// The first empty disk.
    Any,
    /// One of these, when it is empty.
    Disks(Vec<String>),
}

/// `ros.on_failure`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// A shell for whoever presses Enter in time; else a reboot.
    Shell,
    /// A reboot.
    Reboot,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            generation: None,
            state: StateArgs {
                device: StateDevice::Label(ros_api::paths::STATE_LABEL.into()),
                autoformat: Autoformat::No,
                wait: None,
                required: false,
            },
            recovery: false,
            on_failure: OnFailure::Shell,
            watchdog: 60,
            debug: false,
        }
    }
}

impl Args {
    /// Parses `/proc/cmdline`; also gives the complaints.
    #[must_use]
    pub fn parse(cmdline: &str) -> (Self, Vec<String>) {
        let mut args = Self::default();
        let mut complaints = Vec::new();
        for word in cmdline.split_whitespace() {
            let (key, value) = word.split_once('=').unwrap_or((word, "true"));
            let Some(name) = key.strip_prefix("ros.").or_else(|| key.strip_prefix("rancher."))
            else {
                continue;
            };
            if args.set(name, value.trim_matches('"')).is_none() {
                complaints.push(format!(
                    "kernel argument {word}: the value is not understood and is ignored"
                ));
            }
        }
        (args, complaints)
    }

    /// Takes one argument over; `None` when its value makes no sense. Names that are not ours are fine.
    fn set(&mut self, name: &str, value: &str) -> Option<()> {
        match name {
            "generation" => self.generation = Some(value.parse().ok()?),
            "recovery" => self.recovery = boolean(value)?,
            "debug" => self.debug = boolean(value)?,
            "watchdog" => self.watchdog = value.parse().ok()?,
            "on_failure" => self.on_failure = on_failure(value)?,
            "state.dev" => self.state.device = state_device(value)?,
            "state.wait" => self.state.wait = wait(value)?,
            "state.required" => self.state.required = boolean(value)?,
            "state.autoformat" => self.state.autoformat = autoformat(value)?,
            _ => {}
        }
        Some(())
    }
}

/// Seconds; RancherOS's words mean as long as it takes usually, and not at all.
fn wait(value: &str) -> Option<Option<Duration>> {
    match value.parse::<u32>() {
        Ok(seconds) => Some(Some(Duration::from_secs(seconds.into()))),
        Err(_) => Some((!boolean(value)?).then_some(Duration::ZERO)),
    }
}

fn boolean(value: &str) -> Option<bool> {
    match value {
        "true" | "yes" | "on" | "1" => Some(true),
        "false" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

fn on_failure(value: &str) -> Option<OnFailure> {
    match value {
        "shell" => Some(OnFailure::Shell),
        "reboot" => Some(OnFailure::Reboot),
        _ => None,
    }
}

fn state_device(value: &str) -> Option<StateDevice> {
    match value.split_once('=') {
        Some(("LABEL", label)) if !label.is_empty() => Some(StateDevice::Label(label.into())),
        Some(("UUID", uuid)) if !uuid.is_empty() => Some(StateDevice::Uuid(uuid.to_lowercase())),
        None if value == "none" => Some(StateDevice::None),
        None if value.starts_with("/dev/") => Some(StateDevice::Path(value.into())),
        _ => None,
    }
}

/// A boolean, `/dev/vda`, or `[/dev/sda,/dev/vda]`.
fn autoformat(value: &str) -> Option<Autoformat> {
    if let Some(any) = boolean(value) {
        return Some(if any { Autoformat::Any } else { Autoformat::No });
    }
    let list = value.trim_start_matches('[').trim_end_matches(']');
    let disks: Vec<String> =
        list.split(',').map(|disk| disk.trim_matches('"').to_owned()).collect();
    disks.iter().all(|disk| disk.starts_with("/dev/")).then_some(Autoformat::Disks(disks))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_set() {
        let (args, complaints) = Args::parse(
            "console=ttyS0 ros.generation=7 rancher.state.dev=LABEL=X ros.state.autoformat=[/dev/sda,/dev/vda] \
             ros.state.wait=3 ros.state.required ros.on_failure=reboot ros.watchdog=0 ros.debug=false ros.hostname=x\n",
        );
        assert_eq!(complaints, Vec::<String>::new());
        assert_eq!((args.generation, args.watchdog, args.debug), (Some(7), 0, false));
        assert_eq!(args.state.device, StateDevice::Label("X".into()));
        assert_eq!(
            args.state.autoformat,
            Autoformat::Disks(vec!["/dev/sda".into(), "/dev/vda".into()])
        );
        assert_eq!((args.state.wait, args.state.required), (Some(Duration::from_secs(3)), true));
        assert_eq!(args.on_failure, OnFailure::Reboot);
        for (word, expected) in [("true", None), ("false", Some(Duration::ZERO))] {
            let (args, complaints) = Args::parse(&format!("rancher.state.wait={word}"));
            assert_eq!((args.state.wait, complaints), (expected, Vec::new()), "{word}");
        }
    }

    #[test]
    fn what_is_not_understood_is_a_complaint() {
        let broken = [
            "generation=x",
            "state.dev=sda",
            "state.wait=-1",
            "on_failure=panic",
            "recovery=maybe",
        ];
        for word in broken {
            let (args, complaints) = Args::parse(&format!("ros.{word}"));
            assert_eq!((args, complaints.len()), (Args::default(), 1), "{word}");
        }
    }
}
