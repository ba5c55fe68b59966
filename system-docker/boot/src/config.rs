//! What the boot stage wants of the configuration: a name, kernel settings, modules, commands. A layer that
//! cannot be read is a complaint, and the boot goes on with the others.

use cloud_config::settings::Command;
use cloud_config::{Diagnostic, Loaded, Sources};

/// Settings that are applied before the daemon starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Early {
    /// `hostname`
    pub hostname: Option<String>,
    /// `ros.sysctl`
    pub sysctl: Vec<(String, String)>,
    /// `ros.modules`: a name, and options after it.
    pub modules: Vec<String>,
    /// `bootcmd`: each is a program with its arguments.
    pub bootcmd: Vec<Vec<String>>,
}

/// Reads and merges every layer; also gives the complaints.
pub fn load() -> (Early, Vec<String>) {
    let Loaded { settings, diagnostics, .. } = cloud_config::load(&Sources::machine());
    let early = Early {
        hostname: Some(settings.host_name().to_owned()),
        sysctl: settings.ros.sysctl.into_iter().collect(),
        modules: settings.ros.modules,
        bootcmd: settings.bootcmd.iter().map(Command::words).collect(),
    };
    (early, diagnostics.iter().map(Diagnostic::line).collect())
}
