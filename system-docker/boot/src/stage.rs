//! Runs the plan: each step is timed, told to the kernel log (`ros: [step] what it did, N ms`) and kept for
//! the boot report. A step that must not fail ends the boot here; what then happens is PID 1's to do.

use std::fs;
use std::io;
use std::path::Path;

use ros_api::boot::{BootReport, Mode, StepReport};
use ros_api::durable::named;
use ros_api::paths;

use crate::args::Args;
use crate::clock::since_kernel_ms;
use crate::kmsg;
use crate::plan::{self, Facts, OnError, Phase, Step};
use crate::steps::{self, Machine};

/// How the boot stage ended.
pub enum Outcome {
    /// The system can start.
    Ready,
    /// A recovery shell was asked for.
    Recovery,
    /// There is no system: which step, and why.
    Failed(String),
}

/// The machine after the boot stage, and what was done.
pub struct Booted {
    /// What the steps found out.
    pub machine: Machine,
    /// What they did.
    pub report: BootReport,
    /// How it ended.
    pub outcome: Outcome,
}

/// Boots.
pub fn run() -> Booted {
    let pid1_ms = since_kernel_ms();
    let mut stage = Stage { machine: Machine::new(), steps: Vec::new() };
    let outcome = stage.boot();
    let Stage { machine, steps } = stage;
    let report = BootReport {
        mode: if matches!(outcome, Outcome::Recovery) { Mode::Recovery } else { machine.mode },
        generation: machine.generation,
        version: machine.version.clone(),
        state_device: machine.state.as_ref().map(|state| state.node().display().to_string()),
        pid1_ms,
        daemon_ms: 0,
        steps,
    };
    Booted { machine, report, outcome }
}

struct Stage {
    machine: Machine,
    steps: Vec<StepReport>,
}

impl Stage {
    fn boot(&mut self) -> Outcome {
        let complaints = self.read_cmdline();
        let early = plan::early(&self.machine.args);
        if let Err(why) = self.phases(&early) {
            return Outcome::Failed(why);
        }
        for complaint in complaints {
            kmsg::warn(&complaint);
        }
        if self.machine.args.recovery {
            return Outcome::Recovery;
        }
        let preload = Path::new(paths::PRELOAD).is_dir();
        let facts = Facts { args: self.machine.args.clone(), preload, disk: self.machine.disk };
        match self.phases(&plan::system(&facts)) {
            Ok(()) => Outcome::Ready,
            Err(why) => Outcome::Failed(why),
        }
    }

    /// `/proc` is needed to know the plan; it is mounted for good by the plan's first step.
    fn read_cmdline(&mut self) -> Vec<String> {
        let proc = Path::new("/proc");
        let _ = fs::create_dir_all(proc);
        let _ =
            rustix::mount::mount("proc", proc, "proc", rustix::mount::MountFlags::empty(), None);
        let (args, complaints) =
            Args::parse(&fs::read_to_string("/proc/cmdline").unwrap_or_default());
        self.machine.args = args;
        complaints
    }

    fn phases(&mut self, phases: &[Phase]) -> Result<(), String> {
        for phase in phases {
            if self.machine.args.debug {
                kmsg::warn(&format!("phase {}", phase.name));
            }
            for step in &phase.steps {
                self.step(*step)?;
            }
        }
        Ok(())
    }

    fn step(&mut self, step: Step) -> Result<(), String> {
        let start_ms = since_kernel_ms();
        let result = steps::run(step, &mut self.machine);
        self.machine.watchdog.feed();
        let end_ms = since_kernel_ms();
        let (name, failed) = (step.name(), result.is_err());
        let note = result.unwrap_or_else(|e| e.to_string());
        let shown = if note.is_empty() { "done" } else { &note };
        let line = format!("[{name}] {shown}, {} ms", end_ms - start_ms);
        match (failed, step.on_error()) {
            (false, _) if self.machine.args.debug => kmsg::warn(&line),
            (false, _) => kmsg::info(&line),
            (true, OnError::GoOn) => kmsg::warn(&format!("{line} (failed, going on)")),
            (true, OnError::Stop) => kmsg::error(&format!("{line} (failed)")),
        }
        let stop = (failed && step.on_error() == OnError::Stop).then(|| format!("{name}: {note}"));
        self.steps.push(StepReport { name: name.into(), start_ms, end_ms, note, failed });
        stop.map_or(Ok(()), Err)
    }
}

/// Writes `/run/ros/boot.json`.
///
/// # Errors
/// When it cannot be written.
pub fn write_report(report: &BootReport) -> io::Result<()> {
    let path = Path::new(paths::BOOT_REPORT);
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(|e| named("create", dir, &e))?;
    }
    let temp = path.with_extension("new");
    fs::write(&temp, serde_json::to_vec_pretty(report)?).map_err(|e| named("write", &temp, &e))?;
    fs::rename(&temp, path).map_err(|e| named("rename onto", path, &e))
}
